"""Result filters: ``column__op=value`` of a table page, as conditions on the rows of a result.

Layer 11: imports nothing but its neighbours. What the filters are, and their words, is
Datasette's ``Filters``; values stay named parameters.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasette.filters import Filters

from .http import RequestError
from .result_sql import NO_CONDITIONS, Conditions, Rows

if TYPE_CHECKING:
    from datasette import Request

#: More conditions than anybody writes; each is looked at for every row.
_MOST_FILTERS = 50


@dataclass(frozen=True)
class Filter:
    """One condition of the address.

    Attributes:
        name: the parameter.
        value: its value.
        words: what it says, for people.
    """

    name: str
    value: str
    words: str


def read_filters(request: Request, *own: str) -> list[Filter]:
    """Return the filters of an address.

    Args:
        own: parameters that are none. Those that begin with _ are Datasette's.

    Raises:
        RequestError: there is no such operator, or it cannot be used on the value.
    """
    pairs = urllib.parse.parse_qsl(request.query_string, keep_blank_values=True)
    pairs = [pair for pair in pairs if pair[0] not in own and not _is_special(pair[0])]
    if len(pairs) > _MOST_FILTERS:
        raise RequestError(f"At most {_MOST_FILTERS} filters can be used at once")
    known = {key for key, _, _ in Filters([]).lookups()}
    found = []
    for name, value in pairs:
        if "__" in name and name.rpartition("__")[2] not in known:
            raise RequestError(
                f"{name[:100]!r} is no filter. Filters: {', '.join(sorted(known))}, "
                "as in column__contains"
            )
        if "\0" in value:
            raise RequestError(f"{name[:100]!r} must not hold the character NUL")
        try:
            words = Filters([(name, value)]).human_description_en().removeprefix("where ")
        except (ValueError, TypeError, RecursionError) as error:
            raise RequestError(f"{name[:100]!r}: the value cannot be read") from error
        found.append(Filter(name, value, words))
    return found


def conditions_of(filters: Sequence[Filter], rows: Rows | None) -> Conditions:
    """Return the filters as SQL over a table.

    Raises:
        RequestError: the rows are in no table of this file, or it has no such column.
    """
    if not filters:
        return NO_CONDITIONS
    if rows is None:
        raise RequestError("The rows of this collection are in no table here to filter by")
    for filter_ in filters:
        column = filter_.name.rpartition("__")[0] or filter_.name
        if column not in rows.all_columns:
            raise RequestError(f"'{rows.table}' has no column {column[:100]!r} to filter by")
    pairs = [(filter_.name, filter_.value) for filter_ in filters]
    try:
        clauses, params = Filters(pairs).build_where_clauses(rows.called)
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError("The value of a filter cannot be read") from error
    numbers = [f":{name}" for name, value in params.items() if isinstance(value, int | float)]
    return Conditions(
        tuple(_as_number(clause, numbers) for clause in clauses),
        {name: str(value) for name, value in params.items()},
    )


def _is_special(name: str) -> bool:
    """Say whether Datasette takes a parameter for one of its own, not for a column."""
    return name.startswith("_") and "__" not in name


def _as_number(clause: str, numbers: Sequence[str]) -> str:
    """Return a condition that compares with the number that a text in the address is.

    Datasette binds a number there; in the address of a query every parameter is a text.
    """
    for name in numbers:
        if clause.endswith(f" {name}"):
            return f"{clause.removesuffix(name)}({name} + 0)"
    return clause
