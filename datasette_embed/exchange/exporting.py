"""Write a collection to a file: whole, or not at all.

Imports ``database``, ``errors``, ``records``, ``store``, ``replacing``, ``stored`` and each
format's module. A collection that is changed while it is read is not exported: one long read
would keep whoever writes to the file from committing, so it is compared at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ..database import sqlite3, translated
from ..errors import SourceError
from ..records import CollectionRecord
from ..store import Store
from .csv_files import CsvWriter
from .formats import FileFormat
from .jsonl import JsonlWriter
from .npy import NpyWriter, sidecar_of
from .parquet import ParquetWriter
from .replacing import replacing
from .stored import CollectionState, iter_entries, state_of
from .values import Header, StoredEntry

#: Entries in memory at once; of Parquet a row group, which should not be tiny.
WINDOW = 1_000
ROW_GROUP = 5_000


@dataclass
class ExportCounts:
    """What an export wrote.

    Attributes:
        entries: those in the file.
        without_vector: entries whose vector cannot be used.
        without_metadata: entries whose metadata is no JSON object, and was left out.
        without_id: entries of a damaged file that are left out, for they cannot be named.
    """

    entries: int = 0
    without_vector: int = 0
    without_metadata: int = 0
    without_id: int = 0


class _Writer(Protocol):
    def write(self, entries: list[StoredEntry]) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


def export_collection(
    conn: sqlite3.Connection,
    path: str,
    name: str,
    target: Path | BinaryIO,
    file_format: FileFormat,
    *,
    overwrite: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
    on_removed: Callable[[Path], None] = lambda path: None,
) -> ExportCounts:
    """Write the collection ``name`` to a file, or as text to an open one.

    Args:
        conn: a connection to the file that holds it.
        path: that file, named in errors.
        overwrite: replace a file that is there.
        report: called after each window with (entries done, entries in all).
        on_removed: called with each unfinished file of a killed export that is removed.

    Raises:
        CollectionNotFoundError: there is no such collection.
        OutdatedCollectionError: it holds vectors of two versions of its model.
        SourceError: it has nothing to export, was changed meanwhile, or the file cannot
            be written.
        MissingDependencyError: the format needs a package that is not installed.
    """
    with translated(path):
        store = Store(conn)
        state = state_of(store, name)
        collection = _checked(store, state, path, name, file_format)
    export = _Export(store, path, collection, state, report)
    header = _header(collection)
    if not isinstance(target, Path):
        if not file_format.is_text:
            raise SourceError("-", f"{file_format} cannot be written to a pipe: name a file")
        writer = CsvWriter if file_format is FileFormat.CSV else JsonlWriter
        counts = export.copy(writer(target, header), WINDOW)
        target.flush()
        return counts
    targets = [target, sidecar_of(target)] if file_format is FileFormat.NPY else [target]
    with replacing(targets, overwrite=overwrite, on_removed=on_removed) as files:
        written = _writer(files, header, file_format)
        counts = export.copy(written, ROW_GROUP if file_format is FileFormat.PARQUET else WINDOW)
        if file_format is FileFormat.NPY:
            counts.entries -= counts.without_vector
            if not counts.entries:
                raise _nothing_usable(path, name)
    return counts


def _header(collection: CollectionRecord) -> Header:
    return Header(
        collection.name,
        collection.model_id,
        collection.dimensions,
        collection.metric,
        collection.fingerprint,
    )


def _checked(
    store: Store, state: CollectionState, path: str, name: str, file_format: FileFormat
) -> CollectionRecord:
    """Return the record of a collection that can be exported."""
    collection = state.record or store.get_collection(name)
    collection.check_not_rebuilding()
    if not state.count:
        raise SourceError(path, f"collection '{name}' has no entries to export")
    if file_format is FileFormat.NPY and not collection.dimensions:
        raise _nothing_usable(path, name)
    return collection


def _nothing_usable(path: str, name: str) -> SourceError:
    return SourceError(path, f"no entry of '{name}' has a vector that can be used")


def _writer(files: list[BinaryIO], header: Header, file_format: FileFormat) -> _Writer:
    match file_format:
        case FileFormat.JSONL:
            return JsonlWriter(files[0], header)
        case FileFormat.CSV:
            return CsvWriter(files[0], header)
        case FileFormat.NPY:
            return NpyWriter(files[0], files[1], header)
        case FileFormat.PARQUET:
            return ParquetWriter(files[0], header)


@dataclass(frozen=True)
class _Export:
    """One export; ``state`` is what the collection was before the first entry was read."""

    store: Store
    path: str
    collection: CollectionRecord
    state: CollectionState
    report: Callable[[int, int], None]

    def copy(self, writer: _Writer, window: int) -> ExportCounts:
        """Write all entries, ``window`` at once in memory.

        Raises:
            SourceError: they are not all of one moment.
        """
        counts = ExportCounts()
        with closing(writer), translated(self.path):
            counts.without_id = self.store.count_without_text_id(self.collection.id)
            for entries in iter_entries(self.store, self.collection, window):
                writer.write([entry for entry, _ in entries])
                counts.entries += len(entries)
                counts.without_vector += sum(entry.embedding is None for entry, _ in entries)
                counts.without_metadata += sum(is_left_out for _, is_left_out in entries)
                self.report(counts.entries, self.state.count)
            if state_of(self.store, self.collection.name) != self.state:
                name = self.collection.name
                raise SourceError(
                    self.path, f"collection '{name}' changed while it was exported: run it again"
                )
            writer.finish()
        return counts
