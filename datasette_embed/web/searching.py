"""Searching: the nearest entries of a collection, with one matrix for the whole server.

Layer 11: imports ``errors``, ``records``, ``searching``, ``settings`` and ``store``. Who may
search what is decided by the caller; no text is embedded here.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..database import sqlite3
from ..errors import CollectionNotFoundError, EntryNotFoundError, ModelMismatchError
from ..records import CollectionRecord
from ..searching.exact import Hits
from ..searching.exact import nearest as scan
from ..searching.shared import FileKey, SharedMatrices
from ..settings import get_settings
from ..store import Store
from .lookup import read

if TYPE_CHECKING:
    from datasette.app import Datasette
    from datasette.database import Database

_lock = threading.Lock()
_matrices: weakref.WeakKeyDictionary[Any, SharedMatrices] = weakref.WeakKeyDictionary()


async def nearest_in(
    datasette: Datasette,
    database: str,
    record: CollectionRecord,
    query_blob: bytes,
    k: int,
    *,
    without: str | None = None,
    prefix: str = "",
) -> Hits:
    """Return the ``k`` entries most similar to a vector, whoever wrote them last.

    Args:
        database: Datasette's name of the file that holds the collection.
        record: the collection whose model made the vector.
        query_blob: the vector to compare with, as stored.
        without: an entry id to leave out.
        prefix: only entries whose id begins with this.

    Raises:
        CollectionNotFoundError: the collection was deleted since ``record`` was read.
        ModelMismatchError: since then it was made anew with another model.
        SourceError: the file is gone, locked or damaged.
        EmbedError: as ``exact.nearest``.
    """
    db = datasette.get_database(database)
    matrices = matrices_of(datasette)

    def search(conn: sqlite3.Connection) -> Hits:
        store = Store(conn)
        current = _current(store, record)
        file = find_file_key(db)
        if file is None:
            return scan(store, current, query_blob, k, without=without, prefix=prefix)
        return matrices.nearest(file, store, current, query_blob, k, without=without, prefix=prefix)

    return await read(db, search)


async def find_entry(
    database: Database, record: CollectionRecord, entry_id: str, *, is_of_url: bool
) -> tuple[str, bytes]:
    """Return the id of an entry, and its vector.

    Args:
        is_of_url: whether the id came in a query string. There a + is a space, but not to
            somebody who copies the address of a row.

    Raises:
        EntryNotFoundError: the collection has no such entry.
    """

    def find(conn: sqlite3.Connection) -> tuple[str, bytes]:
        store = Store(conn)
        try:
            return entry_id, store.get_embedding(record, entry_id)
        except EntryNotFoundError:
            meant = entry_id.replace(" ", "+")
            if not is_of_url or meant == entry_id:
                raise
            with suppress(EntryNotFoundError):
                return meant, store.get_embedding(record, meant)
            raise

    return await read(database, find)


def _current(store: Store, record: CollectionRecord) -> CollectionRecord:
    current = store.find_collection(record.name)
    if current is None:
        raise CollectionNotFoundError(record.name)
    if current.model_id != record.model_id:
        raise ModelMismatchError(record.name, current.model_id, record.model_id)
    return current


def find_file_key(db: Database) -> FileKey | None:
    """Return which file a database of Datasette is; None where each thread has its own."""
    if db.path:
        path = os.path.realpath(db.path)
        if db.is_mutable:
            return FileKey(path)
        try:
            state = os.stat(path)
        except OSError:
            return None  # gone, or replaced this moment
        return FileKey(path, (state.st_ino, state.st_size, state.st_mtime_ns))
    return FileKey(("memory", db.memory_name)) if db.memory_name else None


def matrices_of(datasette: Datasette) -> SharedMatrices:
    """Return the matrices of a server, none yet at first."""
    with _lock:
        found = _matrices.get(datasette)
        if found is None:
            found = SharedMatrices(get_settings(datasette).matrix_cache_bytes)
            _matrices[datasette] = found
        return found
