"""Parquet, with pyarrow: the extra ``parquet``.

Imports ``errors`` and ``values``. What is said of the collection as a whole stands in the
metadata of the schema, under the names it has everywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import MissingDependencyError, SourceError
from .values import FIELDS, FileRow, Header, StoredEntry

_READ_ROWS = 1_000


def _pyarrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet") from error


class ParquetWriter:
    """Writes entries to an open file, every call one row group.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        pa = self._pa = _pyarrow()
        said = {
            "collection": header.collection,
            "model": header.model_id,
            "dimensions": header.dimensions,
            "metric": header.metric,
            "fingerprint": header.fingerprint,
        }
        self._schema = pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                # Not of fixed size: pyarrow 20 and older cannot read that where one is null.
                pa.field("embedding", pa.list_(pa.float32())),
                pa.field("content", pa.string()),
                pa.field("metadata", pa.string()),
                pa.field("content_hash", pa.string()),
                pa.field("content_blob", pa.binary()),
            ],
            metadata={name: str(value) for name, value in said.items() if value is not None},
        )
        self._writer = pa.parquet.ParquetWriter(file, self._schema)

    def write(self, entries: Sequence[StoredEntry]) -> None:
        """Write a row group of these entries."""
        import numpy as np

        columns = {
            "id": [e.entry_id for e in entries],
            "embedding": [
                None if e.embedding is None else np.frombuffer(e.embedding, dtype="<f4")
                for e in entries
            ],
            "content": [e.content for e in entries],
            "metadata": [e.metadata for e in entries],
            "content_hash": [e.content_hash.hex() if e.content_hash else None for e in entries],
            "content_blob": [e.content_blob for e in entries],
        }
        self._writer.write_table(self._pa.table(columns, schema=self._schema))

    def finish(self) -> None:
        """Write the footer."""
        self._writer.close()

    def close(self) -> None:
        """Let go of a file that is not finished."""
        with suppress(OSError, ValueError):
            self._writer.close()


class ParquetRows:
    """The rows of a file, as ``values.Rows``.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        SourceError: no Parquet, or without the columns ``id`` and ``embedding``.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.position = 0
        self.notes: list[str] = []
        self._pa = _pyarrow()
        try:
            self._file = self._pa.parquet.ParquetFile(path)
        except (self._pa.ArrowException, OSError) as error:
            raise SourceError(self.path, "is no Parquet file, or is cut short") from error
        self.size: int | None = self._file.metadata.num_rows
        self._names = self._checked_names()
        schema = self._file.schema_arrow
        said = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in (schema.metadata or {}).items()
        }
        length = said.get("dimensions", "")
        fixed = getattr(schema.field("embedding").type, "list_size", None)
        self.header = Header(
            said.get("collection"),
            said.get("model"),
            int(length) if length.isdecimal() else fixed,
            said.get("metric"),
            said.get("fingerprint"),
        )

    def _checked_names(self) -> list[str]:
        """Return the columns that are read."""
        names = list(self._file.schema_arrow.names)
        for name in ("id", "embedding"):
            if name not in names:
                self.close()
                raise SourceError(
                    self.path, f"has no column named '{name}'. Columns: {', '.join(names)}"
                )
        read = [n for n in FIELDS if n in names]
        if others := [name for name in names if name not in FIELDS]:
            self.notes.append(f"Not imported: {', '.join(others)}")
        return read

    def __iter__(self) -> Iterator[FileRow]:
        batches = self._file.iter_batches(_READ_ROWS, columns=self._names)
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                columns = {
                    name: _vectors(batch.column(name))
                    if name == "embedding"
                    else batch.column(name).to_pylist()
                    for name in self._names
                }
            except (self._pa.ArrowException, OSError, ValueError) as error:
                raise SourceError(self.path, f"is damaged after row {self.position:,}") from error
            for values in zip(*columns.values(), strict=True):
                self.position += 1
                fields = dict(zip(columns, values, strict=True))
                yield FileRow.from_fields(f"row {self.position}", fields)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _vectors(column: Any) -> list[Any]:
    """Return the values of the column, lists of numbers as arrays."""
    return [
        scalar.values.to_numpy(zero_copy_only=False)
        if scalar.is_valid and hasattr(scalar, "values")
        else scalar.as_py()
        for scalar in column
    ]
