"""Vectors as Python's own numbers, for programs written for LLM.

Layer 2: imports ``errors`` and ``vectors``. Inside the package vectors are float32 arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .errors import DimensionMismatchError, InvalidVectorError
from .vectors import ITEM_SIZE, is_usable


def decode(blob: bytes) -> tuple[float, ...]:
    """Return the numbers of a blob, as LLM does: a tuple of floats, empty for no bytes.

    Raises:
        InvalidVectorError: its length is no multiple of 4.
    """
    if len(blob) % ITEM_SIZE:
        raise InvalidVectorError(f"{len(blob)} bytes are no float32 vector: not a multiple of 4")
    return struct.unpack(f"<{len(blob) // ITEM_SIZE}f", blob)


def cosine_similarity(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the cosine of two vectors of numbers, in float64, in [-1, 1].

    Raises:
        DimensionMismatchError: they differ in length.
        InvalidVectorError: one is zero, empty or not finite.
    """
    import numpy as np

    if len(a) != len(b):
        raise DimensionMismatchError(len(a), len(b))
    for numbers in (a, b):
        if not is_usable(np.asarray(numbers, dtype=np.float64)):
            raise InvalidVectorError("the vector is zero, empty, or has NaN or infinity in it")
    first, second = (np.asarray(numbers, dtype=np.float64) for numbers in (a, b))
    # At length 1 first: the squares of large numbers would overflow.
    first, second = first / np.abs(first).max(), second / np.abs(second).max()
    cosine = float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
    return min(1.0, max(-1.0, cosine))
