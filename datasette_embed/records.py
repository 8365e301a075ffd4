"""Records: a collection and its entries as values, read from and written to rows.

Layer 3: imports ``models`` and ``vectors``. What a row says, and nothing about how it is
stored; that is ``entries`` and ``store``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from .errors import OutdatedCollectionError
from .models import EmbeddingModel, Item, is_blank
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

    @classmethod
    def new(cls, name: str, model: EmbeddingModel, **options: Any) -> CollectionRecord:
        """Return a collection still to be made for a model; ``options`` are attributes."""
        given = {
            "dimensions": model.dimensions,
            "metric": model.metric,
            "fingerprint": model.fingerprint,
            **options,
        }
        return cls(0, name, model.model_id, **given)

    def is_same(self, other: CollectionRecord) -> bool:
        """Say whether two records, read at different times, can be of one collection.

        SQLite gives the id of a deleted collection to the next one.
        """
        return (self.id, self.name, self.model_id) == (other.id, other.name, other.model_id)

    def check_current(self, model: EmbeddingModel) -> None:
        """Refuse to compare vectors of this model with those of another version of it.

        Raises:
            OutdatedCollectionError: the collection holds such vectors.
            CallRefusedError: the files of the model are gone.
        """
        if self.fingerprint not in (None, model.fingerprint):
            model.check_there()
            raise OutdatedCollectionError(
                self.name,
                f"was embedded with another version of its model ({self.fingerprint}, "
                f"now {model.fingerprint})",
                can_sync=self.source is not None,
            )
        self.check_not_rebuilding()

    def check_not_rebuilding(self) -> None:
        """Refuse to compare vectors while those of two versions of a model are mixed.

        Raises:
            OutdatedCollectionError: they are.
        """
        if self.is_rebuilding:
            raise OutdatedCollectionError(
                self.name,
                "is only partly embedded with the new version of its model",
                can_sync=self.source is not None,
            )


@dataclass(frozen=True)
class EntryState:
    """What is stored for an entry, as far as deciding what is missing needs it."""

    content_hash: bytes | None
    has_content: bool
    vector_bytes: int | None = None
    metadata: str | None = None

    def is_current(self, digest: bytes, dimensions: int | None) -> bool:
        """Say whether the entry holds a vector of this content, of the right length."""
        is_whole = bool(self.vector_bytes) and (
            dimensions is None or self.vector_bytes == ITEM_SIZE * dimensions
        )
        return is_whole and self.content_hash == digest

    def refresh(self, row: Row, *, store: bool) -> Refresh | None:
        """Return what a row of the same content adds to the entry, or None.

        Args:
            store: whether the content is to be stored.
        """
        content = row.content if store and not self.has_content else None
        metadata = row.metadata if row.metadata != self.metadata else None
        if row.entry_id is None or (content is None and metadata is None):
            return None
        return Refresh(row.entry_id, self.content_hash, content, metadata)


@dataclass(frozen=True)
class NewEntry:
    """An entry to write.

    ``content`` (text or bytes) is given only when it is to be stored; ``metadata`` is JSON.
    """

    entry_id: str
    embedding: bytes
    content_hash: bytes | None
    content: Item | None = None
    metadata: str | None = None
    warnings: tuple[tuple[EntryWarning, int, int], ...] = ()


@dataclass(frozen=True)
class Refresh:
    """What to write for an entry whose vector stays; None leaves what is stored.

    ``content_hash`` is that of the entry as it was seen: one that has been embedded anew
    since is left alone.
    """

    entry_id: str
    content_hash: bytes | None
    content: Item | None = None
    metadata: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        entry_id: its id in the collection; None when the row cannot have one.
        content: the text or bytes to embed; blank means there is nothing to embed.
        problem: why this row cannot be embedded, or None.
        metadata: a JSON object to store with it, or None.
    """

    entry_id: str | None
    content: Item
    problem: str | None = None
    metadata: str | None = None

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to embed in this row."""
        if self.problem is not None:
            return False
        return is_blank(self.content) if isinstance(self.content, str) else not self.content


def check_entry_id(entry_id: Any) -> str:
    """Return an id as the text that is stored; numbers become text.

    Raises:
        ValueError: SQLite would not keep it as it is, or its JSON functions would cut it.
    """
    text = str(entry_id)
    if isinstance(entry_id, bytes) or entry_id is None or not is_storable(text):
        raise ValueError(
            "an id must be a number, or text without NUL and surrogate characters, "
            f"not {entry_id!r}"
        )
    return text


def is_storable(text: str) -> bool:
    """Say whether SQLite keeps a text as it is, and its JSON functions read all of it."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def content_hash(content: Item) -> bytes:
    """Return the md5 of the content, 16 bytes, as LLM computes it."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    return hashlib.md5(data, usedforsecurity=False).digest()


def entry_hash(
    content: Item,
    model: EmbeddingModel,
    digest: Callable[[Item], bytes] = content_hash,
) -> bytes:
    """Return the hash by which an entry is known to hold this content for this model.

    It is ``digest``, LLM's, but for bytes that a model of texts and bytes could take for a
    text: the two have different vectors, so the bytes get a hash of their own.
    """
    if isinstance(content, bytes) and model.supports_text:
        with suppress(UnicodeDecodeError):
            content.decode("utf-8")
            return digest(b"bytes\0" + content)
    return digest(content)


class RowSource(Protocol):
    """Where rows to embed come from. It is read once for the plan, and once for the run.

    Attributes:
        path: the file it is about, named in errors.
        name: what to call it in a sentence.
        definition: what is stored with the collection, so that ``sync`` can read the rows
            again; None when it cannot.
        is_binary: whether the contents are bytes, not texts.
    """

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def definition(self) -> dict[str, Any] | None: ...
    @property
    def is_binary(self) -> bool: ...

    def iter_windows(self, size: int = 1_000) -> Iterator[list[Row]]:
        """Yield the rows in lists of at most ``size``."""
        ...


def read_source(stored: str) -> dict[str, Any]:
    """Return a stored source definition; one that cannot be read stays one that is refused."""
    # A file may hold anything: brackets without end, too.
    with suppress(ValueError, TypeError, RecursionError):
        parsed = json.loads(stored)
        if isinstance(parsed, dict):
            return parsed
    return {"definition": str(stored)}
