"""The rows of a table that changed, as a source a job can run over.

Layer 8: imports ``database``, ``errors``, ``records`` and ``sources``. Which rows changed is
told by the caller; how a row becomes an entry is the same as for the whole table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .database import sqlite3, translated
from .errors import SourceError
from .records import Row
from .sources import Source, SourceSpec, entry_id_of

#: Keys of one look into the table.
_KEYS_PER_LOOK = 500
#: The same where each of them may be an image.
_IMAGES_PER_LOOK = 4
_INT64 = 2**63


class ChangedRows(Source):
    """Those rows of a table whose entry id is one of the given.

    An id of which there is no row (any more) is simply not met, so that a job that removes
    what it does not meet removes its entry.

    Args:
        conn: a connection of its own to the file that holds the rows.
        spec: the source of the whole collection, complete.
        path: named in errors.
        ids: entry ids.

    Raises:
        SourceError: as ``Source``; ids made of several columns cannot be looked up.
    """

    def __init__(
        self, conn: sqlite3.Connection, spec: SourceSpec, path: str, ids: Iterable[str]
    ) -> None:
        super().__init__(conn, spec, path)
        if not spec.table or len(self._ids) != 1:
            raise SourceError(path, f"rows of {self.name} cannot be looked up by one column")
        # No row of a collection has an id with NUL in it, at which SQLite's JSON would end it.
        self._only = frozenset(entry_id for entry_id in ids if "\0" not in entry_id)

    @property
    def only(self) -> frozenset[str]:
        """The entry ids this source speaks of."""
        return self._only

    def iter_windows(self, size: int = 1_000) -> Iterator[list[Row]]:
        """Yield the rows in lists of at most ``size``.

        Raises:
            SourceError: two rows have one id; the file cannot be read (any longer).
        """
        ids = sorted(self._only)
        met: set[str] = set()
        step = max(1, min(size, _IMAGES_PER_LOOK if self.spec.image else _KEYS_PER_LOOK))
        for start in range(0, len(ids), step):
            rows: dict[str, Row] = {}
            for record in self._read(ids[start : start + step]):
                entry_id = entry_id_of(record[:1])
                # The column's own idea of equality may have found more, as "a" for "A".
                if entry_id is None or entry_id not in self._only or entry_id in met:
                    continue
                if entry_id in rows:
                    raise SourceError(
                        self.path, f"the ids are not unique: '{entry_id}' comes more than once"
                    )
                rows[entry_id] = self._row(record[:1], record[1:])
            met.update(rows)
            if rows:
                yield list(rows.values())

    def _read(self, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        # A column without a type keeps 1 and '1' apart.
        numbers = [int(entry_id) for entry_id in ids if _is_integer(entry_id)]
        with translated(self.path):
            records: list[tuple[Any, ...]] = self.conn.execute(
                f"select {', '.join([*self._ids, *self._texts])} from {self._from}"
                f" where {self._where}"
                f" and {self._ids[0]} in (select value from json_each(?))",
                (json.dumps([*ids, *numbers]),),
            ).fetchall()
        return records


def _is_integer(text: str) -> bool:
    """Say whether a text is what SQLite makes of an integer."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 19:
        return False
    return str(int(text)) == text and -_INT64 <= int(text) < _INT64
