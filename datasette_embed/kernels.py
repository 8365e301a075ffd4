"""Kernels: the three sums over two blobs, by numkong where it is installed, else by numpy.

Layer 0: imports nothing of ours, and numpy and numkong inside the functions. What a blob
that is no vector means is decided in ``vectors``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: The name numkong has for the elements of a blob.
FLOAT32 = "f32"


class Kernels(NamedTuple):
    """Three functions of two blobs of equal length, called as ``kernel(a, b, FLOAT32)``.

    Each returns a float, summed in float64, and raises TypeError for what is no blob and
    ValueError for two lengths. NaN or infinity in a vector gives NaN or infinity.
    They do not look at lengths that are no multiple of 4; callers do.
    """

    name: str
    #: 1 - cosine, in [0, 2]; exactly 0 or 1 when a vector is zero.
    angular: Callable[[Any, Any, str], float]
    dot: Callable[[Any, Any, str], float]
    euclidean: Callable[[Any, Any, str], float]


@lru_cache(maxsize=1)
def kernels() -> Kernels:
    """Return numkong's kernels where its wheel is installed and sound, else numpy's."""
    return numkong_kernels() or numpy_kernels()


def numkong_kernels() -> Kernels | None:
    """Return numkong's kernels, or None if they are absent or do not do what we rely on.

    numkong reads ``bytes`` as float32 without a copy when told the dtype. A version that
    took the number of bytes for the number of floats would read beyond the blob, so the
    probe hands it the start of a longer buffer, in which that is harmless and visible.
    """
    try:
        numkong = importlib.import_module("numkong")
        found = Kernels("numkong", numkong.angular, numkong.dot, numkong.euclidean)
    except (ImportError, AttributeError):
        return None
    if sys.byteorder != "little":  # blobs are little-endian, the kernels native
        return None
    import numpy as np

    # 1e-30: summed in float32 the squares would vanish.
    buffer = np.array([[3e-30, 4e-30], [4e-30, 3e-30]] + [[1, 9]] * 6, dtype="<f4").tobytes()
    a, b = memoryview(buffer)[:8], memoryview(buffer)[8:16]
    try:
        answers = [found.angular(a, b, FLOAT32), found.dot(a, b, FLOAT32) * 1e60]
        answers.append(found.euclidean(a, b, FLOAT32) * 1e30)
    except (TypeError, ValueError):
        return None
    expected = (0.04, 24.0, sqrt(2.0))
    sound = all(abs(x - y) < 1e-5 for x, y in zip(answers, expected, strict=True))
    return found if sound else None


def numpy_kernels() -> Kernels:
    """Return the same kernels in numpy, some ten times slower."""
    import numpy as np

    def pair(a: Any, b: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        with np.errstate(invalid="ignore"):  # a signalling NaN is no reason to warn
            first = np.frombuffer(a, dtype="<f4").astype(np.float64)
            second = np.frombuffer(b, dtype="<f4").astype(np.float64)
        if first.size != second.size:
            raise ValueError("Vector dimensions don't match")
        return first, second

    def angular(a: Any, b: Any, _dtype: str) -> float:
        first, second = pair(a, b)
        product = sqrt(float(first.dot(first))) * sqrt(float(second.dot(second)))
        return 1.0 - float(first.dot(second)) / product if product else 1.0

    def dot(a: Any, b: Any, _dtype: str) -> float:
        first, second = pair(a, b)
        return float(first.dot(second))

    def euclidean(a: Any, b: Any, _dtype: str) -> float:
        first, second = pair(a, b)
        with np.errstate(invalid="ignore"):
            difference = first - second
        return sqrt(float(difference.dot(difference)))

    return Kernels("numpy", angular, dot, euclidean)
