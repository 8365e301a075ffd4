"""SQL literals: values written into SQL that is kept, where no parameters can be kept beside it.

Layer 11: imports nothing of ours. Everything here is about quoting, and nothing about who may ask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: A text, a name, a comment, or a named parameter: the first three hide the fourth.
_PARTS = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]
    | --[^\n]* | /\*.*?(?:\*/|\Z) | [:@$](?P<name>[A-Za-z_][A-Za-z0-9_]*)""",
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
    if isinstance(value, int | float):
        # A number that SQLite would read as another, or as none, is compared as text.
        return repr(value) if abs(value) < 2**63 else f"'{value!r}'"
    if not isinstance(value, str):
        raise ValueError("a list of values holds something else than texts and numbers")
    if "\0" in value:
        raise ValueError("a value holds the character NUL")
    return "'" + value.replace("'", "''") + "'"


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
