"""Write a collection to a file: whole, or not at all.

Imports ``errors``, ``store``, ``stored`` and each format's module. The file is written under
another name beside its own and renamed when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ..database import sqlite3, translated
from ..errors import OutdatedCollectionError, SourceError
from ..records import CollectionRecord
from ..store import Store
from .csv_files import CsvWriter
from .formats import FileFormat
from .jsonl import JsonlWriter
from .npy import NpyWriter, sidecar_of
from .parquet import ParquetWriter
from .stored import count_without_id, iter_entries
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
) -> ExportCounts:
    """Write the collection ``name`` to a file, or as text to an open one.

    Args:
        conn: a connection to the file that holds it.
        path: that file, named in errors.
        overwrite: replace a file that is there.
        report: called after each window with (entries done, entries in all).

    Raises:
        CollectionNotFoundError: there is no such collection.
        OutdatedCollectionError: it holds vectors of two versions of its model.
        SourceError: it has nothing to export, or the file cannot be written.
        MissingDependencyError: the format needs a package that is not installed.
    """
    with translated(path):
        store = Store(conn)
        collection = store.get_collection(name)
        total = _checked(store, collection, path, file_format)
    header = _header(collection)
    if not isinstance(target, Path):
        if not file_format.is_text:
            raise SourceError("-", f"{file_format} cannot be written to a pipe: name a file")
        writer = CsvWriter if file_format is FileFormat.CSV else JsonlWriter
        counts = _copy(conn, path, collection, writer(target, header), WINDOW, total, report)
        target.flush()
        return counts
    with _replacing(target, file_format, overwrite) as files:
        written = _writer(files, header, file_format)
        window = ROW_GROUP if file_format is FileFormat.PARQUET else WINDOW
        counts = _copy(conn, path, collection, written, window, total, report)
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


def _checked(store: Store, collection: CollectionRecord, path: str, file_format: FileFormat) -> int:
    """Return the number of entries of a collection that can be exported."""
    if collection.is_rebuilding:
        raise OutdatedCollectionError(
            collection.name, "is only partly embedded with the new version of its model"
        )
    if not (total := store.count(collection.id)):
        raise SourceError(path, f"collection '{collection.name}' has no entries to export")
    if file_format is FileFormat.NPY and not collection.dimensions:
        raise _nothing_usable(path, collection.name)
    return total


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


def _copy(
    conn: sqlite3.Connection,
    path: str,
    collection: CollectionRecord,
    writer: _Writer,
    window: int,
    total: int,
    report: Callable[[int, int], None],
) -> ExportCounts:
    counts = ExportCounts()
    with closing(writer), translated(path):
        counts.without_id = count_without_id(conn, collection)
        for entries in iter_entries(conn, collection, window):
            writer.write([entry for entry, _ in entries])
            counts.entries += len(entries)
            counts.without_vector += sum(entry.embedding is None for entry, _ in entries)
            counts.without_metadata += sum(is_left_out for _, is_left_out in entries)
            report(counts.entries, total)
        writer.finish()
    return counts


@contextmanager
def _replacing(target: Path, file_format: FileFormat, overwrite: bool) -> Iterator[list[BinaryIO]]:
    """Open files that take the place of the target's when the block ends well.

    Raises:
        SourceError: a file is there, or cannot be written.
    """
    targets = [target, sidecar_of(target)] if file_format is FileFormat.NPY else [target]
    if len(set(targets)) < len(targets):
        raise SourceError(str(target), "needs another name: a .json is written beside it")
    for path in targets:
        _check_target(path, overwrite)
    parts: list[Path] = []
    files: list[BinaryIO] = []
    try:
        for path in targets:
            # Where a link points to, so that the link stays one.
            path = path.resolve()
            parts.append(path.with_name(f".{path.name}.{os.getpid()}.part"))
            files.append(parts[-1].open("wb"))
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        # A kill between the two leaves a matrix without names, never one with other names.
        for path in targets[1:]:
            path.resolve().unlink(missing_ok=True)
        for part, path in zip(parts, targets, strict=True):
            os.replace(part, path.resolve())
    except OSError as error:
        reason = error.strerror or "the disk reports an error"
        raise SourceError(str(target), f"cannot be written: {reason}") from error
    finally:
        for file in files:
            file.close()
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise SourceError(str(path), "is a directory, not a file")
    if not path.absolute().parent.is_dir():
        raise SourceError(str(path), "its folder does not exist")
    if path.exists() and not path.is_file():
        raise SourceError(str(path), "is no ordinary file: use - for standard output")
    if path.exists() and not overwrite:
        raise SourceError(str(path), "is there already: give another name, or --overwrite")
