"""The nearest entries of every entry of a collection, exactly.

Layer 7: imports ``records``, ``store`` and ``vectors``. Beside ``vectors``, which compares
one query with many rows, this is the place for arithmetic of all rows with all rows. No
table but ``embeddings`` is read here, and nothing is written.

A product of matrices in float32 is fast, and never wrong by more than a known margin. It
chooses the candidates; their scores, and with them the order, are then computed one pair at
a time in float64, so that a pair has one score whoever asks and beside whatever else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ..records import CollectionRecord
from ..store import Store
from ..vectors import ITEM_SIZE, decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

#: Called with the number of entries done and the number there are.
Report = Callable[[int, int], None]

#: Most bytes of one array of intermediate results; about four of them exist at a time.
BLOCK_BYTES = 16 * 1024 * 1024
#: With more candidates than this for one entry, float64 chooses among them first.
_MOST_CANDIDATES = 1_000
_DIGEST_BYTES = 16
#: Added to the score of what cannot be chosen; any other score is at least -1.
_PENALTY = -4.0


@dataclass(frozen=True)
class CollectionVectors:
    """The usable vectors of a collection.

    A vector is kept times a power of two that brings its length into [0.5, 1): that changes
    no digit, and no product can overflow.

    Attributes:
        ids: in SQLite's order, which is Python's. A *place* is a position in this list.
        digests: of the stored bytes, 16 bytes each.
        matrix: float32, ``(n, dimensions)``.
        exponents: the power of two, ``(n,)``: what is stored is ``matrix * 2 ** exponents``.
        squares: the inner product of each row of the matrix and itself, ``(n,)``.
        is_dot: whether the score is the inner product; otherwise it is the cosine.
        left_out: how many entries have no usable vector.
    """

    ids: list[str]
    digests: list[bytes]
    matrix: NDArray[np.float32]
    exponents: NDArray[np.int64]
    squares: Floats
    is_dot: bool = False
    left_out: int = 0

    def score(self, first: Places, second: Places) -> Floats:
        """Return the scores of pairs of places, each as if it were the only one.

        Returns:
            float64, as long as both lists; a cosine lies in [-1, 1].
        """
        import numpy as np

        products = _inner_products(self.matrix, first, second)
        if self.is_dot:
            scores: Floats = np.ldexp(products, self.exponents[first] + self.exponents[second])
            return scores
        # One square root: of two equal vectors the cosine is exactly 1.
        lengths = np.sqrt(self.squares[first] * self.squares[second])
        cosines: Floats = np.clip(products / lengths, -1.0, 1.0)
        return cosines


@dataclass(frozen=True)
class Neighbors:
    """The best ``k`` of some entries, best first.

    Attributes:
        places: of the neighbours, ``(n, k)``; -1 where there are fewer.
        scores: float64, ``(n, k)``; minus infinity where there are fewer.
    """

    places: Places
    scores: Floats

    @classmethod
    def none(cls, entries: int, k: int) -> Neighbors:
        """Return what is known of entries before anything is."""
        import numpy as np

        return cls(np.full((entries, k), -1, dtype=np.intp), np.full((entries, k), -np.inf))

    def merged(self, other: Neighbors) -> Neighbors:
        """Return the best of both, for the same entries; no neighbour may be in both."""
        import numpy as np

        places = np.concatenate([self.places, other.places], axis=1)
        scores = np.concatenate([self.scores, other.scores], axis=1)
        best = np.lexsort((places, -scores), axis=1)[:, : self.places.shape[1]]
        return Neighbors(
            np.take_along_axis(places, best, axis=1), np.take_along_axis(scores, best, axis=1)
        )


def read_vectors(store: Store, collection: CollectionRecord) -> CollectionVectors:
    """Read a collection's vectors; what is no usable vector is counted and left out.

    Call it in a transaction, so that all is of one moment.
    """
    import numpy as np

    size = ITEM_SIZE * (collection.dimensions or 0)
    # What the file says about itself must not decide how much memory is taken.
    most = store.conn.execute(
        "select count(*) from embeddings where collection_id = ?"
        " and typeof(embedding) = 'blob' and length(embedding) = ?",
        (collection.id, size),
    ).fetchone()[0]
    matrix = np.empty((most if size else 0, collection.dimensions or 0), dtype=np.float32)
    exponents = np.empty(len(matrix), dtype=np.int64)
    ids: list[str] = []
    digests: list[bytes] = []
    left_out = 0
    window = max(1, min(10_000, BLOCK_BYTES // max(1, 2 * size)))
    for entries in store.iter_embeddings(collection.id, window):
        sound = [entry for entry in entries if _is_vector(*entry, size)]
        if sound:
            block = decode(b"".join(blob for _, blob in sound)).reshape(len(sound), -1)
            with np.errstate(invalid="ignore"):  # a signalling NaN is no reason to warn
                wide = block.astype(np.float64)
                lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
            usable = np.flatnonzero((lengths > 0) & np.isfinite(lengths))
            sound = [sound[at] for at in usable]
            rows = slice(len(ids), len(ids) + len(sound))
            exponents[rows] = np.frexp(lengths[usable])[1]
            matrix[rows] = np.ldexp(wide[usable], -exponents[rows, np.newaxis])
        ids += [entry_id for entry_id, _ in sound]
        digests += [blake2b(blob, digest_size=_DIGEST_BYTES).digest() for _, blob in sound]
        left_out += len(entries) - len(sound)
    matrix, exponents = matrix[: len(ids)], exponents[: len(ids)]
    everything = np.arange(len(ids))
    squares = _inner_products(matrix, everything, everything)
    is_dot = collection.metric == "dot"
    return CollectionVectors(ids, digests, matrix, exponents, squares, is_dot, left_out)


def find_neighbors(
    vectors: CollectionVectors,
    k: int,
    *,
    rows: Places | None = None,
    columns: Places | None = None,
    report: Report | None = None,
) -> Neighbors:
    """Return the ``k`` nearest entries of each entry, never itself; ties go by id.

    Args:
        vectors: the collection.
        k: how many neighbours are wanted, at least 1.
        rows: the places to find neighbours for, in ascending order; None for all.
        columns: the places to choose from, in ascending order; None for all.
        report: told how many rows are done, now and then.
    """
    import numpy as np

    everything = np.arange(len(vectors.ids))
    rows = everything if rows is None else rows
    found = Neighbors.none(len(rows), k)
    columns = everything if columns is None else columns
    if not len(rows) or not len(columns):
        return found
    search = _Search(vectors, columns, k)
    step = max(1, BLOCK_BYTES // (ITEM_SIZE * len(columns)))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        found.places[block], found.scores[block] = search.best(rows[block])
        if report is not None:
            report(min(start + step, len(rows)), len(rows))
    return found


class _Search:
    """The entries to choose from, and the choice of the best.

    Args:
        columns: their places, ascending; not empty.
        k: how many are wanted.
    """

    def __init__(self, vectors: CollectionVectors, columns: Places, k: int) -> None:
        import numpy as np

        self._vectors = vectors
        self._columns = columns
        self._k = k
        is_all = len(columns) == len(vectors.ids)
        self._matrix = vectors.matrix if is_all else vectors.matrix[columns]
        if vectors.is_dot:
            exponents = vectors.exponents[columns]
            # A row of the matrix is shorter than 1, and so it stays.
            self._weights = np.ldexp(1.0, exponents - exponents.max())
        else:
            self._weights = 1.0 / np.sqrt(vectors.squares[columns])
        superfluous = _superfluous(vectors, columns, k)
        self._penalties: NDArray[np.float32] | None = None
        if len(superfluous):
            self._penalties = np.zeros(len(columns), dtype=np.float32)
            self._penalties[superfluous] = _PENALTY

    def best(self, rows: Places) -> tuple[Places, Floats]:
        """Return places and scores of the best of each row, as in ``Neighbors``."""
        import numpy as np

        chosen = self._choose(self._scores(rows, np.float32))
        crowded = np.flatnonzero(np.count_nonzero(chosen, axis=1) > _MOST_CANDIDATES + self._k)
        chosen[crowded] = False
        best = self._rank(rows, chosen)
        # Half of them at a time, since a float64 is twice as long.
        for some in np.array_split(crowded, 2) if len(crowded) else []:
            chosen = self._choose(self._scores(rows[some], np.float64))
            for at, candidates in zip(some, chosen, strict=True):
                one = slice(at, at + 1)
                ranked = self._rank(rows[one], candidates[np.newaxis])
                best.places[one], best.scores[one] = ranked.places, ranked.scores
        return best.places, best.scores

    def _scores(self, rows: Places, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        """Return about the score of each row and column, in units of at most 1.

        What cannot be chosen, the row itself above all, has less than -2.
        """
        import numpy as np

        left = self._vectors.matrix[rows].astype(dtype)
        scores = np.empty((len(rows), len(self._columns)), dtype=dtype)
        step = max(1, BLOCK_BYTES // (np.dtype(dtype).itemsize * left.shape[1]))
        if dtype is np.float32:
            step = len(self._columns)  # no copy is made
        for start in range(0, len(self._columns), step):
            part = slice(start, start + step)
            right = self._matrix[part].astype(dtype, copy=False)
            np.matmul(left, right.T, out=scores[:, part])
        scores *= self._weights.astype(dtype)
        if self._penalties is not None:
            scores += self._penalties
        own = np.minimum(np.searchsorted(self._columns, rows), len(self._columns) - 1)
        is_there = self._columns[own] == rows
        scores[np.flatnonzero(is_there), own[is_there]] = _PENALTY
        return scores

    def _choose(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for each row and column whether it may be among the best k.

        A product of vectors not longer than 1 is wrong by at most d times half the spacing
        of numbers at 1, in whatever order it is summed (Higham, Accuracy and Stability of
        Numerical Algorithms, 2nd edition, section 3.1); a few more for the weights, and as
        much again in float64 for the score that decides in the end. It may be wrong upwards
        for one and downwards for another.
        """
        import numpy as np

        operations = self._matrix.shape[1] + 16
        wrong_by = operations * (np.finfo(scores.dtype).eps + np.finfo(np.float64).eps) / 2
        possible: NDArray[np.bool_] = scores > _PENALTY / 2
        if scores.shape[1] <= self._k:
            return possible
        # From the other end numpy is twenty times slower where most scores are the same.
        floor = -np.partition(-scores, self._k - 1, axis=1)[:, self._k - 1]
        floor -= scores.dtype.type(2 * wrong_by)
        possible &= scores >= floor[:, np.newaxis]
        return possible

    def _rank(self, rows: Places, chosen: NDArray[np.bool_]) -> Neighbors:
        """Return the best k of what was chosen for each row."""
        import numpy as np

        at, columns = np.nonzero(chosen)
        places = self._columns[columns]
        scores = self._vectors.score(rows[at], places)
        order = np.lexsort((-scores, at))  # stable: ties stay in the order of places
        at, places, scores = at[order], places[order], scores[order]
        ranks = np.arange(len(at)) - np.searchsorted(at, np.arange(len(rows)))[at]
        kept = ranks < self._k
        best = Neighbors.none(len(rows), self._k)
        best.places[at[kept], ranks[kept]] = places[kept]
        best.scores[at[kept], ranks[kept]] = scores[kept]
        return best


