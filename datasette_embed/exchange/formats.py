"""The formats by name: which one a file has, and what reads it.

Imports ``errors``, ``values`` and each format's module.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from ..errors import SourceError
from .csv_files import CsvRows
from .jsonl import JsonlRows
from .npy import NpyRows
from .parquet import ParquetRows
from .values import Rows


class FileFormat(StrEnum):
    """How a file holds a collection."""

    JSONL = "jsonl"
    CSV = "csv"
    NPY = "npy"
    PARQUET = "parquet"

    @property
    def is_text(self) -> bool:
        """Whether it can be written to and read from a pipe."""
        return self in (FileFormat.JSONL, FileFormat.CSV)


_SUFFIXES = {f".{name}": name for name in FileFormat} | {".ndjson": FileFormat.JSONL}


def format_of(path: Path) -> FileFormat:
    """Return the format that a file's name says.

    Raises:
        SourceError: it says none that is known.
    """
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise SourceError(
            str(path), f"its name does not say its format: --format {', '.join(FileFormat)}"
        )
    return found


def open_rows(source: Path | BinaryIO, file_format: FileFormat, name: str | None = None) -> Rows:
    """Open a file, or a pipe of text, to import it; the caller closes what comes back.

    Args:
        name: what to call it in errors; the path by default.

    Raises:
        SourceError: no such file, a directory, an empty file, or not of this format.
        MissingDependencyError: the format needs a package that is not installed.
    """
    if not isinstance(source, Path):
        if not file_format.is_text:
            raise SourceError(name or "-", f"{file_format} cannot be read from a pipe")
        return _open_text(source, file_format, name or "-", None)
    size = _size_of(source)
    if file_format is FileFormat.NPY:
        return NpyRows(source)
    if file_format is FileFormat.PARQUET:
        return ParquetRows(source)
    try:
        file = source.open("rb")
    except OSError as error:
        raise SourceError(str(source), error.strerror or "cannot be read") from error
    try:
        return _open_text(file, file_format, name or str(source), size)
    except BaseException:
        file.close()
        raise


def _open_text(file: BinaryIO, file_format: FileFormat, name: str, size: int | None) -> Rows:
    if file_format is FileFormat.CSV:
        return CsvRows(file, name, size)
    return JsonlRows(file, name, size)


def _size_of(path: Path) -> int | None:
    """Return the bytes of a file that is there; None for a pipe."""
    if path.is_dir():
        raise SourceError(str(path), "is a directory, not a file")
    if not path.exists():
        raise SourceError(str(path), "no such file")
    if not path.is_file():
        return None
    if not (size := path.stat().st_size):
        raise SourceError(str(path), "is empty")
    return size
