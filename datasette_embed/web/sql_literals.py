"""SQL literals: values written into SQL that is kept, where no parameters can be kept beside it.

Layer 11: imports ``records``. Everything here is about quoting, and nothing about who may ask.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..records import is_storable

#: A text, a name, a comment, or a named parameter: the first three hide the fourth. What is
#: part of a name, ``$`` too, is said in SQLite's tokenize.c (IdChar).
_PARTS = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]
    | --[^\n]* | /\*.*?(?:\*/|\Z) | [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*
    | [:@$](?P<name>[\w$\x80-\U0010ffff]+)""",
    re.VERBOSE | re.DOTALL,
)


def literal(value: Any) -> str:
    """Return a value as SQL spells it.

    Raises:
        ValueError: SQL has no such value.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError("a whole number is too large for SQLite")
        return repr(value)
    if isinstance(value, float):
        return _float_literal(value)
    if not isinstance(value, str):
        raise ValueError("a list of values holds something else than texts and numbers")
    if not is_storable(value):
        raise ValueError("a value holds the character NUL, or half a character")
    return "'" + value.replace("'", "''") + "'"


def _float_literal(value: float) -> str:
    if math.isnan(value):
        return "null"  # as SQLite keeps it where it is bound
    if math.isinf(value):
        return "9e999" if value > 0 else "-9e999"
    return repr(value)


def parameters_of(sql: str) -> list[str]:
    """Return the names of the parameters in a query, each once."""
    return list(dict.fromkeys(part["name"] for part in _PARTS.finditer(sql) if part["name"]))


def with_values(sql: str, values: Mapping[str, Any]) -> str:
    """Return a query with the values of its named parameters in their place.

    A parameter that has no value stays.

    Raises:
        ValueError: as ``literal``.
    """

    def written(part: re.Match[str]) -> str:
        name = part["name"]
        return literal(values[name]) if name and name in values else part[0]

    return _PARTS.sub(written, sql)
