"""Result filters: ``column__op=value`` of a table page, as conditions on the rows of a result.

Layer 11: imports nothing but its neighbours. What a filter is, is in ``filter_conditions``;
texts and numbers to compare with stay named parameters.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import filter_conditions
from .filter_conditions import Filter, clauses_of, is_filter, require_columns
from .http import RequestError
from .result_sql import NO_CONDITIONS, Conditions, Rows
from .sql_literals import with_values

if TYPE_CHECKING:
    from datasette import Request


def read_filters(request: Request, *own: str) -> list[Filter]:
    """Return the filters of an address.

    Args:
        own: parameters that are none. Those that begin with _ are Datasette's.

    Raises:
        RequestError: there is no such operator, or it cannot be used on the value.
    """
    pairs = urllib.parse.parse_qsl(request.query_string, keep_blank_values=True)
    try:
        return filter_conditions.read_filters(
            pair for pair in pairs if pair[0] not in own and is_filter(pair[0])
        )
    except ValueError as error:
        message = str(error)
        raise RequestError(message[0].upper() + message[1:]) from error


def conditions_of(filters: Sequence[Filter], rows: Rows | None) -> Conditions:
    """Return the filters as SQL over a table.

    Raises:
        RequestError: the rows are in no table of this file, or it has no such column.
    """
    if not filters:
        return NO_CONDITIONS
    if rows is None:
        raise RequestError("The rows of this collection are in no table here to filter by")
    try:
        require_columns(filters, rows.table, rows.all_columns)
    except ValueError as error:
        raise RequestError(str(error)) from error
    clauses, values = clauses_of(filters, rows.called)
    params: dict[str, str] = {}
    for number, clause in enumerate(clauses):
        name = clause.rpartition(" :")[2]
        if isinstance(values.get(name), int | float):
            # Datasette binds a number there; in the address of a query a parameter is a text.
            clauses[number] = f"{clause.removesuffix(f':{name}')}(:{name} + 0)"
            params[name] = str(values.pop(name))
    params |= {name: value for name, value in values.items() if isinstance(value, str)}
    # A list of values may hold numbers, or null, which no address can say.
    others = {name: value for name, value in values.items() if not isinstance(value, str)}
    return Conditions(tuple(with_values(clause, others) for clause in clauses), params)
