"""Records: a collection and its entries as values, read from and written to rows.

Layer 4: imports ``vectors``. What a row says, and nothing about how it is stored; that is
``store``.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .vectors import ITEM_SIZE


class EntryWarning(StrEnum):
    """Why the vector of an entry does not speak for the whole of its text."""

    TRUNCATED = "truncated"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class CollectionRecord:
    """One collection: LLM's row and what we keep beside it.

    ``is_rebuilding``: its model changed and not every entry has been embedded again.
    ``source``, ``fingerprint`` and ``created_at`` are None for a collection that
    another tool made; ``dimensions`` is None while it is empty.
    """

    id: int
    name: str
    model_id: str
    dimensions: int | None = None
    metric: str = "cosine"
    fingerprint: str | None = None
    source: dict[str, Any] | None = None
    store: bool = False
    is_rebuilding: bool = False
    created_at: str | None = None


@dataclass(frozen=True)
class EntryState:
    """What is stored for an entry, as far as deciding what is missing needs it."""

    content_hash: bytes | None
    has_content: bool
    vector_bytes: int | None = None

    def is_current(self, digest: bytes, dimensions: int | None) -> bool:
        """Say whether the entry holds a vector of this content, of the right length."""
        is_whole = bool(self.vector_bytes) and (
            dimensions is None or self.vector_bytes == ITEM_SIZE * dimensions
        )
        return is_whole and self.content_hash == digest


@dataclass(frozen=True)
class NewEntry:
    """An entry to write. ``content`` is given only when it is to be stored."""

    entry_id: str
    embedding: bytes
    content_hash: bytes
    content: str | None = None
    warnings: tuple[tuple[EntryWarning, int, int], ...] = ()


def content_hash(content: str | bytes) -> bytes:
    """Return the md5 of the content, 16 bytes, as LLM computes it."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    return hashlib.md5(data, usedforsecurity=False).digest()


def read_source(stored: str) -> dict[str, Any]:
    """Return a stored source definition; one that cannot be read stays one that is refused."""
    with suppress(ValueError, TypeError):
        parsed = json.loads(stored)
        if isinstance(parsed, dict):
            return parsed
    return {"definition": str(stored)}
