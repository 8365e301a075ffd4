"""Fields of a request: the right type, or a refusal that names the field."""

from __future__ import annotations

import pytest

from datasette_embed.web.fields import Fields
from datasette_embed.web.http import RequestError


def test_fields_given_have_their_types():
    """Each kind of field, as JSON has it."""
    fields = Fields(
        {"t": "é", "n": "x", "l": ["a", "b"], "yes": True, "i": 7, "f": 2, "none": None}
    )
    assert fields.text("t") == "é"
    assert fields.name("n") == "x"
    assert fields.names("l") == ("a", "b")
    assert fields.flag("yes") is True
    assert fields.integer("i", 1, most=10) == 7
    assert fields.number("f") == 2.0
    fields.refuse_others("t", "n", "l", "yes", "i", "f", "none")


@pytest.mark.parametrize("values", [{}, {"x": None}])
def test_fields_not_given_have_their_defaults(values):
    """Null is not given."""
    fields = Fields(values)
    assert fields.text("x") is None
    assert fields.name("x") is None
    assert fields.names("x") == ()
    assert fields.flag("x") is False
    assert fields.integer("x", 5, most=10) == 5
    assert fields.number("x") is None


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("text", 1, "'x' must be a text"),
        ("text", ["a"], "'x' must be a text"),
        ("text", "a\0", "'x' must not hold the character NUL"),
        ("name", " \n", "'x' must not be blank"),
        ("names", "a,b", "'x' must be a list of texts"),
        ("names", {"a": 1}, "'x' must be a list of texts"),
        ("names", ["a", 1], "'x' must be a text"),
        ("names", ["a", None], "'x' must be a list of texts"),
        ("names", ["a", ""], "'x' must not be blank"),
        ("flag", "true", "'x' must be true or false"),
        ("flag", 1, "'x' must be true or false"),
        ("number", "1", "'x' must be a number"),
        ("number", True, "'x' must be a number"),
        ("number", 10**400, "'x' must be a number"),
        ("number", [1], "'x' must be a number"),
    ],
)
def test_fields_of_another_type_refused(kind, value, message):
    """Nothing is turned into something else in silence."""
    with pytest.raises(RequestError) as caught:
        getattr(Fields({"x": value}), kind)("x")
    assert str(caught.value) == message
    assert caught.value.status == 400


@pytest.mark.parametrize("value", [0, -1, 11, 1.0, 2.5, True, "5", [5], 10**30])
def test_integer_out_of_bounds_or_of_another_type_refused(value):
    """In JSON a number is a number."""
    with pytest.raises(RequestError, match="^'x' must be a whole number from 1 to 10$"):
        Fields({"x": value}).integer("x", 1, most=10)


@pytest.mark.parametrize("value", ["", "0", "11", "-1", "1.5", "1e1", " 5", "٥", "9" * 5_000, "x"])
def test_integer_in_a_url_out_of_bounds_refused(value):
    """A megabyte of digits is no number to compute with."""
    with pytest.raises(RequestError, match="^'x' must be a whole number from 1 to 10$"):
        Fields({"x": value}, is_text=True).integer("x", 1, most=10)


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999", "x", ""])
def test_number_in_a_url_that_is_none_refused(value):
    """Python's float() takes more than numbers."""
    with pytest.raises(RequestError, match="^'x' must be a number$"):
        Fields({"x": value}, is_text=True).number("x")


def test_fields_in_a_url_are_read_from_text():
    """There everything is text."""
    fields = Fields({"i": "7", "f": "-0.25"}, is_text=True)
    assert fields.integer("i", 1, most=10) == 7
    assert fields.number("f") == -0.25


def test_refuse_others_names_the_mistake_and_what_there_is():
    """A misspelled field would be a mistake that nobody notices."""
    with pytest.raises(RequestError, match="^Unknown field 'tabel'. Fields: table, sql$"):
        Fields({"tabel": "t"}).refuse_others("table", "sql")
    with pytest.raises(RequestError, match="^Unknown field 'x'. Fields: none$"):
        Fields({"x": 1}).refuse_others()
