"""The entries of a collection, read whole: vector, content, metadata and hash.

Imports ``database``, ``records``, ``schema``, ``store``, ``values`` and ``vectors``. Reads in
windows, each in short reads of its own, so that nobody who writes to the file has to wait.
Nothing is written here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..database import read_snapshot, sqlite3
from ..records import CollectionRecord
from ..schema import columns_of
from ..store import Store
from ..vectors import ITEM_SIZE, blob_is_usable
from .values import StoredEntry

#: What files of an old LLM have not all of.
_COLUMNS = ("content", "metadata", "content_hash", "content_blob")


@dataclass(frozen=True)
class CollectionState:
    """What a collection was at one moment: equal to what it is now if nothing was changed.

    ``generation`` is None in a file without our triggers. There the number of entries has to
    do, which does not see that one entry took the place of another.
    """

    record: CollectionRecord | None
    generation: int | None = None
    count: int = 0


def state_of(store: Store, name: str) -> CollectionState:
    """Return what the collection of this name is now; without a record if there is none."""
    with read_snapshot(store.conn):
        if (record := store.find_collection(name)) is None:
            return CollectionState(None)
        return CollectionState(record, store.generation(record.id), store.count(record.id))


def iter_entries(
    store: Store, collection: CollectionRecord, window: int
) -> Iterator[list[tuple[StoredEntry, bool]]]:
    """Yield lists of (entry, whether its metadata had to be left out), in the order of ids."""
    # By the ends of a window: SQLite's JSON functions would cut an id at a NUL in it.
    sql = (
        f"select id, {_selected(store.conn)} from embeddings as e"
        " where collection_id = ? and id between ? and ? and typeof(id) = 'text'"
    )
    for rows in store.iter_embeddings(collection.id, window):
        found = store.conn.execute(sql, (collection.id, rows[0][0], rows[-1][0]))
        details = {row[0]: row[1:] for row in found}
        # One that was deleted since is no longer there, which the caller finds out.
        yield [
            _entry(entry_id, embedding, collection.dimensions, *details[entry_id])
            for entry_id, embedding in rows
            if entry_id in details
        ]


def find_entries(
    conn: sqlite3.Connection, collection: CollectionRecord, entry_ids: Sequence[str]
) -> dict[str, tuple[Any, ...]]:
    """Return ``id -> (embedding, content, metadata, content hash, blob)`` as stored."""
    rows = conn.execute(
        f"select e.id, e.embedding, {_selected(conn)}"
        " from json_each(?) as wanted cross join embeddings as e"
        " on e.collection_id = ? and e.id = wanted.value",
        (json.dumps(entry_ids), collection.id),
    )
    return {row[0]: row[1:] for row in rows}


def _selected(conn: sqlite3.Connection) -> str:
    present = columns_of(conn, "embeddings")
    return ", ".join(f"e.{name}" if name in present else "null" for name in _COLUMNS)


def _entry(
    entry_id: str,
    embedding: Any,
    dimensions: int | None,
    content: Any,
    metadata: Any,
    digest: Any,
    content_blob: Any,
) -> tuple[StoredEntry, bool]:
    is_object = metadata is None or _is_object(metadata)
    entry = StoredEntry(
        entry_id,
        embedding if _is_usable(embedding, dimensions) else None,
        content if isinstance(content, str) else None,
        metadata if is_object else None,
        digest if isinstance(digest, bytes) else None,
        content_blob if isinstance(content_blob, bytes) else None,
    )
    return entry, not is_object


def _is_usable(embedding: Any, dimensions: int | None) -> bool:
    """Say whether this is a vector of the collection that a search finds."""
    return (
        isinstance(embedding, bytes)
        and dimensions is not None
        and len(embedding) == ITEM_SIZE * dimensions
        and blob_is_usable(embedding)
    )


def _is_object(metadata: Any) -> bool:
    try:
        parsed = json.loads(metadata)
        json.dumps(parsed, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(parsed, dict)
