"""Chosen rows: a source limited to some of its rows.

Layer 7: imports ``records``. The run over such a source leaves everything else of the
collection as it is. Which rows are chosen is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .records import Row, RowSource


class ChosenRows:
    """The rows of a source with these ids; it is the same source to a collection.

    Args:
        source: read whole, since ids are never parsed; only the chosen rows come out.
        only: the ids.
    """

    def __init__(self, source: RowSource, only: frozenset[str]) -> None:
        self._source = source
        self.only = only

    def __str__(self) -> str:
        return f"{self._source}, {len(self.only):,} of its rows"

    @property
    def path(self) -> str:
        """The file, named in errors."""
        return self._source.path

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return self._source.name

    @property
    def definition(self) -> dict[str, Any] | None:
        """What is stored with the collection: that of the whole source."""
        return self._source.definition

    @property
    def is_binary(self) -> bool:
        """Whether the contents are bytes, not texts."""
        return self._source.is_binary

    def iter_windows(self, size: int = 1_000) -> Iterator[list[Row]]:
        """Yield the chosen rows, in lists of at most ``size``."""
        for window in self._source.iter_windows(size):
            chosen = [row for row in window if row.entry_id in self.only]
            if chosen:
                yield chosen
