"""The vector functions of SQL: what an SQL value means as a vector, and what comes back.

Layer 9: imports ``errors``, ``executor`` and ``vectors``; ``sql_functions`` registers what
is here. What runs once per row reports its errors where they are found, off the fast path.
One rule for every function and every vector argument:

* a BLOB is float32, TEXT is a JSON array of numbers;
* NULL, blank text, an empty array, a zero vector, NaN or infinity inside, or a blob whose
  length is no multiple of 4: not usable, the result is NULL (an aggregate skips the row);
* anything else is InvalidVectorError; two lengths together are DimensionMismatchError.

A result that would itself not be usable (``v - v``) is NULL too. No model is called here
and no table is read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import lru_cache
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from . import vectors
from .errors import DimensionMismatchError, InvalidVectorError
from .executor import reports_errors
from .vectors import FLOAT32, ITEM_SIZE, Kernels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Average",
    "Sum",
    "Top",
    "add",
    "cosine_function",
    "decode_json",
    "dimensions",
    "dot_function",
    "encode_json",
    "l2_function",
    "normalize",
    "read_blob",
    "scale",
    "subtract",
    "truncate",
]

#: What SQLite calls the types of the values it hands to a function.
SQL_TYPES = {int: "integer", float: "real", str: "text", bytes: "blob", type(None): "null"}

Similarity = Callable[[Any, Any], float | None]


# SQL values


def read_blob(value: Any) -> bytes | None:
    """Return an SQL value as the blob of a usable vector, None where the result is NULL.

    Raises:
        InvalidVectorError: text that is no JSON array of numbers, or an integer or real.
    """
    if isinstance(value, str):
        value = blob_of_json(value)
    elif value is not None and not isinstance(value, bytes):
        raise InvalidVectorError(
            f"a vector is a BLOB of float32 or a JSON array, not {_sql_type(value)}"
        )
    return value if value is not None and vectors.blob_is_usable(value) else None


@lru_cache(maxsize=32)  # the query, if it is text, comes again with every row
def blob_of_json(text: str) -> bytes | None:
    """Return a JSON array of numbers as a blob; None for blank text and an empty array.

    A number that float32 cannot hold becomes an infinity, so the vector is not usable.

    Raises:
        InvalidVectorError: the text is something else. It is not repeated in the message.
    """
    import numpy as np

    if not text or text.isspace():
        return None
    try:
        numbers = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidVectorError(
            "a vector as text is a JSON array of numbers, and this text is not JSON"
        ) from error
    if not isinstance(numbers, list) or any(type(item) not in (int, float) for item in numbers):
        raise InvalidVectorError(
            "a vector as text is a JSON array of numbers, and this JSON is something else"
        )
    if not numbers:
        return None
    with np.errstate(over="ignore"):
        return np.array([_as_float(number) for number in numbers]).astype("<f4").tobytes()


def _as_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of more than 308 digits
        return inf


def _sql_type(value: Any) -> str:
    return SQL_TYPES.get(type(value), type(value).__name__)


def _read_number(value: Any, name: str) -> float:
    """Return a number, also one that arrives as text, as named parameters of Datasette do."""
    try:
        if isinstance(value, (int, float, str)):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise InvalidVectorError(f"{name} must be a number, not {_sql_type(value)}")


@reports_errors
def _read_count(value: Any, name: str) -> int:
    """Return a positive integer, also one that arrives as text or as a real."""
    number = _read_number(value, name)
    if not (number >= 1 and number.is_integer()):
        raise InvalidVectorError(f"{name} must be a positive integer")
    return int(number)


def _write(numbers: NDArray[np.float64]) -> bytes | None:
    """Return float64 numbers as a blob, or None if float32 makes no usable vector of them."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        blob = numbers.astype("<f4").tobytes()
    return blob if vectors.blob_is_usable(blob) else None


def _read_float64(value: Any) -> NDArray[np.float64] | None:
    import numpy as np

    blob = read_blob(value)
    return None if blob is None else vectors.decode(blob).astype(np.float64)


