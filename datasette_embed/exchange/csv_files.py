"""CSV with a header: one entry per row, its embedding as the text of a JSON array.

Imports ``errors``, ``input_files`` and ``values``. CSV knows no NULL: an empty value is none
at all, but for the id in a file that has the columns of an export.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ..errors import SourceError
from ..input_files import long_fields
from .values import FIELDS, FileRow, Header, StoredEntry, embedding_text

#: Bytes of the longest line that is read.
LONGEST_LINE = 256 * 1024 * 1024


class CsvWriter:
    """Writes entries to an open file, below a header of all columns."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._model = header.model_id
        self._write([FIELDS])

    def write(self, entries: Sequence[StoredEntry]) -> None:
        """Write one row for each entry."""
        self._write([self._row(entry) for entry in entries])

    def _row(self, entry: StoredEntry) -> tuple[str | None, ...]:
        blob = entry.content_blob
        return (
            entry.entry_id,
            embedding_text(entry.embedding) if entry.embedding is not None else None,
            entry.content,
            entry.metadata,
            entry.content_hash.hex() if entry.content_hash else None,
            self._model,
            base64.b64encode(blob).decode("ascii") if blob is not None else None,
        )

    def _write(self, rows: Sequence[Sequence[str | None]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue().encode("utf-8"))

    def finish(self) -> None:
        """Nothing is left to write."""

    def close(self) -> None:
        """Nothing is open but the file, which is the caller's."""


class CsvRows:
    """The rows of an open file, as ``values.Rows``.

    Raises:
        SourceError: the header has no ``id`` or no ``embedding``.
    """

    def __init__(self, file: BinaryIO, path: str, size: int | None = None) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self.header = Header()
        self.notes: list[str] = []
        self._file = file
        self._reader = csv.reader(self._lines())
        self._rows = self._read()
        self._names = next(self._records(), (0, []))[1]
        self._check_names()
        self._first = next(self._rows, None)
        if self._first is not None and self._first.problem is None:
            self.header = Header(model_id=self._first.model_id or None)

    def _check_names(self) -> None:
        if not self._names:
            raise SourceError(self.path, "is empty")
        for name in ("id", "embedding"):
            if name not in self._names:
                columns = ", ".join(self._names)
                raise SourceError(self.path, f"has no column named '{name}'. Columns: {columns}")
        for name in FIELDS:
            if self._names.count(name) > 1:
                raise SourceError(self.path, f"has two columns named '{name}'")
        if others := [name for name in self._names if name not in FIELDS]:
            self.notes.append(f"Not imported: {', '.join(others)}")

    def __iter__(self) -> Iterator[FileRow]:
        if self._first is not None:
            yield self._first
            self._first = None
        yield from self._rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(LONGEST_LINE):
            self.position += len(line)
            if self.position == len(line):
                line = line.removeprefix(b"\xef\xbb\xbf")
            # What is no UTF-8 must not end the whole: it is found again in the value.
            yield line.decode("utf-8", "surrogateescape")

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line where it begins, values) of every row that is not empty."""
        while True:
            start = self._reader.line_num + 1
            try:
                # Only here: between two rows other code runs, whose limit it is not.
                with long_fields():
                    values = next(self._reader, None)
            except csv.Error as error:
                raise SourceError(self.path, f"is no CSV at line {start}: {error}") from error
            if values is None:
                return
            if values:
                yield start, values

    def _read(self) -> Iterator[FileRow]:
        has_empty_id = self._names == list(FIELDS)
        for start, values in self._records():
            where = f"line {start}"
            if len(values) != len(self._names):
                count = len(self._names)
                problem = f"has {len(values)} values where the header has {count} columns"
                yield FileRow(where, problem=problem)
                continue
            texts = dict(zip(self._names, values, strict=True))
            fields = {name: text or None for name, text in texts.items()}
            if has_empty_id:
                fields["id"] = texts["id"]
            yield FileRow.from_fields(where, fields)