def _is_vector(entry_id: Any, stored: Any, size: int) -> bool:
    return isinstance(entry_id, str) and isinstance(stored, bytes) and 0 < len(stored) == size


def _superfluous(vectors: CollectionVectors, columns: Places, k: int) -> Places:
    """Return the positions of columns that can be nobody's neighbour.

    Equal vectors have equal scores: after the first k + 1, one of which may be the entry
    itself, there is always a smaller id. Without this, many equal ones would all be
    candidates of each other.
    """
    import numpy as np

    seen: Counter[bytes] = Counter()
    found = []
    for position, place in enumerate(columns):
        digest = vectors.digests[place]
        seen[digest] += 1
        if seen[digest] > k + 1:
            found.append(position)
    return np.array(found, dtype=np.intp)


def _inner_products(matrix: NDArray[np.float32], first: Places, second: Places) -> Floats:
    """Return the inner products of pairs of rows, summed in float64.

    Every row is summed by itself and in the same order, however many there are.
    """
    import numpy as np

    products = np.empty(len(first), dtype=np.float64)
    step = max(1, BLOCK_BYTES // (8 * max(1, matrix.shape[1])))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        # Converted before it is summed: einsum converts in pieces that do not end with a row.
        left, right = matrix[first[part]].astype(np.float64), matrix[second[part]]
        products[part] = np.einsum("ij,ij->i", left, right.astype(np.float64))
    return products
