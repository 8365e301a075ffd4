"""Filter conditions: the filters of a table page as an SQL condition without parameters.

Layer 11: imports ``records`` and ``sources``. Datasette itself says what its operators mean in
SQL. Names are checked and values quoted here, so that whoever may see a table may choose rows of
it in this way without the right to run SQL of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from datasette.filters import Filters

from ..records import is_storable
from ..sources import SourceSpec
from .sql_literals import literal, with_values

#: More filters than anybody writes; each is looked at for every row.
MOST_FILTERS = 50
#: Parameters of a table page that leave out rows, but have no place in a collection.
NOT_CARRIED = ("_search", "_through", "_similar")
#: What would end a quoted name.
_QUOTES = frozenset('"[]`\0')
#: Of a name that is wrong, how much a message repeats.
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Filter:
    """One filter of an address.

    Attributes:
        name: the parameter.
        value: its value.
        words: what it says, for people.
    """

    name: str
    value: str
    words: str

    @property
    def column(self) -> str:
        """The column that it looks at."""
        return self.name.rpartition("__")[0] if "__" in self.name else self.name

    @property
    def operator(self) -> str:
        """What Datasette calls that which it does."""
        return _operator_of(self.name)


def is_filter(name: str) -> bool:
    """Say whether a parameter of a table page is a filter, as ``TableView`` decides it."""
    return not name.startswith("_") or "__" in name


def filters_of(query_string: str) -> list[tuple[str, str]]:
    """Return the filters in the query string of a table page, as Datasette sorts them."""
    pairs = parse_qsl(query_string, keep_blank_values=True)
    return sorted(pair for pair in pairs if is_filter(pair[0]))


def describe_filters(query_string: str) -> str:
    """Return what a table page says of its filters, 'where author = "simon"', or nothing."""
    return str(Filters(filters_of(query_string)).human_description_en())


def read_filters(pairs: Iterable[tuple[str, str]]) -> list[Filter]:
    """Return filters that can be used, in the order they are given.

    Args:
        pairs: name and value of each.

    Raises:
        ValueError: there are too many, no such operator, or it cannot be used on the value.
    """
    pairs = list(pairs)
    if len(pairs) > MOST_FILTERS:
        raise ValueError(f"at most {MOST_FILTERS} filters can be used at once")
    return [_read(name, value) for name, value in pairs]


def require_columns(filters: Iterable[Filter], table: str, columns: Collection[str]) -> None:
    """Refuse filters of what a table has not.

    Raises:
        ValueError: naming the column.
    """
    for filter_ in filters:
        if filter_.column not in columns:
            column = filter_.column[:_SHOWN_CHARACTERS]
            raise ValueError(f"'{table}' has no column {column!r} to filter by")


def clauses_of(filters: Iterable[Filter], table: str) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions of filters that were read, and their named parameters."""
    pairs = [(filter_.name, filter_.value) for filter_ in filters]
    clauses, values = Filters(pairs).build_where_clauses(table)
    return list(clauses), dict(values)


def condition_of(query_string: str, table: str, columns: Collection[str] | None = None) -> str:
    """Return the SQL condition that filters stand for; empty for none.

    Args:
        columns: those of the table; None does not look whether it has them.

    Raises:
        ValueError: a filter is none, names no column, or a name or value cannot be carried.
    """
    filters = read_filters(filters_of(query_string))
    if columns is not None:
        require_columns(filters, table, columns)
    return _condition(filters, table)


def is_made_of_filters(spec: SourceSpec) -> bool:
    """Say whether the condition of a source is nothing but what its filters stand for.

    A file can say anything of itself: the condition is made once more and compared. It may
    have been made under another version of Datasette, which spells some numbers as texts.
    """
    if not spec.table or not spec.filters or not spec.where:
        return False
    for spelled in (None, _as_in_version_zero, _as_in_version_one):
        with suppress(ValueError):
            filters = read_filters(filters_of(spec.filters))
            if _condition(filters, spec.table, spelled) == spec.where:
                return True
    return False


def _operator_of(name: str) -> str:
    return name.rpartition("__")[2] if "__" in name else "exact"


def _read(name: str, value: str) -> Filter:
    shown = repr(name[:_SHOWN_CHARACTERS])
    if _operator_of(name) not in Filters._filters_by_key:
        known = ", ".join(sorted(Filters._filters_by_key))
        raise ValueError(f"{shown} is no filter. Filters: {known}, as in column__contains")
    if not is_storable(value):
        raise ValueError(f"{shown} must not hold the character NUL")
    alone = Filters([(name, value)])
    try:
        words = alone.human_description_en().removeprefix("where ")
        values = alone.build_where_clauses("t")[1].values()
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{shown}: the value cannot be read") from error
    try:
        for each in values:
            literal(each)
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error
    return Filter(name, value, words)


def _condition(
    filters: Iterable[Filter], table: str, spelled: Callable[[str], Any] | None = None
) -> str:
    """Return the condition of filters.

    Args:
        spelled: what a value is that is compared with numbers; None leaves it to Datasette.

    Raises:
        ValueError: a name or a value cannot be carried.
    """
    conditions = []
    for filter_ in filters:
        if _QUOTES & set(filter_.column + table):
            raise ValueError(
                f"a filter of '{filter_.column}' cannot be carried, for the quotes in names"
            )
        clauses, values = clauses_of([filter_], table)
        if spelled and getattr(Filters._filters_by_key[filter_.operator], "numeric", False):
            values = {name: spelled(filter_.value) for name in values}
        conditions += [with_values(clause, values) for clause in clauses]
    return " and ".join(conditions)


def _as_in_version_zero(value: str) -> Any:
    """Return what Datasette 0.65 binds where it compares with numbers."""
    return int(value) if value.isdigit() else value


def _as_in_version_one(value: str) -> Any:
    """Return what Datasette 1.0 binds where it compares with numbers."""
    with suppress(ValueError):
        return int(value)
    with suppress(ValueError):
        number = float(value)
        return number if math.isfinite(number) else value
    return value
