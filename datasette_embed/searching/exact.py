"""Exact search: every vector of the collection is compared with the query.

Layer 6: imports ``errors``, ``vectors``, ``records`` and ``store``. Vectors are read from the
file window by window, so any collection fits; ``matrix`` keeps them in memory. No index and
no model belongs here.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .. import vectors
from ..errors import DimensionMismatchError, InvalidVectorError
from ..records import CollectionRecord
from ..store import Store

#: A float32 sum of n products of two unit vectors errs by at most n times this (Higham,
#: Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1).
ROUNDING = 2.0**-24


@dataclass(frozen=True)
class Hit:
    """One entry found. ``score`` is a similarity: higher is nearer."""

    entry_id: str
    score: float


@dataclass(frozen=True)
class Hits:
    """The nearest entries, best first, and how many entries could not be compared.

    ``unusable`` counts stored values that are no vector of the collection's dimensions,
    are zero, or hold NaN or infinity.
    """

    hits: list[Hit]
    unusable: int = 0


class Query:
    """A vector to search a collection for, checked.

    Args:
        blob: the vector, as stored.

    Raises:
        InvalidVectorError: it is no vector, zero, or not finite.
        DimensionMismatchError: it has another length than the collection's.
        OutdatedCollectionError: the collection holds vectors of two versions of its model.
    """

    def __init__(self, collection: CollectionRecord, blob: bytes) -> None:
        collection.check_not_rebuilding()
        self.vector = vectors.decode(blob)
        if collection.dimensions is not None and len(self.vector) != collection.dimensions:
            raise DimensionMismatchError(
                collection.dimensions, len(self.vector), collection.model_id
            )
        if not vectors.blob_is_usable(blob):
            raise InvalidVectorError("the vector is zero, or has NaN or infinity in it")
        self.blob = blob
        self.collection_id = collection.id
        self.is_dot = collection.metric == "dot"

    @property
    def scored_vector(self) -> vectors.Vectors:
        """The vector whose inner products with the rows are the scores, for rows of length 1."""
        return self.vector if self.is_dot else vectors.normalize(self.vector)

    def tolerance(self, longest: float) -> float:
        """Return how far a float32 score may be from the exact one.

        Args:
            longest: the length of the longest of the rows it is compared with.
        """
        scale = longest * vectors.longest(self.vector) if self.is_dot else 1.0
        return len(self.vector) * ROUNDING * scale

    def rank(self, candidates: Iterable[tuple[str, bytes]], k: int) -> list[Hit]:
        """Return the k best of (entry id, blob), scored in float64; ties by id."""
        measure = vectors.dot if self.is_dot else vectors.cosine
        scored = ((entry_id, measure(blob, self.blob)) for entry_id, blob in candidates)
        hits = [Hit(entry_id, score) for entry_id, score in scored if score is not None]
        return sorted(hits, key=lambda hit: (-hit.score, hit.entry_id))[:k]

    def is_comparable(self, stored: Any) -> bool:
        """Say whether a stored value is a vector like this one, as far as is cheap to tell."""
        if not isinstance(stored, bytes) or len(stored) != len(self.blob):
            return False
        # The cosine of a zero or infinite vector is NaN, its inner product may be any number.
        return not self.is_dot or vectors.blob_is_usable(stored)


def nearest(
    store: Store,
    collection: CollectionRecord,
    query_blob: bytes,
    k: int,
    *,
    without: str | None = None,
    prefix: str = "",
) -> Hits:
    """Return the ``k`` entries most similar to a vector; ties are broken by id.

    Args:
        query_blob: the vector to compare with, as stored.
        without: an entry id to leave out.
        prefix: only entries whose id begins with this.

    Raises:
        ValueError: ``k`` is below 1.
        InvalidVectorError: the query is no vector, zero, or not finite.
        DimensionMismatchError: it has another length than the collection's.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    query = Query(collection, query_blob)
    best: list[tuple[float, str, bytes]] = []
    unusable, tolerance = 0, 0.0
    for window in store.iter_embeddings(collection.id, prefix=prefix, size=len(query_blob)):
        sound = [entry for entry in window if query.is_comparable(entry[1])]
        unusable += len(window) - len(sound)
        if not sound:
            continue
        matrix = vectors.decode(b"".join(blob for _, blob in sound)).reshape(len(sound), -1)
        # At length 1 first, or the products of tiny numbers would vanish.
        rows = matrix if query.is_dot else vectors.normalize(matrix)
        scores = vectors.dot_scores(rows, query.scored_vector)
        # NaN: the stored vector is zero or not finite.
        unusable += int((scores != scores).sum())
        # One more than wanted, for the entry that is left out may be among them.
        tolerance = max(tolerance, query.tolerance(vectors.longest(matrix)))
        found = vectors.contenders(scores, k + 1, tolerance).tolist()
        best += [(float(scores[at]), *sound[at]) for at in found if sound[at][0] != without]
        if len(best) > k:
            worst = heapq.nlargest(k, (score for score, _, _ in best))[-1]
            best = [entry for entry in best if entry[0] >= worst - 2 * tolerance]
    return Hits(query.rank(((entry_id, blob) for _, entry_id, blob in best), k), unusable)
