"""Models that fail in chosen ways, for the tests of the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from datasette_embed.errors import ProviderError
from datasette_embed.models import Batch, Item, Kind
from tests.fakes import CountingModel


class FailingModel(CountingModel):
    """A counting model that fails for certain texts, or on certain calls.

    Attributes:
        bad: a call that has one of these among its items fails.
        error: makes what is raised then.
        script: exceptions for the next calls, one each; None lets a call pass.
        change: what to do with the vectors of a call before they are returned.
        after_call: called with the number of calls so far, before a call returns.
    """

    def __init__(self, bad: Iterable[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.bad = set(bad)
        self.error: Callable[[], Exception] = lambda: ProviderError(self.model_id, "cannot")
        self.script: list[Exception | None] = []
        self.change: Callable[[list[Item], list[Sequence[float]]], Any] | None = None
        self.after_call: Callable[[int], None] | None = None

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | list[list[float]]:
        vectors = super().embed_batch(items, kind=kind, key=key)
        if self.script and (error := self.script.pop(0)):
            raise error
        if self.bad & set(items):
            raise self.error()
        if self.after_call:
            self.after_call(len(self.calls))
        return self.change(items, vectors) if self.change else vectors

    @property
    def items(self) -> list[Item]:
        """Every item of every call, in order."""
        return [item for call in self.calls for item in call]


class PauseThatNeverWaits(threading.Event):
    """A pause whose waits end at once; ``waits`` says how long they would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return self.is_set()
