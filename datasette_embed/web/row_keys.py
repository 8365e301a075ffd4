"""Row keys: the rows of a table that belong to the entries of a collection.

Layer 11: imports ``database``, ``entry_id_parts`` and ``errors``. An entry's id is the text of
its row's key, so the key is compared in such a way that 1 and '1' meet and an index can still
be used. No value of a request or a file gets into the SQL text, only names of columns that exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasette.utils import tilde_decode

from ..database import quoted, sqlite3
from ..entry_id_parts import id_number
from ..errors import SourceError

_ROWIDS = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True)
class RowKey:
    """What names a row of a table or view.

    Attributes:
        columns: SQL expressions.
        are_typed: of each, whether SQLite makes what it is compared with its own type.
    """

    columns: tuple[str, ...]
    are_typed: tuple[bool, ...]

    @classmethod
    def of(cls, conn: sqlite3.Connection, table: str, id_columns: Sequence[str] = ()) -> RowKey:
        """Return the key by which a collection names the rows of a table.

        Args:
            id_columns: the columns its source names; empty for the primary key, or the
                rowid, or of a view the first column.

        Raises:
            SourceError: there is no such column.
        """
        # Not table_info, which leaves generated columns out.
        types = {
            name: str(kind or "")
            for name, kind in conn.execute("select name, type from pragma_table_xinfo(?)", (table,))
        }
        names = list(id_columns) or _key_of(conn, table, list(types))
        expressions, typed = [], []
        for name in names:
            if name in types:
                expressions.append(quoted(name))
                typed.append(_is_typed(types[name]))
            elif name.lower() in _ROWIDS:
                expressions.append(name)
                typed.append(True)
            else:
                # SQLite would take an unknown name in quotes for a text.
                raise SourceError(f"'{table}'", f"has no column '{name}' to tell its rows apart")
        return cls(tuple(expressions), tuple(typed))

    def condition(self, parameter: str) -> str:
        """Return the SQL condition on a row; the parameter is a JSON array of ``values``."""
        if len(self.columns) == 1:
            return f"{self.columns[0]} in (select value from json_each(:{parameter}))"
        parts = [f"json_extract(value, '$[{n}]')" for n in range(len(self.columns))]
        return (
            f"({', '.join(self.columns)}) in "
            f"(select {', '.join(parts)} from json_each(:{parameter}))"
        )

    def values(self, entry_ids: Sequence[str]) -> list[Any]:
        """Return what the rows of these entries may hold in their keys, for ``condition``."""
        if len(self.columns) == 1:
            return [value for entry_id in entry_ids for value in self._forms(entry_id, 0)]
        keys = []
        for entry_id in entry_ids:
            # Datasette's own form of a compound key, the same as in its URLs.
            parts = [tilde_decode(part) for part in entry_id.split(",")]
            if len(parts) == len(self.columns):
                forms = [self._forms(part, n) for n, part in enumerate(parts)]
                keys += [list(key) for key in itertools.product(*forms)]
        return keys

    def _forms(self, text: str, column: int) -> list[Any]:
        """Return the values whose text this is, where the column's type does not decide.

        A typed column turns the text into its own type, exactly.
        """
        number = None if self.are_typed[column] else id_number(text)
        return [text] if number is None else [text, number]


def _key_of(conn: sqlite3.Connection, table: str, names: list[str]) -> list[str]:
    """Return the columns of the primary key, the rowid, or a view's first column."""
    keys = conn.execute(
        "select name from pragma_table_info(?) where pk > 0 order by pk", (table,)
    ).fetchall()
    if keys:
        return [row[0] for row in keys]
    is_table = conn.execute(
        "select 1 from sqlite_master where type = 'table' and name = ? collate nocase", (table,)
    ).fetchone()
    taken = {name.lower() for name in names}
    for alias in _ROWIDS if is_table else ():
        if alias not in taken:
            try:
                conn.execute(f"select {alias} from {quoted(table)} limit 0")
            except sqlite3.OperationalError:
                break  # a virtual table without rowids
            return [alias]
    return names[:1]


def _is_typed(declared: str) -> bool:
    """Say whether a column of this type makes a text that is a number the number.

    ANY does in most tables, but not in a STRICT one (https://sqlite.org/stricttables.html).
    """
    return bool(declared) and declared.upper() != "ANY" and "BLOB" not in declared.upper()
