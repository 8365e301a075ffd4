"""Vectors: bytes to float32 and back, cosine, dot and l2, average, contenders for the best k.

Layer 1: imports ``errors`` and ``kernels``. What the package calculates with vectors is here,
on blobs (little-endian float32) and on float32 arrays of shape ``(n, dimensions)``.
What an SQL value may be (NULL, JSON text) is the concern of ``sql_vectors``.

numpy and numkong are imported inside the functions: importing this module is free.
No SQL and no models belong here.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, nan
from typing import TYPE_CHECKING, Any

from .errors import DimensionMismatchError, InvalidVectorError
from .kernels import FLOAT32, Kernels, kernels, numkong_kernels, numpy_kernels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Vectors = NDArray[np.float32]

__all__ = [
    "FLOAT32",
    "Kernels",
    "as_vectors",
    "average",
    "blob_is_usable",
    "contenders",
    "cosine",
    "decode",
    "dot",
    "dot_scores",
    "encode",
    "encode_rows",
    "is_usable",
    "kernels",
    "l2",
    "longest",
    "normalize",
    "numkong_kernels",
    "numpy_kernels",
]

#: Bytes of one float32.
ITEM_SIZE = 4


# Blobs and arrays


def encode(vector: ArrayLike) -> bytes:
    """Return the vector as a blob: 4 bytes a number, little-endian float32, as LLM writes it.

    Args:
        vector: a sequence or array of one dimension, of any numeric dtype, byte order
            and memory layout.

    Raises:
        InvalidVectorError: no numbers, more than one dimension, or a number that float32
            cannot hold. NaN and infinity pass: ``as_vectors`` is the door that stops them.
    """
    import numpy as np

    numbers = _numbers(vector)
    if numbers.ndim != 1:
        raise InvalidVectorError(f"a vector is one row of numbers, not shape {numbers.shape}")
    if not numbers.size:
        raise InvalidVectorError("a vector has at least one number")
    with np.errstate(over="ignore", invalid="ignore"):
        narrowed = numbers.astype("<f4")
    if np.isinf(narrowed).any() and not np.array_equal(np.isinf(narrowed), np.isinf(numbers)):
        raise InvalidVectorError("a number is too large for float32")
    return narrowed.tobytes()


def encode_rows(rows: Vectors) -> list[bytes]:
    """Return each row of checked vectors as a blob, as ``encode`` does.

    Args:
        rows: float32, shape ``(n, dimensions)``, as ``as_vectors`` returns them.
    """
    raw = rows.astype("<f4", copy=False).tobytes()
    width = rows.shape[1] * ITEM_SIZE
    return [raw[start : start + width] for start in range(0, len(raw), width)]


def decode(blob: bytes) -> Vectors:
    """Return the numbers of a blob: float32, shape ``(dimensions,)``, a read-only view of it.

    Raises:
        InvalidVectorError: no bytes, or a length that is no multiple of 4.
    """
    import numpy as np

    if not blob:
        raise InvalidVectorError("the blob is empty")
    if len(blob) % ITEM_SIZE:
        raise InvalidVectorError(f"{len(blob)} bytes are no float32 vector: not a multiple of 4")
    # A copy on big-endian machines only.
    return np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)


def as_vectors(rows: Iterable[ArrayLike], *, dimensions: int | None = None) -> Vectors:
    """Check what a model returned and return it as float32, C-contiguous, ``(n, d)``.

    Args:
        rows: an array of shape ``(n, d)``, or an iterable of n vectors. No rows at all
            give shape ``(0, dimensions or 0)``.
        dimensions: the length every vector must have; None accepts any one length.

    Returns:
        A new array, or ``rows`` itself when that is one already.

    Raises:
        InvalidVectorError: NaN, infinity, a number beyond float32, something that is no
            number, or rows of several lengths. The reason names the row, counted from 0.
        DimensionMismatchError: the vectors have another length than ``dimensions``.
    """
    import numpy as np

    is_matrix = isinstance(rows, np.ndarray) and rows.ndim == 2
    given = _numbers(rows, "row 0: ") if is_matrix else _stack(list(rows))  # type: ignore[arg-type]
    if not len(given):
        return np.empty((0, dimensions or 0), dtype=np.float32)
    if not given.shape[1]:
        raise InvalidVectorError("row 0: a vector has at least one number")
    if dimensions is not None and given.shape[1] != dimensions:
        raise DimensionMismatchError(dimensions, given.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = np.ascontiguousarray(given, dtype=np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InvalidVectorError(f"row {row}: NaN, infinity or a number too large for float32")
    return vectors


def _stack(rows: list[Any]) -> NDArray[Any]:
    """Return the rows as one array ``(n, d)``, or name the first that differs."""
    import numpy as np

    vectors: list[NDArray[Any]] = []
    for number, row in enumerate(rows):
        vector = _numbers(row, f"row {number}: ")
        if vector.ndim != 1:
            raise InvalidVectorError(f"row {number}: not a list of numbers")
        if not vector.size:
            raise InvalidVectorError(f"row {number}: a vector has at least one number")
        if vectors and vector.size != vectors[0].size:
            raise InvalidVectorError(
                f"row {number}: {vector.size} dimensions where row 0 has {vectors[0].size}"
            )
        vectors.append(vector)
    return np.stack(vectors) if vectors else np.empty((0, 0), dtype=np.float32)


def _numbers(values: ArrayLike, where: str = "") -> NDArray[Any]:
    """Return the values as an array of real numbers, of whatever dtype they have."""
    import numpy as np

    try:
        numbers = np.asarray(values)
        if numbers.dtype == object:  # integers beyond 64 bits, Decimal, Fraction
            numbers = np.array([float(item) for item in numbers.flat]).reshape(numbers.shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidVectorError(f"{where}not a list of numbers") from error
    if numbers.size and numbers.dtype.kind not in "fiu":
        raise InvalidVectorError(f"{where}not a list of numbers")
    return numbers


def is_usable(vector: ArrayLike) -> bool:
    """Return whether the vector has a direction: every number finite, and not all zero."""
    import numpy as np

    numbers = np.asarray(vector)
    return bool(numbers.size and np.isfinite(numbers).all() and numbers.any())


# Two blobs


def blob_is_usable(blob: bytes) -> bool:
    """Return whether a blob holds a vector that is finite and not zero."""
    if not blob or len(blob) % ITEM_SIZE:
        return False
    # In float64 the squares of float32 numbers neither vanish nor overflow.
    return 0.0 < kernels().dot(blob, blob, FLOAT32) < inf


def cosine(a: bytes, b: bytes) -> float | None:
    """Return the cosine of two blobs, in [-1, 1], or None if one of them is not usable.

    Raises:
        DimensionMismatchError: the two differ in length.
    """
    if not _are_comparable(a, b):
        return None
    return min(1.0, max(-1.0, 1.0 - kernels().angular(a, b, FLOAT32)))


def dot(a: bytes, b: bytes) -> float | None:
    """Return the inner product of two blobs, or None if one of them is not usable.

    Raises:
        DimensionMismatchError: the two differ in length.
    """
    return kernels().dot(a, b, FLOAT32) if _are_comparable(a, b) else None


def l2(a: bytes, b: bytes) -> float | None:
    """Return the euclidean distance of two blobs, or None if one of them is not usable.

    Raises:
        DimensionMismatchError: the two differ in length.
    """
    return kernels().euclidean(a, b, FLOAT32) if _are_comparable(a, b) else None


def _are_comparable(a: bytes, b: bytes) -> bool:
    if not (blob_is_usable(a) and blob_is_usable(b)):
        return False
    if len(a) != len(b):
        raise DimensionMismatchError(len(a) // ITEM_SIZE, len(b) // ITEM_SIZE)
    return True


# Many vectors


def _norms(vectors: Vectors) -> NDArray[np.float64]:
    """Return the length of each row; NaN for a row that is zero or not finite."""
    import numpy as np

    squares = np.einsum("...i,...i->...", vectors, vectors, dtype=np.float64, casting="same_kind")
    return np.where((squares > 0) & np.isfinite(squares), np.sqrt(squares), nan)


def normalize(vectors: Vectors) -> Vectors:
    """Return the vector, or every row of the matrix, at length 1: a new float32 array.

    A row that is zero or not finite becomes NaN throughout, so that its scores are NaN
    and ``contenders`` passes over it.
    """
    import numpy as np

    norms = _norms(np.asarray(vectors))
    with np.errstate(invalid="ignore"):
        return (vectors / norms[..., np.newaxis]).astype(np.float32)


def dot_scores(vectors: Vectors, query_vector: Vectors) -> Vectors:
    """Return the inner product of each row and the query: float32, shape ``(n,)``.

    Of vectors made by ``normalize`` that is the cosine; clamp it if you print it.

    Raises:
        DimensionMismatchError: the query has another length than the rows.
    """
    import numpy as np

    if vectors.shape[1] != len(query_vector):
        raise DimensionMismatchError(vectors.shape[1], len(query_vector))
    with np.errstate(invalid="ignore", over="ignore"):
        scores = np.asarray(vectors @ np.asarray(query_vector, dtype=np.float32))
        overflown = ~np.isfinite(scores)
        if overflown.any():
            rows = vectors[overflown].astype(np.float64)
            scores[overflown] = rows @ np.asarray(query_vector, dtype=np.float64)
    return scores


def contenders(scores: Vectors, k: int, tolerance: float) -> NDArray[np.intp]:
    """Return the positions that may be among the k best when scores err by ``tolerance``.

    In no order; at least the k best, and all within twice the tolerance below the k-th.
    NaN is passed over. ``k`` is at least 1.
    """
    import numpy as np

    candidates = np.flatnonzero(~np.isnan(scores))
    if len(candidates) <= k:
        return candidates
    ranked = scores[candidates]
    worst = np.partition(ranked, len(ranked) - k)[len(ranked) - k]
    kept: NDArray[np.intp] = candidates[ranked >= worst - 2 * tolerance]
    return kept


def longest(vectors: Vectors) -> float:
    """Return the length of the longest finite row, 0.0 when there is none."""
    import numpy as np

    return float(np.nanmax(_norms(vectors), initial=0.0))


def average(vectors: Vectors) -> Vectors:
    """Return the mean of the rows, summed in float64: float32, shape ``(dimensions,)``.

    It is not normalised: of unit vectors it is the shorter, the more they differ.

    Raises:
        InvalidVectorError: there are no rows.
    """
    import numpy as np

    if not len(vectors):
        raise InvalidVectorError("no vectors to average")
    mean: NDArray[np.float64] = np.mean(vectors, axis=0, dtype=np.float64)
    return mean.astype(np.float32)
