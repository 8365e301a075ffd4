"""One entry and one collection as a file holds them, and the check of what a file says.

Imports ``errors``, ``models``, ``records`` and ``vectors``. What a format makes of these
values is the format's concern; nothing here opens a file.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import DimensionMismatchError, InvalidVectorError, SourceError
from ..models import Item
from ..records import NewEntry, check_entry_id, content_hash
from ..vectors import ITEM_SIZE, as_vectors, blob_is_usable, decode, encode

#: The names of an entry's values, in every format.
FIELDS = ("id", "embedding", "content", "metadata", "content_hash", "model", "content_blob")
#: Bytes of an md5.
HASH_SIZE = 16


@dataclass(frozen=True)
class Header:
    """What a file says of the collection as a whole; None for what it does not say."""

    collection: str | None = None
    model_id: str | None = None
    dimensions: int | None = None
    metric: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class StoredEntry:
    """An entry to export.

    ``embedding`` is None where no usable vector is stored; ``metadata`` is the JSON text of
    an object.
    """

    entry_id: str
    embedding: bytes | None
    content: str | None = None
    metadata: str | None = None
    content_hash: bytes | None = None
    content_blob: bytes | None = None


@dataclass(frozen=True)
class FileRow:
    """A row of a file as it was read, which may be anything.

    Attributes:
        where: what names the row to a person: ``line 3``.
        embedding: a blob, the text of a JSON array, or numbers.
        metadata: the text of a JSON object, or a dict.
        content_hash: 16 bytes, or their hexadecimal text.
        content_blob: bytes, or their base64 as text.
        problem: why nothing at all could be read of it, or None.

    Bytes may also be ``{"$base64": true, "encoded": …}``, as Datasette and sqlite-utils
    print them.
    """

    where: str
    entry_id: Any = None
    embedding: Any = None
    content: Any = None
    metadata: Any = None
    content_hash: Any = None
    content_blob: Any = None
    model_id: Any = None
    problem: str | None = None

    @classmethod
    def from_fields(cls, where: str, fields: dict[str, Any]) -> FileRow:
        """Return the row that an object or record with the names of ``FIELDS`` stands for."""
        return cls(
            where,
            fields.get("id"),
            fields.get("embedding"),
            fields.get("content"),
            fields.get("metadata"),
            fields.get("content_hash"),
            fields.get("content_blob"),
            fields.get("model"),
        )


class Rows(Protocol):
    """Something that can be imported: a file, or a table of vectors. Read once.

    Attributes:
        path: named in errors.
        header: what is said of the whole.
        notes: what a person should know before the import.
        size: how far there is to go, in rows or bytes; None when nobody knows.
        position: how far it has come, in the same unit.
    """

    path: str
    header: Header
    notes: list[str]
    size: int | None
    position: int

    def __iter__(self) -> Iterator[FileRow]: ...

    def close(self) -> None:
        """Close what is open."""


def check_row(row: FileRow, dimensions: int | None, model_id: str) -> NewEntry:
    """Return the entry that a row of a file stands for.

    Args:
        dimensions: the length its vector must have; None accepts any.
        model_id: the model whose vectors these are.

    Raises:
        SourceError: the row cannot be an entry; ``source`` is where it is.
    """
    if row.problem is not None:
        raise SourceError(row.where, row.problem)
    if row.model_id not in (None, "", model_id):
        raise SourceError(row.where, f"made with another model than {model_id}")
    try:
        content = _content(row)
        digest = _hash(row.content_hash)
        if digest is None and content is not None:
            digest = content_hash(content)
        return NewEntry(
            entry_id=_entry_id(row.entry_id),
            embedding=_blob(row.embedding, dimensions),
            content_hash=digest,
            content=content,
            metadata=_metadata(row.metadata),
        )
    except _Unusable as error:
        raise SourceError(row.where, str(error)) from error


def length_of(embedding: Any) -> int | None:
    """Return how many numbers an unchecked embedding seems to hold, or None."""
    try:
        found = _parsed(embedding)
    except _Unusable:
        return None
    if isinstance(found, bytes):
        return len(found) // ITEM_SIZE if len(found) % ITEM_SIZE == 0 else None
    return len(found) if hasattr(found, "__len__") else None


class _Unusable(ValueError):
    """A value that no entry can have; the message says why, and quotes nothing of it."""


def _entry_id(value: Any) -> str:
    if value is None:
        raise _Unusable("has no id")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Unusable("its id is neither text nor a number")
    try:
        return check_entry_id(value)
    except ValueError as error:
        raise _Unusable("its id holds NUL or half a character, which no id can") from error


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _Unusable(f"its {what} is not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unusable(f"its {what} is not UTF-8") from error
    return value


def _blob(value: Any, dimensions: int | None) -> bytes:
    if value is None or (isinstance(value, str) and not value):
        raise _Unusable("has no embedding")
    parsed = _parsed(value)
    try:
        vector = decode(parsed) if isinstance(parsed, bytes) else parsed
        blob = encode(as_vectors([vector], dimensions=dimensions)[0])
    except DimensionMismatchError as error:
        reason = f"has {error.actual} dimensions where the collection has {error.expected}"
        raise _Unusable(reason) from error
    except InvalidVectorError as error:
        reason = error.reason.removeprefix("row 0: ")
        raise _Unusable(f"its embedding cannot be used: {reason}") from error
    if not blob_is_usable(blob):
        raise _Unusable("its embedding cannot be used: it is zero, which no search finds")
    return blob


def _parsed(embedding: Any) -> Any:
    """Return the text of a JSON array as a list, bytes in JSON as bytes, the rest as it is."""
    if isinstance(embedding, dict):
        return _bytes(embedding, "embedding")
    if not isinstance(embedding, str):
        return embedding
    try:
        return json.loads(embedding)
    except (ValueError, RecursionError) as error:
        raise _Unusable("its embedding is no JSON array") from error


def _content(row: FileRow) -> Item | None:
    has_text = row.content is not None
    has_blob = row.content_blob not in (None, "")
    if has_text and has_blob:
        raise _Unusable("has both content and content_blob, of which an entry has one")
    if has_blob:
        return _bytes(row.content_blob, "content_blob")
    return _text(row.content, "content") if has_text else None


def _bytes(value: Any, what: str) -> bytes:
    if isinstance(value, bytes):
        return value
    encoded: Any = value.get("encoded") if isinstance(value, dict) else value
    try:
        return base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise _Unusable(f"its {what} cannot be read as base64") from error


def _hash(value: Any) -> bytes | None:
    if value in (None, "", b""):
        return None
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else _bytes(value, "content_hash")
    except ValueError as error:
        if isinstance(error, _Unusable):
            raise
        raise _Unusable("its content_hash is no hexadecimal text") from error
    if len(digest) != HASH_SIZE:
        raise _Unusable(f"its content_hash has {len(digest)} bytes, not {HASH_SIZE}")
    return digest


def _metadata(value: Any) -> str | None:
    """Return metadata as LLM stores it: the text of a JSON object, None when it is empty."""
    if value is None or value == "":
        return None
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        if not isinstance(parsed, dict):
            raise _Unusable("its metadata is no JSON object")
        text = json.dumps(parsed, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, _Unusable):
            raise
        raise _Unusable("its metadata is no JSON") from error
    if not parsed:
        return None
    # A text is kept as it was written.
    return _text(value, "metadata") if isinstance(value, str) else text


def embedding_text(blob: bytes | None) -> str:
    """Return a blob as a JSON array that gives back every float32 exactly, or ``null``.

    Nine significant digits tell any two float32 apart (IEEE 754-2008, 5.12.2).
    """
    if blob is None:
        return "null"
    import numpy as np

    vector = decode(blob)
    numbers = vector.tolist()
    if np.signbit(vector[vector == 0]).any():
        return json.dumps(numbers)  # "%.9g" writes -0, which JSON takes for the integer 0
    return "[" + ",".join(["%.9g"] * len(numbers)) % tuple(numbers) + "]"


def base64_object(content: bytes) -> dict[str, Any]:
    """Return bytes as the JSON object that Datasette writes for them."""
    return {"$base64": True, "encoded": base64.b64encode(content).decode("ascii")}
