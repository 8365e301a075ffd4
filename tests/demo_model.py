"""A small model that LLM and we both register, from this one file.

Imports the standard library only: the tests copy it into environments that have LLM and
nothing of ours. Numbers are multiples of 1/64, which float32 holds exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

DIMENSIONS = 16


def vector_of(item: str | bytes) -> list[float]:
    """Return the sum of the vectors of an item's words: texts that share words are near."""
    content = item.encode() if isinstance(item, str) else item
    numbers = [0.0] * DIMENSIONS
    for word in content.lower().split():
        for position, byte in enumerate(hashlib.shake_128(word).digest(DIMENSIONS)):
            numbers[position] += (byte - 128) / 64
    return numbers


class Demo:
    """LLM's shape of a model, without its base class; counts what it was asked."""

    model_id = "demo"
    supports_text = True
    supports_binary = True
    batch_size = 3

    def __init__(self) -> None:
        self.embedded: list[str | bytes] = []

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:
        for item in items:
            self.embedded.append(item)
            yield vector_of(item)
