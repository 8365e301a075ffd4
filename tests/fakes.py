"""Models that need nothing: deterministic, countable, and able to fail or to wait."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterator, Sequence

from datasette_embed.models import Batch, EmbeddingModel, Item, Kind, Reading


def vector_of(item: Item, kind: Kind = Kind.DOCUMENT, dimensions: int = 8) -> list[float]:
    """Return numbers in [-1, 1] that depend on nothing but the item and the kind."""
    content = item.encode() if isinstance(item, str) else item
    digest = hashlib.shake_128(kind.value.encode() + b":" + content).digest(2 * dimensions)
    return [number / 32768 for number in struct.unpack(f"<{dimensions}h", digest)]


class CountingModel(EmbeddingModel):
    """Vectors made of hashes. Counts what it was asked; fails or waits when told to.

    Attributes:
        calls: the items of every call, in order.
        fails_with: raised by ``embed_batch`` if set.
        gate: if set, ``embed_batch`` waits for it (30 seconds at most, so that a broken
            test ends).
        started: set when a call has begun.
        seconds: what to add to ``clock`` during a call.
    """

    is_local = True
    counts_exactly = True
    supports_binary = True

    def __init__(
        self,
        model_id: str = "counting",
        *,
        dimensions: int | None = 8,
        batch_size: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.model_id = model_id
        self.dimensions = dimensions
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.calls: list[list[Item]] = []
        self.readings = 0
        self.warmed = threading.Event()
        self.fails_with: Exception | None = None
        self.gate: threading.Event | None = None
        self.started = threading.Event()
        self.clock: FakeClock | None = None
        self.seconds = 0.0
        self._lock = threading.Lock()

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | list[list[float]]:
        with self._lock:
            self.calls.append(list(items))
        self.started.set()
        if self.gate is not None:
            self.gate.wait(30)
        if self.clock is not None:
            self.clock.advance(self.seconds)
        if self.fails_with is not None:
            raise self.fails_with
        return [vector_of(item, kind, self.dimensions or 8) for item in items]

    def warm(self) -> None:
        self.warmed.set()

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """One token a word and two special ones; words of no ASCII letter are unknown."""
        self.readings += 1
        return [
            Reading(len(text.split()) + 2, sum(not word.isascii() for word in text.split()), 2)
            for text in texts
        ]

    def count_tokens(self, text: str) -> int:
        return self.read([text])[0].tokens

    @property
    def batch_sizes(self) -> list[int]:
        return [len(items) for items in self.calls]


class LlmStyleModel:
    """What a plugin for LLM registers: no base class, no kind, a generator."""

    model_id = "llm-style"
    supports_binary = False
    batch_size = 3

    def embed_batch(self, items: list[Item]) -> Iterator[list[float]]:
        for item in items:
            yield vector_of(item)


class FakeClock:
    """A clock that only moves when it is read or told to, for time limits without waiting."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 1000.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
