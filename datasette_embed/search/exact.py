"""Exact search: every vector of the collection is compared with the query.

Layer 6: imports ``errors``, ``vectors`` and ``store``. No index and no model belongs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import vectors
from ..errors import DimensionMismatchError, InvalidVectorError
from ..records import CollectionRecord
from ..store import Store


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


def nearest(
    store: Store,
    collection: CollectionRecord,
    query_blob: bytes,
    k: int,
    *,
    without: str | None = None,
) -> Hits:
    """Return the ``k`` entries most similar to a vector; ties are broken by id.

    Args:
        query_blob: the vector to compare with, as stored.
        without: an entry id to leave out.

    Raises:
        ValueError: ``k`` is below 1.
        InvalidVectorError: the query is no vector, zero, or not finite.
        DimensionMismatchError: it has another length than the collection's.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    query_vector = vectors.decode(query_blob)
    if collection.dimensions is not None and len(query_vector) != collection.dimensions:
        raise DimensionMismatchError(collection.dimensions, len(query_vector))
    if not vectors.blob_is_usable(query_blob):
        raise InvalidVectorError("the vector is zero, or has NaN or infinity in it")
    compare = vectors.dot_scores if collection.metric == "dot" else vectors.cosine_scores
    best: list[Hit] = []
    unusable = 0
    for window in store.iter_embeddings(collection.id):
        sound = [entry for entry in window if _is_comparable(entry[1], collection, query_blob)]
        unusable += len(window) - len(sound)
        if not sound:
            continue
        ids = [entry_id for entry_id, _ in sound]
        matrix = vectors.decode(b"".join(blob for _, blob in sound)).reshape(len(sound), -1)
        scores = compare(matrix, query_vector)
        # NaN: the stored vector is zero or not finite.
        unusable += int((scores != scores).sum())
        # One more than wanted, for the entry that is left out may be among them.
        places = vectors.best_k(scores, k + 1, ids)
        best += [Hit(ids[at], float(scores[at])) for at in places if ids[at] != without]
        best = sorted(best, key=lambda hit: (-hit.score, hit.entry_id))[:k]
    return Hits(best, unusable)


def _is_comparable(stored: Any, collection: CollectionRecord, query_blob: bytes) -> bool:
    if not isinstance(stored, bytes) or len(stored) != len(query_blob):
        return False
    # The cosine of a zero or infinite vector is NaN, its inner product may be any number.
    return collection.metric != "dot" or vectors.blob_is_usable(stored)
