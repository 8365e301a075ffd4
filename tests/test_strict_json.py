"""JSON as its standard has it."""

from __future__ import annotations

import pytest

from datasette_embed.strict_json import json_value


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}), ('"NaN"', "NaN"), ("true", True)],
)
def test_json_value_of_json_is_its_value(text, value):
    """What is JSON comes back as Python has it."""
    assert json_value(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "^NaN is not JSON$"),
        ("[Infinity]", "^Infinity is not JSON$"),
        ('{"a": -Infinity}', "^-Infinity is not JSON$"),
        ("[" * 100_000, "^nested too deeply$"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
    ],
)
def test_json_value_of_anything_else_refused(text, message):
    """What Python's reader would take, or die of, is a ValueError like any other fault."""
    with pytest.raises(ValueError, match=message):
        json_value(text)
