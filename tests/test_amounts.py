"""Amounts as people read them."""

from __future__ import annotations

import pytest

from datasette_embed import amounts


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "1 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3569, "59 min"),
        (3599, "1 h"),
        (7800, "2 h 10 min"),
        (200_000, "2 days"),
    ],
)
def test_duration_in_two_units_at_most(seconds, expected):
    """As people say it."""
    assert amounts.duration_text(seconds) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0 bytes"), (999, "999 bytes"), (836_800, "836.8 kB"), (2_500_000_000, "2.5 GB")],
)
def test_sizes_in_units_of_a_thousand(size, expected):
    """As disks are sold."""
    assert amounts.size_text(size) == expected


@pytest.mark.parametrize(
    ("dollars", "expected", "reckoned"),
    [
        (0, "$0.00", "about $0.00"),
        (0.0001, "under $0.01", "under $0.01"),
        (0.01, "$0.01", "about $0.01"),
        (1234.5, "$1,234.50", "about $1,234.50"),
    ],
)
def test_money_that_is_something_is_never_nothing(dollars, expected, reckoned):
    """A tenth of a cent is not free, and nobody says ``about under``."""
    assert amounts.money_text(dollars) == expected
    assert amounts.about_money_text(dollars) == reckoned


def test_rows_are_one_or_many():
    """And thousands are grouped."""
    assert [amounts.rows_text(n) for n in (0, 1, 5673)] == ["0 rows", "1 row", "5,673 rows"]


@pytest.mark.parametrize(
    ("dollars", "text"),
    [(0.1, "$0.10"), (0.13, "$0.13"), (0.005, "$0.005"), (2, "$2.00"), (0, "$0.00")],
)
def test_price_text_all_digits_that_count(dollars, text):
    """At least cents, and no rounding."""
    assert amounts.price_text(dollars) == f"{text} per million tokens"
