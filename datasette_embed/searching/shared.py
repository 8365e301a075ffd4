"""Matrices that all connections of a server share: one for each collection of a file.

Layer 6: imports ``database``, ``errors``, ``records``, ``store``, ``exact`` and ``matrix``.
A server reads one file over several connections, in several threads; a matrix for each would
hold every vector several times. Nothing here knows Datasette.

A connection cannot see what another has counted (``pragma data_version`` is its own), so a
shared matrix is known to be current by the collection's generation, read in the searcher's
own snapshot. Where nobody keeps that number the file is scanned.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from ..database import read_snapshot
from ..records import CollectionRecord
from ..store import Store
from .exact import Hits, Query, nearest
from .matrix import Matrix, counted_generation, load

#: Bytes that one id takes beside its vector: a str of 20 characters and its place in a list.
_ID_BYTES = sys.getsizeof("x" * 20) + 8


@dataclass(frozen=True)
class FileKey:
    """Which file a connection reads.

    Attributes:
        name: the same for every connection to the file, and for no other file.
        version: of a file that cannot change; None for one that may be written to.
    """

    name: Hashable
    version: Hashable | None = None


@dataclass
class _Place:
    """Where the matrix of one collection is kept.

    Attributes:
        lock: held by the one who reads the vectors, so that others wait for them.
        size: bytes taken, or about to be.
        held: the matrix and the stamp of the moment it was read, replaced as one.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    size: int = 0
    held: tuple[Hashable, Matrix] | None = None


class SharedMatrices:
    """Matrices of many collections, bounded in bytes, least recently used out first.

    For threads that read over a connection, not for a SQL function: there SQLite holds the
    connection while a function waits for a lock, and the garbage collector of the thread
    that has the lock may wait for that connection (see ``executor``).

    Args:
        max_bytes: the most memory all of them may take; a collection that is larger by
            itself is scanned in the file.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._places: OrderedDict[Hashable, _Place] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        """The memory the vectors and their ids take, in bytes."""
        with self._lock:
            return sum(place.size for place in self._places.values())

    def nearest(
        self,
        file: FileKey,
        store: Store,
        collection: CollectionRecord,
        query_blob: bytes,
        k: int,
        *,
        without: str | None = None,
        prefix: str = "",
    ) -> Hits:
        """Return what ``exact.nearest`` returns, of the file as it is now.

        Args:
            file: which file ``store`` is a connection to.

        Raises:
            EmbedError: as ``exact.nearest``; ValueError too.
        """
        with read_snapshot(store.conn):
            query = Query(collection, query_blob)
            matrix = self._current(file, store, collection, query) if k > 0 else None
            if matrix is not None:
                return matrix.nearest(store, query, k, without=without, prefix=prefix)
            return nearest(store, collection, query_blob, k, without=without, prefix=prefix)

    def _current(
        self, file: FileKey, store: Store, collection: CollectionRecord, query: Query
    ) -> Matrix | None:
        """Return the matrix of this snapshot; None for one that cannot be kept."""
        stamp = file.version if file.version is not None else counted_generation(store, collection)
        if stamp is None:
            return None
        key = (file.name, collection.id, len(query.blob), query.is_dot)
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
        if (held := place.held) is not None and held[0] == stamp:
            return held[1]
        with place.lock:
            if (held := place.held) is not None and held[0] == stamp:
                return held[1]  # somebody else read it meanwhile
            place.held = held = None  # not two of them in memory at once
            matrix = None
            try:
                size = store.count(collection.id) * (len(query.blob) + _ID_BYTES)
                matrix = load(store, query) if self._make_room(key, place, size) else None
            finally:
                if matrix is None:
                    self._drop(key, place)
            place.held = None if matrix is None else (stamp, matrix)
            return matrix

    def _make_room(self, key: Hashable, place: _Place, size: int) -> bool:
        """Take bytes for a place, from those not used for longest; say whether there are."""
        with self._lock:
            place.size = 0
            # Others may have dropped it while this thread waited.
            self._places[key] = place
            used = sum(other.size for other in self._places.values())
            # A place whose matrix is being read this moment cannot give anything back.
            idle = [
                name
                for name, other in self._places.items()
                if other.size and other.held is not None
            ]
            free = self._max_bytes - used
            if free + sum(self._places[name].size for name in idle) < size:
                return False
            for name in idle:
                if free >= size:
                    break
                free += self._places.pop(name).size
            place.size = size
            return True

    def _drop(self, key: Hashable, place: _Place) -> None:
        with self._lock:
            place.size = 0
            if self._places.get(key) is place:
                del self._places[key]
