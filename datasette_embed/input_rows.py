"""How what is read becomes a row: ids, texts, metadata and windows.

Layer 4: imports ``models`` and ``records``. Values in, ``Row`` and its parts out; no file, no
database and no format belongs here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .models import is_blank
from .records import Row

#: A window of rows also ends when it holds so many bytes, or characters.
WINDOW_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Shape:
    """How a record becomes a row.

    Attributes:
        prefix: put before each id.
        prepend: put before each text; the stored content and its hash include it.
        metadata_columns: columns kept as the entry's metadata, and left out of its text.
    """

    prefix: str = ""
    prepend: str = ""
    metadata_columns: tuple[str, ...] = ()

    def text(self, content: str) -> str:
        """Return the text to embed; nothing is put before a text that is blank."""
        return "" if is_blank(content) else self.prepend + content


#: A record's first column is its id and the others are its text.
AS_IT_IS = Shape()


def windows(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield the rows in lists of at most ``size``, or about 32 MB."""
    window: list[Row] = []
    size_bytes = 0
    for row in rows:
        window.append(row)
        size_bytes += len(row.content)
        if len(window) >= size or size_bytes >= WINDOW_BYTES:
            yield window
            window, size_bytes = [], 0
    if window:
        yield window


def id_of(value: Any) -> str:
    """Return a value as an id.

    Raises:
        ValueError: it is none.
    """
    if value is None:
        raise ValueError("it is NULL")
    if isinstance(value, list | dict):
        raise ValueError("it is a list or an object")
    text = checked(text_of(value))
    if not text:
        raise ValueError("it is empty")
    if "\0" in text:
        # SQLite's JSON functions end a text there.
        raise ValueError("it holds the character NUL")
    return text


def text_of(value: Any) -> str:
    """Return a value as text: numbers as Python writes them, all else as JSON.

    Raises:
        ValueError: it is binary.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        raise ValueError("binary content, or text that is not UTF-8")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return json_of(value)


def json_of(value: Any, *, ensure_ascii: bool = False) -> str:
    """Return a value as JSON.

    Raises:
        ValueError: there is binary content in it, or a number that is none.
    """
    try:
        return json.dumps(value, ensure_ascii=ensure_ascii, allow_nan=False)
    except TypeError as error:
        raise ValueError("binary content cannot be kept as metadata") from error


def checked(text: str) -> str:
    """Return a text that can be stored.

    Raises:
        ValueError: it holds half of a surrogate pair, which is no character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("holds half a character (a lone surrogate)") from error
    return text
