"""numpy's own file of one matrix, and beside it JSON Lines that say what its rows are.

Imports ``errors``, ``jsonl`` and ``values``. ``NAME.npy`` holds float32 ``(n, dimensions)``,
which ``numpy.load`` reads without pickle. The first line of ``NAME.npy.jsonl`` is an object
with ``collection``, ``model``, ``dimensions``, ``metric`` and ``fingerprint``; then, in the
order of the matrix, comes a line for each row with its ``id`` and, where they are stored,
``content``, ``metadata``, ``content_hash`` and ``content_blob``. Both are written and read
row by row, so that memory does not grow with them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SourceError
from .jsonl import NotAnObjectError, iter_lines, object_of
from .values import FileRow, Header, StoredEntry, base64_object

#: Bytes before the numbers. Version 1.0 of the format (numpy/lib/format.py) wants a
#: multiple of 64, and says the shape there; this leaves room for any.
HEADER_SIZE = 128
_MAGIC = b"\x93NUMPY\x01\x00"


def sidecar_of(path: Path) -> Path:
    """Return the file of lines that belongs to a matrix.

    Not ``NAME.jsonl``: that is what an export of the same collection is called.
    """
    return path.with_name(f"{path.name}.jsonl")


class NpyWriter:
    """Writes entries to two open files; those without a vector are left out."""

    def __init__(self, file: BinaryIO, sidecar: BinaryIO, header: Header) -> None:
        self._file = file
        self._sidecar = sidecar
        self._dimensions = header.dimensions or 0
        self._count = 0
        file.write(bytes(HEADER_SIZE))
        said = {
            "collection": header.collection,
            "model": header.model_id,
            "dimensions": header.dimensions,
            "metric": header.metric,
            "fingerprint": header.fingerprint,
        }
        sidecar.write(_line(said))

    def write(self, entries: Sequence[StoredEntry]) -> None:
        """Write the vector of each entry, and a line with its id and what else is stored."""
        for entry in entries:
            if entry.embedding is None:
                continue
            self._file.write(entry.embedding)
            self._sidecar.write(_line(_fields(entry)))
            self._count += 1

    def finish(self) -> None:
        """Write the header, now that the number of rows is known."""
        shape = f"({self._count}, {self._dimensions})"
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        length = HEADER_SIZE - len(_MAGIC) - 2
        self._file.seek(0)
        self._file.write(_MAGIC + struct.pack("<H", length))
        self._file.write(text.ljust(length - 1).encode("ascii") + b"\n")

    def close(self) -> None:
        """Nothing is open but the files, which are the caller's."""


def _fields(entry: StoredEntry) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": entry.entry_id}
    if entry.content is not None:
        fields["content"] = entry.content
    if entry.metadata is not None:
        fields["metadata"] = json.loads(entry.metadata)
    if entry.content_hash is not None:
        fields["content_hash"] = entry.content_hash.hex()
    if entry.content_blob is not None:
        fields["content_blob"] = base64_object(entry.content_blob)
    return fields


class NpyRows:
    """The rows of a matrix, as ``values.Rows``.

    Raises:
        SourceError: no such matrix, or no file of lines beside it that fits.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.position = 0
        self.notes: list[str] = []
        self._matrix = _opened(path)
        self.size: int | None = len(self._matrix)
        self._sidecar = _Sidecar(sidecar_of(path))
        try:
            self.header = self._checked_header(path.name)
        except BaseException:
            self.close()
            raise

    def _checked_header(self, name: str) -> Header:
        said, count = self._sidecar.read_header()
        dimensions = said.get("dimensions")
        if dimensions not in (None, self._matrix.shape[1]):
            raise SourceError(
                self._sidecar.path,
                f"says {dimensions} dimensions, and {name} has {self._matrix.shape[1]}",
            )
        if count != self.size:
            raise SourceError(
                self._sidecar.path,
                f"has {count:,} lines below the first for {self.size:,} rows of vectors",
            )
        texts = {
            name: said[name] if isinstance(said.get(name), str) and said[name] else None
            for name in ("collection", "model", "metric", "fingerprint")
        }
        return Header(
            texts["collection"],
            texts["model"],
            self._matrix.shape[1],
            texts["metric"],
            texts["fingerprint"],
        )

    def __iter__(self) -> Iterator[FileRow]:
        for number, line in enumerate(self._sidecar.iter_entries()):
            where = f"row {number}"
            self.position = number + 1
            try:
                fields = object_of(line)
            except NotAnObjectError as error:
                yield FileRow(where, problem=f"its line {error}")
                continue
            yield FileRow.from_fields(where, {**fields, "embedding": self._matrix[number]})

    def close(self) -> None:
        """Let go of the matrix, and close the file beside it."""
        self._matrix = self._matrix[:0]
        self._sidecar.close()


class _Sidecar:
    """The lines beside a matrix; those that are blank do not count.

    The file stays open, so that one that takes its place is not read with the old matrix.

    Raises:
        SourceError: no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        try:
            self._file = path.open("rb")
        except FileNotFoundError as error:
            raise SourceError(
                self.path, "no such file: a matrix needs it to say its ids (and its model)"
            ) from error
        except OSError as error:
            raise SourceError(self.path, error.strerror or "cannot be read") from error

    def read_header(self) -> tuple[dict[str, Any], int]:
        """Return the object of the first line, and how many lines come below it.

        Raises:
            SourceError: the first line says nothing of the whole.
        """
        lines = self._lines()
        try:
            header = object_of(next(lines, b""))
        except NotAnObjectError as error:
            raise SourceError(self.path, f"its first line {error}") from error
        if "id" in header:
            raise SourceError(
                self.path, 'begins with an entry: put a line {"model": …} or {} before it'
            )
        return header, sum(1 for _ in lines)

    def iter_entries(self) -> Iterator[bytes]:
        """Yield every line below the first."""
        lines = self._lines()
        next(lines, None)
        yield from lines

    def _lines(self) -> Iterator[bytes]:
        self._file.seek(0)
        for _, line in iter_lines(self._file, self.path):
            if line.strip():
                yield line

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _opened(path: Path) -> Any:
    """Return the matrix as an array that is read from disk when it is used."""
    import numpy as np

    try:
        matrix = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, SyntaxError) as error:
        raise SourceError(str(path), "is no numpy file of numbers, or is cut short") from error
    except OSError as error:
        raise SourceError(str(path), error.strerror or "cannot be read") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise SourceError(
            str(path),
            f"holds {matrix.dtype} of shape {matrix.shape}: it takes float32 of shape "
            "(rows, dimensions)",
        )
    if not matrix.size:
        raise SourceError(str(path), "holds no rows")
    return matrix


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode("utf-8") + b"\n"
