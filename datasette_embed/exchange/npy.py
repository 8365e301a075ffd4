"""numpy's own file of one matrix, and beside it a JSON file that says what its rows are.

Imports ``errors`` and ``values``. ``NAME.npy`` holds float32 ``(n, dimensions)``, which
``numpy.load`` reads without pickle; ``NAME.json`` holds ``collection``, ``model``,
``dimensions``, ``metric``, ``fingerprint``, ``ids`` and, in the same order, ``entries`` with
the content, metadata and hash of each.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SourceError
from .values import FileRow, Header, StoredEntry, base64_object

#: Bytes before the numbers. Version 1.0 of the format (numpy/lib/format.py) wants a
#: multiple of 64, and says the shape there; this leaves room for any.
HEADER_SIZE = 128
_MAGIC = b"\x93NUMPY\x01\x00"


def sidecar_of(path: Path) -> Path:
    """Return the JSON file that belongs to a matrix."""
    return path.with_suffix(".json")


class NpyWriter:
    """Writes entries to two open files; those without a vector are left out."""

    def __init__(self, file: BinaryIO, sidecar: BinaryIO, header: Header) -> None:
        self._file = file
        self._sidecar = sidecar
        self._dimensions = header.dimensions or 0
        self._count = 0
        self._has_entries = False
        self._entries = tempfile.TemporaryFile()
        file.write(bytes(HEADER_SIZE))
        said = {
            "collection": header.collection,
            "model": header.model_id,
            "dimensions": header.dimensions,
            "metric": header.metric,
            "fingerprint": header.fingerprint,
        }
        sidecar.write(_json(said)[:-1] + b', "ids": [')

    def write(self, entries: Sequence[StoredEntry]) -> None:
        """Write the vector of each entry, its id, and what else is stored of it."""
        for entry in entries:
            if entry.embedding is None:
                continue
            comma = b",\n" if self._count else b"\n"
            self._file.write(entry.embedding)
            self._sidecar.write(comma + _json(entry.entry_id))
            fields = _fields(entry)
            self._has_entries = self._has_entries or bool(fields)
            self._entries.write(comma + _json(fields))
            self._count += 1

    def finish(self) -> None:
        """Write the header, now that the number of rows is known, and the second list."""
        shape = f"({self._count}, {self._dimensions})"
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        length = HEADER_SIZE - len(_MAGIC) - 2
        self._file.seek(0)
        self._file.write(_MAGIC + struct.pack("<H", length))
        self._file.write(text.ljust(length - 1).encode("ascii") + b"\n")
        self._sidecar.write(b"\n]")
        if self._has_entries:
            self._sidecar.write(b', "entries": [')
            self._entries.seek(0)
            shutil.copyfileobj(self._entries, self._sidecar)
            self._sidecar.write(b"\n]")
        self._sidecar.write(b"}\n")

    def close(self) -> None:
        """Drop what is kept for the second list."""
        self._entries.close()


def _fields(entry: StoredEntry) -> dict[str, Any]:
    fields: dict[str, Any] = {}
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
        SourceError: no such matrix, or no JSON file beside it that fits.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.position = 0
        self.notes: list[str] = []
        self._matrix = _opened(path)
        self.size: int | None = len(self._matrix)
        sidecar = sidecar_of(path)
        said = _read_sidecar(sidecar)
        self._ids = _list_of(sidecar, said, "ids", len(self._matrix))
        entries = said.get("entries")
        self._entries: list[Any] = (
            [] if entries is None else _list_of(sidecar, said, "entries", len(self._matrix))
        )
        dimensions = said.get("dimensions")
        if dimensions not in (None, self._matrix.shape[1]):
            raise SourceError(
                str(sidecar),
                f"says {dimensions} dimensions, and {path.name} has {self._matrix.shape[1]}",
            )
        texts = {
            name: said[name] if isinstance(said.get(name), str) and said[name] else None
            for name in ("collection", "model", "metric", "fingerprint")
        }
        self.header = Header(
            texts["collection"],
            texts["model"],
            self._matrix.shape[1],
            texts["metric"],
            texts["fingerprint"],
        )

    def __iter__(self) -> Iterator[FileRow]:
        for number, entry_id in enumerate(self._ids):
            self.position = number + 1
            where = f"row {number}"
            fields = self._entries[number] if self._entries else {}
            if not isinstance(fields, dict):
                yield FileRow(where, problem="its entry is no JSON object")
                continue
            named = {**fields, "id": entry_id, "embedding": self._matrix[number]}
            yield FileRow.from_fields(where, named)

    def close(self) -> None:
        """Let go of the matrix."""
        self._matrix = self._matrix[:0]


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


def _read_sidecar(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise SourceError(
            str(path), "no such file: a matrix needs it to say its ids (and its model)"
        )
    try:
        said = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SourceError(str(path), "is no JSON") from error
    except OSError as error:
        raise SourceError(str(path), error.strerror or "cannot be read") from error
    if not isinstance(said, dict):
        raise SourceError(str(path), "is no JSON object")
    return said


def _list_of(path: Path, said: dict[str, Any], name: str, count: int) -> list[Any]:
    found = said.get(name)
    if not isinstance(found, list):
        raise SourceError(str(path), f"has no list '{name}'")
    if len(found) != count:
        raise SourceError(str(path), f"has {len(found):,} {name} for {count:,} rows of vectors")
    return found


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8")
