"""Filter conditions: the filters of a table page as an SQL condition without parameters.

Layer 11: imports ``sources``. Datasette itself says what its operators mean in
SQL. Names are checked and values quoted here, so that whoever may see a table may choose rows of
it in this way without the right to run SQL of their own.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from urllib.parse import parse_qsl

from datasette.filters import Filters

from ..sources import SourceSpec
from .sql_literals import with_values

#: What would end a quoted name.
_QUOTES = frozenset('"[]`\0')


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


def condition_of(query_string: str, table: str, columns: Collection[str] | None = None) -> str:
    """Return the SQL condition that filters stand for; empty for none.

    Args:
        columns: those of the table; None does not look whether it has them.

    Raises:
        ValueError: a filter is none, names no column, or a name or value cannot be carried.
    """
    filters = Filters(filters_of(query_string))
    for column, operator, _ in filters.selections():
        if operator not in Filters._filters_by_key:
            raise ValueError(f"there is no filter '{operator}' here")
        if columns is not None and column not in columns:
            raise ValueError(f"the table has no column '{column}'")
        if _QUOTES & set(column + table):
            raise ValueError(f"a filter of '{column}' cannot be carried, for the quotes in names")
    try:
        conditions, parameters = filters.build_where_clauses(table)
    except (json.JSONDecodeError, TypeError, RecursionError) as error:
        raise ValueError("a list of values cannot be read") from error
    return " and ".join(with_values(condition, parameters) for condition in conditions)


def is_made_of_filters(spec: SourceSpec) -> bool:
    """Say whether the condition of a source is nothing but what its filters stand for.

    A file can say anything of itself: the condition is made once more and compared.
    """
    if not spec.table or not spec.filters or not spec.where:
        return False
    try:
        return condition_of(spec.filters, spec.table) == spec.where
    except ValueError:
        return False