def _read_pair(a: Any, b: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    first, second = _read_float64(a), _read_float64(b)
    if first is None or second is None:
        return None
    if first.size != second.size:
        raise DimensionMismatchError(first.size, second.size)
    return first, second


# Similarity: one call per row of a table


def cosine_function(kernels: Kernels | None = None) -> Similarity:
    """Return ``llm_embed_cosine`` for one connection: (a, b) -> REAL in [-1, 1] or NULL.

    Both blobs go to the kernel as they are. It is loaded by the first call: until then
    ``angular`` is None, and calling that is the TypeError a NULL or a text gives too.
    """
    angular: Any = kernels and kernels.angular

    def cosine(a: Any, b: Any) -> float | None:
        nonlocal angular
        try:
            distance: float = angular(a, b, "f32")  # FLOAT32 as a constant is faster
            # 0 and 1 are also the answers for zero vectors, and no comparison holds for
            # NaN. The kernel ignores the bytes after the last whole float.
            if distance > 0.0 and distance < 2.0 and distance != 1.0 and not len(a) & 3:
                return 1.0 - distance
        except (TypeError, ValueError):
            angular = angular or vectors.kernels().angular
        return _compare(a, b, vectors.cosine)

    return cosine


def dot_function(kernels: Kernels | None = None) -> Similarity:
    """Return ``llm_embed_dot`` for one connection: (a, b) -> REAL or NULL."""
    inner: Any = kernels and kernels.dot

    def dot(a: Any, b: Any) -> float | None:
        nonlocal inner
        try:
            product: float = inner(a, b, "f32")
            if (product > 0.0 or product < 0.0) and -inf < product < inf and not len(a) & 3:
                return product
        except (TypeError, ValueError):
            inner = inner or vectors.kernels().dot
        return _compare(a, b, vectors.dot)

    return dot


def l2_function(kernels: Kernels | None = None) -> Similarity:
    """Return ``llm_embed_l2`` for one connection: (a, b) -> REAL, 0 or more, or NULL."""
    found = kernels

    def l2(a: Any, b: Any) -> float | None:
        nonlocal found
        try:
            # No distance tells a zero vector, so the two lengths are looked at.
            square = found.dot  # type: ignore[union-attr]
            if 0.0 < square(a, a, FLOAT32) < inf and 0.0 < square(b, b, FLOAT32) < inf:
                distance = found.euclidean(a, b, FLOAT32)  # type: ignore[union-attr]
                if not len(a) & 3:
                    return distance
        except (AttributeError, TypeError, ValueError):
            found = found or vectors.kernels()
        return _compare(a, b, vectors.l2)

    return l2


@reports_errors
def _compare(a: Any, b: Any, measure: Callable[[bytes, bytes], float | None]) -> float | None:
    """Compare with every check: what the fast path leaves."""
    first, second = read_blob(a), read_blob(b)
    return None if first is None or second is None else measure(first, second)


# One vector or two, a new one out


def dimensions(value: Any) -> int | None:
    """Return how many numbers the vector has."""
    blob = read_blob(value)
    return None if blob is None else len(blob) // ITEM_SIZE


def decode_json(value: Any) -> str | None:
    """Return the vector as a JSON array of numbers, written as LLM's plugin writes it."""
    blob = read_blob(value)
    return None if blob is None else json.dumps(vectors.decode(blob).tolist())


def encode_json(value: Any) -> bytes | None:
    """Return a JSON array of numbers as a float32 BLOB (a BLOB stays as it is)."""
    return read_blob(value)


def normalize(value: Any) -> bytes | None:
    """Return the vector at length 1."""
    numbers = _read_float64(value)
    return None if numbers is None else _unit(numbers)


def _unit(numbers: NDArray[np.float64]) -> bytes | None:
    length = float(numbers.dot(numbers)) ** 0.5
    return _write(numbers / length) if length else None


def truncate(value: Any, n: Any) -> bytes | None:
    """Return the first n numbers at length 1, for models that put the most into those.

    Raises:
        InvalidVectorError: n is no positive integer, or the vector has fewer numbers.
    """
    if n is None:
        return None
    count = _read_count(n, "n")
    numbers = _read_float64(value)
    if numbers is None:
        return None
    if count > numbers.size:
        raise InvalidVectorError(f"a vector of {numbers.size} dimensions has no first {count}")
    return _unit(numbers[:count])


def add(a: Any, b: Any) -> bytes | None:
    """Return a + b, not normalised."""
    pair = _read_pair(a, b)
    return None if pair is None else _write(pair[0] + pair[1])


def subtract(a: Any, b: Any) -> bytes | None:
    """Return a - b, not normalised; NULL when nothing is left."""
    pair = _read_pair(a, b)
    return None if pair is None else _write(pair[0] - pair[1])


def scale(value: Any, factor: Any) -> bytes | None:
    """Return the vector times a number; NULL for 0 and for what leaves float32.

    Raises:
        InvalidVectorError: the factor is no number.
    """
    if factor is None:
        return None
    number = _read_number(factor, "the factor")
    numbers = _read_float64(value)
    return None if numbers is None or not isfinite(number) else _write(numbers * number)


# Aggregates: classes as sqlite3.create_aggregate takes them


class Sum:
    """``llm_embed_sum(v)``: the sum of the usable vectors; NULL if there are none."""

    def __init__(self) -> None:
        self.total: NDArray[np.float64] | None = None
        self.count = 0

    def step(self, value: Any) -> None:
        """Add one row.

        Raises:
            DimensionMismatchError: it has another length than the rows before it.
        """
        numbers = _read_float64(value)
        if numbers is None:
            return
        if self.total is None:
            self.total = numbers
        elif self.total.size != numbers.size:
            raise DimensionMismatchError(self.total.size, numbers.size)
        else:
            self.total += numbers
        self.count += 1

    def finalize(self) -> bytes | None:
        """Return the blob."""
        return None if self.total is None else _write(self.total)


class Average(Sum):
    """``llm_embed_average(v)``: the mean of the usable vectors, not normalised."""

    def finalize(self) -> bytes | None:
        """Return the blob."""
        return None if self.total is None else _write(self.total / self.count)


class Top:
    """``llm_embed_top(id, v, query, k)``: the k rows most like the query, as JSON.

    An array of ``{"id", "score"}``, best first, equal scores by id as SQLite orders
    values; the score is the cosine. Rows that are not usable are skipped. Of no rows at
    all sqlite3 makes NULL by itself, of which json_each gives no rows.
    """

    def __init__(self) -> None:
        self.cosine = cosine_function()
        self.k = 0
        self.best: list[tuple[float, tuple[int, Any], Any]] = []
        self.worst = inf

    def step(self, entry_id: Any, value: Any, query: Any, k: Any) -> None:
        """Add one row; k is the first row's.

        Raises:
            InvalidVectorError: k is no positive integer.
            DimensionMismatchError: row and query differ in length.
        """
        if not self.k:
            self.k = _read_count(k, "k")
        score = self.cosine(value, query)
        if score is None or -score > self.worst:
            return
        self.best.append((-score, _sort_key(entry_id), entry_id))
        if len(self.best) >= 2 * self.k + 100:
            self._keep_best()

    def _keep_best(self) -> None:
        self.best.sort(key=lambda row: row[:2])
        del self.best[self.k :]
        if self.best and len(self.best) == self.k:
            self.worst = self.best[-1][0]

    def finalize(self) -> str:
        """Return the JSON."""
        self._keep_best()
        found = [{"id": _json_id(row[2]), "score": -row[0]} for row in self.best]
        return json.dumps(found, ensure_ascii=False)


def _sort_key(value: Any) -> tuple[int, Any]:
    """Return what orders values as SQLite does: NULL, numbers, text, blobs."""
    if value is None:
        return 0, 0
    return (1 if isinstance(value, (int, float)) else 2 if isinstance(value, str) else 3), value


def _json_id(value: Any) -> Any:
    """Return an id as JSON can hold it; a blob in the form of Datasette's JSON."""
    if isinstance(value, bytes):
        return {"$base64": True, "encoded": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value
