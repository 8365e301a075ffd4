"""Watches as rows of the database: which collections follow their table, and what changed.

Layer 6: imports ``database``, ``errors``, ``records``, ``schema``, ``signing``, ``store`` and
``watch_triggers``. A file may be a stranger's, so a watch counts only with a signature made
on this machine. Nothing here embeds or reads a source.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import schema, signing
from .database import sqlite3
from .errors import SourceError
from .records import CollectionRecord
from .store import Store
from .watch_triggers import EVERYTHING, drop_triggers, has_watch_tables, list_triggers

#: Most watches of one file: a look costs no more, whatever a stranger has put into it.
MOST_WATCHES = 1_000
_COLUMNS = "collection_id, table_name, key_column, allows_paid, signature, created_at"


@dataclass(frozen=True)
class WatchRecord:
    """One row of ``_embed_watches``, as the file has it.

    Attributes:
        table: the table whose triggers note what changes.
        key_column: the column that is the entry's id; None where several are.
        allows_paid: whether changes may be embedded with a model that costs money.
        signature: proof that the watch was set up on this machine.
        created_at: UTC, ISO 8601.
    """

    collection_id: int
    table: str
    key_column: str | None
    allows_paid: bool
    signature: str | None
    created_at: str


@dataclass(frozen=True)
class Changes:
    """What was noted for a collection, at one moment.

    Attributes:
        numbers: key -> the number of its last change.
        unreadable: the numbers of changes whose key is no UTF-8.
    """

    numbers: dict[str, int]
    unreadable: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers) + len(self.unreadable)

    @property
    def is_everything(self) -> bool:
        """Whether every row is to be compared, for the keys alone do not say which."""
        return EVERYTHING in self.numbers or bool(self.unreadable)


class Watches:
    """The watches of one file. Writing methods run inside the caller's transaction."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

    def list_watches(self) -> list[WatchRecord]:
        """Return all watches by collection; none for a file of an earlier version."""
        if not has_watch_tables(self.conn):
            return []
        rows = self.conn.execute(f"select {_COLUMNS} from _embed_watches order by collection_id")
        return [_read_watch(row) for row in rows.fetchall()]

    def list_watched(self) -> list[tuple[CollectionRecord, WatchRecord]]:
        """Return the watched collections with their watches: the first ``MOST_WATCHES``."""
        if not has_watch_tables(self.conn) or not schema.has_collections(self.conn):
            return []
        rows = self.conn.execute(
            f"select c.name, {_COLUMNS} from (select {_COLUMNS} from _embed_watches"
            " order by collection_id limit ?) join collections as c on c.id = collection_id"
            " where typeof(c.name) = 'text'",
            (MOST_WATCHES,),
        ).fetchall()
        found = []
        for name, *row in rows:
            watch, record = _read_watch(row), Store(self.conn).find_collection(name)
            if record is not None and record.id == watch.collection_id:
                found.append((record, watch))
        return found

    def find_watch(self, collection_id: int) -> WatchRecord | None:
        """Return the watch of a collection, or None."""
        if not has_watch_tables(self.conn):
            return None
        row = self.conn.execute(
            f"select {_COLUMNS} from _embed_watches where collection_id = ?", (collection_id,)
        ).fetchone()
        return _read_watch(row) if row else None

    def is_signed(self, watch: WatchRecord, collection: CollectionRecord) -> bool:
        """Say whether somebody set up this watch, in this file, on this machine.

        Raises:
            SourceError: the secret cannot be read.
        """
        return signing.is_signed(watch.signature, *self._signed_parts(watch, collection))

    def _signed_parts(self, watch: WatchRecord, collection: CollectionRecord) -> list[str]:
        """Return what a signature vouches for: all that decides what is read, and who pays.

        The file too: a row copied into another one is not what anybody asked for.
        """
        file = str(self.conn.execute("pragma database_list").fetchone()[2])
        return [
            "watch",
            os.path.realpath(file),
            str(collection.id),
            collection.name,
            collection.model_id,
            json.dumps(collection.source, sort_keys=True),
            watch.table,
            str(watch.key_column),
            str(int(watch.allows_paid)),
            watch.created_at,
        ]

    def write_watch(self, watch: WatchRecord, collection: CollectionRecord) -> None:
        """Write a watch, signed by this machine, in the place of an earlier one.

        Raises:
            SourceError: the file has as many as are looked at.
            EmbedError: the secret to sign with cannot be kept.
        """
        self.conn.execute("delete from _embed_watches where collection_id = ?", (collection.id,))
        if self.conn.execute("select count(*) from _embed_watches").fetchone()[0] >= MOST_WATCHES:
            raise SourceError(
                f"collection '{collection.name}'",
                f"cannot be watched: its file has {MOST_WATCHES:,} watches already",
            )
        self.conn.execute(
            "insert into _embed_watches (collection_id, table_name, key_column, allows_paid,"
            " signature, created_at) values (?, ?, ?, ?, ?, ?)",
            (
                collection.id,
                watch.table,
                watch.key_column,
                int(watch.allows_paid),
                signing.sign(*self._signed_parts(watch, collection)),
                watch.created_at,
            ),
        )

    def note_everything(self, collection_id: int) -> None:
        """Have every row of a collection's source compared once."""
        self.conn.execute(
            "delete from _embed_changes where collection_id = ? and key = ?",
            (collection_id, EVERYTHING),
        )
        self.conn.execute(
            "insert into _embed_changes (collection_id, key, change) values (?, ?, random())",
            (collection_id, EVERYTHING),
        )

    def has_changes(self, collection_id: int) -> bool:
        """Say whether anything was noted for a collection."""
        return bool(
            self.conn.execute(
                "select 1 from _embed_changes where collection_id = ? limit 1", (collection_id,)
            ).fetchone()
        )

    def read_changes(self, collection_id: int) -> Changes:
        """Return what has been noted for a collection so far."""
        with _reading_any_text(self.conn):
            rows = self.conn.execute(
                "select key, change from _embed_changes where collection_id = ?", (collection_id,)
            ).fetchall()
        return Changes(
            {key: change for key, change in rows if isinstance(key, str)},
            tuple(change for key, change in rows if not isinstance(key, str)),
        )

    def forget_changes(self, collection_id: int, changes: Changes) -> None:
        """Delete what was dealt with; a row that has changed again since stays noted."""
        self.conn.executemany(
            "delete from _embed_changes where collection_id = ? and key = ? and change = ?",
            [(collection_id, key, change) for key, change in changes.numbers.items()],
        )
        self.conn.executemany(
            "delete from _embed_changes where collection_id = ? and change = ?",
            [(collection_id, change) for change in changes.unreadable],
        )

    def delete_watch(self, collection_id: int) -> bool:
        """Delete a watch with its triggers and what was noted; return whether there was any."""
        found = drop_triggers(self.conn, collection_id) > 0
        if has_watch_tables(self.conn):
            for table in ("_embed_watches", "_embed_changes"):
                found |= (
                    self.conn.execute(
                        f"delete from {table} where collection_id = ?", (collection_id,)
                    ).rowcount
                    > 0
                )
        return found

    def list_orphans(self) -> list[tuple[int, str]]:
        """Return (collection id, table) of triggers, and of watches, that serve no collection.

        The table is empty where only rows are left.
        """
        watched = {watch.collection_id for watch in self.list_watches()}
        served = {record.id for record in Store(self.conn).list_collections()} & watched
        found = {number: table for _, number, table in list_triggers(self.conn)}
        for number in watched:
            found.setdefault(number, "")
        return sorted((number, table) for number, table in found.items() if number not in served)

    def delete_orphans(self) -> int:
        """Delete what serves no collection; return of how many there was something."""
        orphans = self.list_orphans()
        for number, _ in orphans:
            self.delete_watch(number)
        return len(orphans)


def rename_watched(
    conn: sqlite3.Connection, before: CollectionRecord, after: CollectionRecord
) -> None:
    """Sign the watch of a renamed collection again, if it was signed here."""
    watches = Watches(conn)
    watch = watches.find_watch(before.id)
    if watch is not None and watches.is_signed(watch, before):
        watches.write_watch(watch, after)


def _read_watch(row: Sequence[Any]) -> WatchRecord:
    number, table, key, allows_paid, signature, created_at = row
    return WatchRecord(
        number,
        str(table),
        None if key is None else str(key),
        bool(allows_paid),
        signature if isinstance(signature, str) else None,
        str(created_at),
    )


@contextmanager
def _reading_any_text(conn: sqlite3.Connection) -> Iterator[None]:
    """Let text that is no UTF-8 come as bytes during the block."""

    def decoded(data: bytes) -> str | bytes:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data

    before = conn.text_factory
    conn.text_factory = decoded
    try:
        yield
    finally:
        conn.text_factory = before
