"""The entries of a collection, read whole: vector, content, metadata and hash.

Imports ``schema``, ``values`` and ``vectors``. Reads in windows, each in a short read of its
own, so that nobody who writes to the file has to wait. Nothing is written here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..database import sqlite3
from ..records import CollectionRecord
from ..schema import columns_of
from ..vectors import ITEM_SIZE
from .values import StoredEntry

#: What files of an old LLM have not all of.
_COLUMNS = ("content", "metadata", "content_hash", "content_blob")


def iter_entries(
    conn: sqlite3.Connection, collection: CollectionRecord, window: int
) -> Iterator[list[tuple[StoredEntry, bool]]]:
    """Yield lists of (entry, whether its metadata had to be left out), in the order of ids."""
    sql = (
        f"{_select(conn)} where e.collection_id = ? and e.id {{}} ? and typeof(e.id) = 'text'"
        " order by e.id limit ?"
    )
    comparison, last = ">=", ""
    while rows := conn.execute(sql.format(comparison), (collection.id, last, window)).fetchall():
        yield [_entry(row, collection.dimensions) for row in rows]
        comparison, last = ">", rows[-1][0]


def count_without_id(conn: sqlite3.Connection, collection: CollectionRecord) -> int:
    """Return how many entries of a damaged file have an id that is no text."""
    row = conn.execute(
        "select count(*) from embeddings where collection_id = ? and typeof(id) <> 'text'",
        (collection.id,),
    ).fetchone()
    return int(row[0])


def find_entries(
    conn: sqlite3.Connection, collection: CollectionRecord, entry_ids: Sequence[str]
) -> dict[str, tuple[Any, ...]]:
    """Return ``id -> (embedding, content, metadata, content hash, blob)`` as stored."""
    rows = conn.execute(
        f"{_select(conn, 'json_each(?) as wanted cross join embeddings')}"
        " where e.collection_id = ? and e.id = wanted.value",
        (json.dumps(entry_ids), collection.id),
    )
    return {row[0]: row[1:] for row in rows}


def _select(conn: sqlite3.Connection, tables: str = "embeddings") -> str:
    present = columns_of(conn, "embeddings")
    columns = [f"e.{name}" if name in present else "null" for name in _COLUMNS]
    return f"select e.id, e.embedding, {', '.join(columns)} from {tables} as e"


def _entry(row: tuple[Any, ...], dimensions: int | None) -> tuple[StoredEntry, bool]:
    entry_id, embedding, content, metadata, digest, content_blob = row
    is_object = metadata is None or _is_object(metadata)
    entry = StoredEntry(
        entry_id,
        embedding if _is_whole(embedding, dimensions) else None,
        content if isinstance(content, str) else None,
        metadata if is_object else None,
        digest if isinstance(digest, bytes) else None,
        content_blob if isinstance(content_blob, bytes) else None,
    )
    return entry, not is_object


def _is_whole(embedding: Any, dimensions: int | None) -> bool:
    """Say whether this is a vector of the collection: its length, and finite."""
    import numpy as np

    if not isinstance(embedding, bytes) or not dimensions:
        return False
    if len(embedding) != ITEM_SIZE * dimensions:
        return False
    return bool(np.isfinite(np.frombuffer(embedding, dtype="<f4")).all())


def _is_object(metadata: Any) -> bool:
    try:
        parsed = json.loads(metadata)
        json.dumps(parsed, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(parsed, dict)
