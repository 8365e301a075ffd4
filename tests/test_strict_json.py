"""JSON as its standard has it."""

from __future__ import annotations

import json

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": 1, "b": 1}}', '^"b" is there twice$'),
        ("[1e999]", "^a number is too large$"),
        ('["\\ud800"]', "half a character"),
        ('{"\\udc00": 1}', "half a character"),
        ("[" * 100_000, "^nested too deeply$"),
    ],
)
def test_json_value_strict_refuses_what_readers_disagree_on(text, message):
    """What another program would read as something else, or could not store."""
    with pytest.raises(ValueError, match=message):
        json_value(text, is_strict=True)


@pytest.mark.parametrize("text", ['{"a": 1, "b": {"a": 2}}', '"\\ud83d\\ude00"', "[1e30, 2]"])
def test_json_value_strict_takes_what_is_plain(text):
    """The same name in two objects, a character of two halves, a large number."""
    assert json_value(text, is_strict=True) == json.loads(text)
