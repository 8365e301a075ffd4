"""A collection's vectors in memory, searched exactly, and read again when the file changes.

Layer 6: imports ``database``, ``entries``, ``schema``, ``store``, ``vectors`` and ``exact``.
What a scan of the file finds is found here too, entry by entry and score by score. For one
connection; ``shared`` has one matrix for all connections of a server.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from .. import vectors
from ..database import read_snapshot
from ..entries import end_of_prefix
from ..records import CollectionRecord
from ..schema import missing_triggers
from ..store import Store
from .exact import Hits, Query, nearest

#: The most memory one matrix may take; a larger collection is scanned in the file.
LARGEST_MATRIX_BYTES = 512 * 1024 * 1024


class _Stamp(NamedTuple):
    """What tells one state of a collection from another.

    Attributes:
        changes: SQLite's count of commits by others, and of rows changed by this connection.
        generation: the collection's number, where all triggers that keep it are there.
        shape: the collection's id, the length of the query, and whether its inner
            products are the scores.
    """

    changes: tuple[int, int]
    generation: int | None
    shape: tuple[int, int, bool]


@dataclass(frozen=True)
class Matrix:
    """The usable vectors of a collection at one moment.

    Attributes:
        ids: in SQLite's order, which is Python's.
        rows: float32, ``(n, dimensions)``; of length 1 unless the metric is ``dot``.
        unusable_ids: the entries left out, in the same order.
        longest: the length of the longest row.
    """

    ids: list[str]
    rows: vectors.Vectors
    unusable_ids: list[str]
    longest: float

    def nearest(
        self, store: Store, query: Query, k: int, *, without: str | None = None, prefix: str = ""
    ) -> Hits:
        """Return what ``exact.nearest`` returns.

        Args:
            store: the file, as it was when the matrix was read: the blobs of the best
                are read again to be compared exactly.
        """
        span = _span(self.ids, prefix)
        scores = vectors.dot_scores(self.rows[span], query.scored_vector)
        # One more than wanted, for the entry that is left out may be among them.
        found = vectors.contenders(scores, k + 1, query.tolerance(self.longest))
        ids = [self.ids[span.start + at] for at in found.tolist()]
        wanted = [entry_id for entry_id in ids if entry_id != without]
        blobs = store.find_embeddings(query.collection_id, wanted)
        unusable = _span(self.unusable_ids, prefix)
        return Hits(query.rank(blobs.items(), k), unusable.stop - unusable.start)


class MatrixSearch:
    """Searches a collection, again and again, over one connection.

    Args:
        store: the file; its connection is the one whose changes are watched.
        largest_bytes: the most memory the vectors may take.
    """

    def __init__(self, store: Store, largest_bytes: int = LARGEST_MATRIX_BYTES) -> None:
        self._store = store
        self._largest_bytes = largest_bytes
        self._stamp: _Stamp | None = None
        self._matrix: Matrix | None = None

    def nearest(
        self,
        collection: CollectionRecord,
        query_blob: bytes,
        k: int,
        *,
        without: str | None = None,
        prefix: str = "",
    ) -> Hits:
        """Return what ``exact.nearest`` returns.

        Raises:
            EmbedError: as ``exact.nearest``; ValueError too.
        """
        conn = self._store.conn
        # In a transaction of the caller rows may be taken back, which no count tells.
        if not conn.in_transaction:
            query = Query(collection, query_blob)
            with read_snapshot(conn):
                matrix = self._current(collection, query)
                if matrix is not None and k > 0:
                    return matrix.nearest(self._store, query, k, without=without, prefix=prefix)
        return nearest(self._store, collection, query_blob, k, without=without, prefix=prefix)

    def _current(self, collection: CollectionRecord, query: Query) -> Matrix | None:
        """Return the matrix of the file as it is now.

        None for one that is too large, and for a file whose ids are not in Python's order.
        """
        changes, shape = self._changes(), (collection.id, len(query.blob), query.is_dot)
        known = self._stamp if self._matrix is not None else None
        if known is not None and known[::2] == (changes, shape):
            return self._matrix
        stamp = _Stamp(changes, self._generation(collection), shape)
        if known is None or stamp.generation is None or known[1:] != stamp[1:]:
            self._matrix = None  # not two of them in memory at once
            self._matrix = self._load(collection, query)
        self._stamp = stamp
        return self._matrix

    def _changes(self) -> tuple[int, int]:
        conn = self._store.conn
        return conn.execute("pragma data_version").fetchone()[0], conn.total_changes

    def _generation(self, collection: CollectionRecord) -> int | None:
        return counted_generation(self._store, collection)

    def _load(self, collection: CollectionRecord, query: Query) -> Matrix | None:
        size = len(query.blob) * self._store.count(collection.id)
        return load(self._store, query) if size <= self._largest_bytes else None


def counted_generation(store: Store, collection: CollectionRecord) -> int | None:
    """Return the collection's number, None where not every change is counted."""
    return None if missing_triggers(store.conn) else store.generation(collection.id)


def load(store: Store, query: Query) -> Matrix | None:
    """Read the vectors that can be compared with a query, in a snapshot of the caller's.

    None for a file whose ids are not in Python's order.
    """
    import numpy as np

    if not store.is_utf8:
        return None
    count = store.count(query.collection_id)
    matrix = np.empty((count, len(query.vector)), dtype=np.float32)
    ids: list[str] = []
    unusable: list[str] = []
    for window in store.iter_embeddings(query.collection_id, size=len(query.blob)):
        sound = [entry for entry in window if query.is_comparable(entry[1])]
        unusable += [entry[0] for entry in window if not query.is_comparable(entry[1])]
        rows = vectors.decode(b"".join([b"", *(blob for _, blob in sound)]) or query.blob)
        rows = rows.reshape(-1, len(query.vector))[: len(sound)]
        if not query.is_dot:
            rows = vectors.normalize(rows)
        # The rows of zero and infinite vectors are NaN throughout.
        usable = ~np.isnan(rows[:, 0])
        unusable += [i for (i, _), is_usable in zip(sound, usable, strict=True) if not is_usable]
        matrix[len(ids) : len(ids) + int(usable.sum())] = rows[usable]
        ids += [i for (i, _), is_usable in zip(sound, usable, strict=True) if is_usable]
    rows = matrix[: len(ids)]
    longest = vectors.longest(rows) if query.is_dot else 1.0
    return Matrix(ids, rows, sorted(unusable), longest)


def _span(ids: list[str], prefix: str) -> slice:
    """Return where the ids that begin with a prefix lie in a sorted list."""
    end = end_of_prefix(prefix)
    start = bisect_left(ids, prefix)
    return slice(start, len(ids) if end is None else bisect_left(ids, end, lo=start))
