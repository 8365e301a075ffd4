"""Collections of a table: those made of its rows, and the entries that a row is in them.

Layer 11: imports ``access``, ``database``, ``errors``, ``records``, ``schema``, ``sources``,
``store`` and ``visibility``. Asked on every page of a table or a row: nothing is read of a file
that holds no collection, and of one that does only what is about the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from datasette.utils import tilde_decode, tilde_encode

from .. import access, schema, visibility
from ..database import quoted, sqlite3
from ..errors import SourceError
from ..records import CollectionRecord
from ..sources import SourceSpec, entry_id_of
from ..store import Store
from .lookup import read
from .row_keys import RowKey

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

#: Collections of one table that its pages link.
MOST_COLLECTIONS = 5


async def collections_of_table(
    datasette: Datasette, request: Request, database: str, table: str
) -> list[CollectionRecord]:
    """Return the first few collections made of a table of the same file that the actor may see.

    Raises:
        SourceError: the file cannot be read.
    """
    if not (await visibility.holdings_of(datasette, database)).rules:
        return []
    db = datasette.get_database(database)
    return [
        record
        for record in await read(db, partial(_records, table=table))
        if await access.may_view_collection(datasette, request.actor, database, record)
    ]


@dataclass(frozen=True)
class RowEntry:
    """A row as an entry of a collection.

    Attributes:
        entry_id: its id there.
        path: that id as the end of an address.
    """

    collection: CollectionRecord
    entry_id: str
    path: str


async def entries_of_row(
    datasette: Datasette, request: Request, database: str, table: str
) -> list[RowEntry]:
    """Return the entries that the row of a row page is.

    Raises:
        SourceError: the file cannot be read.
    """
    records = await collections_of_table(datasette, request, database, table)
    if not records:
        return []
    key = [tilde_decode(part) for part in request.url_vars["pks"].split(",")]

    def find(conn: sqlite3.Connection) -> Iterator[RowEntry]:
        for record in records:
            with suppress(SourceError, sqlite3.OperationalError):
                entry = _find_entry(conn, record, table, key)
                if entry is not None:
                    yield entry

    return await read(datasette.get_database(database), lambda conn: list(find(conn)))


def _records(conn: sqlite3.Connection, table: str) -> list[CollectionRecord]:
    if not schema.has_collections(conn) or not schema.has_our_tables(conn):
        return []
    # A file may say anything of a source, also what is no JSON.
    names = conn.execute(
        "select name from _embed_collections where typeof(name) = 'text' and case"
        " when json_valid(source) then lower(json_extract(source, '$.table')) = lower(?)"
        " and json_extract(source, '$.is_elsewhere') is not 1 end order by name limit ?",
        (table, MOST_COLLECTIONS),
    ).fetchall()
    store = Store(conn)
    found = [store.find_collection(name) for (name,) in names]
    # What is left of a collection that another tool deleted is none, or is one of another source.
    return [record for record in found if record and _is_of(record, table)]


def _is_of(record: CollectionRecord, table: str) -> bool:
    named = (record.source or {}).get("table")
    return isinstance(named, str) and named.lower() == table.lower()


def _find_entry(
    conn: sqlite3.Connection, record: CollectionRecord, table: str, key: list[str]
) -> RowEntry | None:
    """Return the entry that a row is, if it is in the collection."""
    spec = SourceSpec.from_json(record.source or {})
    names = RowKey.of(conn, table).columns
    if len(names) != len(key):
        return None
    condition = " and ".join(f"{name} = ?" for name in names)
    columns = RowKey.of(conn, table, spec.id_columns).columns
    row = conn.execute(
        f"select {', '.join(columns)} from {quoted(table)} where {condition}", key
    ).fetchone()
    entry_id = entry_id_of(tuple(row)) if row else None
    found = conn.execute(
        "select 1 from embeddings where collection_id = ? and id = ?", (record.id, entry_id)
    ).fetchone()
    if entry_id is None or not found:
        return None
    # Several columns make an id that is written as in an address already.
    return RowEntry(record, entry_id, entry_id if len(columns) > 1 else tilde_encode(entry_id))
