"""JSON Lines: one object per entry, one entry per line.

Imports ``errors`` and ``values``. Lines end at a line feed only, for JSON text may hold every
other character that Python would break a line at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from ..errors import SourceError
from .values import FIELDS, FileRow, Header, StoredEntry, base64_object, embedding_text

#: Bytes of the longest line that is read. A file without line feeds is no JSON Lines, and
#: must not be read into memory to find that out.
LONGEST_LINE = 256 * 1024 * 1024


class JsonlWriter:
    """Writes entries to an open file."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._model = _text(header.model_id)

    def write(self, entries: Sequence[StoredEntry]) -> None:
        """Write one line for each entry."""
        self._file.write("".join(map(self._line, entries)).encode("utf-8"))

    def _line(self, entry: StoredEntry) -> str:
        digest = entry.content_hash.hex() if entry.content_hash else None
        # Parsed and written again, for stored metadata may have line feeds in it.
        metadata = json.loads(entry.metadata) if entry.metadata else None
        blob = ""
        if entry.content_blob is not None:
            blob = f', "content_blob": {_text(base64_object(entry.content_blob))}'
        return (
            f'{{"id": {_text(entry.entry_id)}, "embedding": {embedding_text(entry.embedding)},'
            f' "content": {_text(entry.content)}, "metadata": {_text(metadata)},'
            f' "content_hash": {_text(digest)}, "model": {self._model}{blob}}}\n'
        )

    def finish(self) -> None:
        """Nothing is left to write."""

    def close(self) -> None:
        """Nothing is open but the file, which is the caller's."""


class JsonlRows:
    """The lines of an open file, as ``values.Rows``.

    The first line that can be read says which model made the vectors.
    """

    def __init__(self, file: BinaryIO, path: str, size: int | None = None) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self.header = Header()
        self.notes: list[str] = []
        self._file = file
        self._seen: list[FileRow] = []
        self._rows = self._read()
        for row in self._rows:
            self._seen.append(row)
            if row.problem is None:
                model_id = row.model_id if isinstance(row.model_id, str) else None
                self.header = Header(model_id=model_id or None)
                break

    def __iter__(self) -> Iterator[FileRow]:
        yield from self._seen
        self._seen = []
        yield from self._rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> Iterator[FileRow]:
        for number, line in iter_lines(self._file, self.path):
            self.position += len(line)
            if line.strip():
                yield self._row(f"line {number}", line)

    def _row(self, where: str, line: bytes) -> FileRow:
        try:
            fields = object_of(line)
        except NotAnObjectError as error:
            return FileRow(where, problem=str(error))
        if not self.notes and (others := [name for name in fields if name not in FIELDS]):
            self.notes.append(f"Not imported: {', '.join(others)}")
        return FileRow.from_fields(where, fields)


class NotAnObjectError(ValueError):
    """A line that is no JSON object; the message says why, and quotes nothing of it."""


def iter_lines(file: BinaryIO, path: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of an open file, from 1, with its line feed, blank ones too.

    Raises:
        SourceError: a line is longer than ``LONGEST_LINE``.
    """
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            raise SourceError(path, f"line {number} is too long: is this JSON Lines?")
        yield number, line


def object_of(line: bytes) -> dict[str, Any]:
    """Return the object of a line, which may begin with a byte order mark.

    Raises:
        NotAnObjectError: there is none.
    """
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise NotAnObjectError("is not UTF-8") from error
    except json.JSONDecodeError as error:
        reason = f"is no JSON: {error.msg} at character {error.pos + 1}"
        raise NotAnObjectError(reason) from error
    except (ValueError, RecursionError) as error:
        raise NotAnObjectError("is no JSON that can be read") from error
    if not isinstance(fields, dict):
        raise NotAnObjectError("is no JSON object")
    return fields


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
