"""Files that take the place of others when they are complete, and not before.

Imports ``errors``. What is being written has the name ``.NAME.PID.part`` beside its target;
the process of that number can be killed, and then nobody else removes it. What is in the
files is not known here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import SourceError

#: Where os.kill ends a process, whatever the signal, instead of asking for it.
_IS_WINDOWS = os.name == "nt"
_SQLITE_MAGIC = b"SQLite format 3\0"


@contextmanager
def replacing(
    targets: Sequence[Path],
    *,
    overwrite: bool = False,
    on_removed: Callable[[Path], None] = lambda path: None,
) -> Iterator[list[BinaryIO]]:
    """Open files that take the place of the targets when the block ends well.

    The first target is the one that the others say something about. What a killed process
    left of the same targets is removed at the beginning.

    Args:
        overwrite: replace files that are there.
        on_removed: called with each file that was left and is removed.

    Raises:
        SourceError: a file is there, or cannot be written.
    """
    for path in targets:
        _check_target(path, overwrite)
    parts: list[Path] = []
    files: list[BinaryIO] = []
    try:
        for path in targets:
            # Where a link points to, so that the link stays one.
            path = path.resolve()
            _remove_left_over(path, on_removed)
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
        raise SourceError(str(targets[0]), f"cannot be written: {reason}") from error
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
    if path.is_file() and _is_database(path):
        raise SourceError(str(path), "is a SQLite database, which no export replaces")
    if path.exists() and not overwrite:
        raise SourceError(str(path), "is there already: give another name, or --overwrite")


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError:
        return False  # what cannot be read is refused when it is to be written, if at all


def _remove_left_over(target: Path, on_removed: Callable[[Path], None]) -> None:
    """Remove what processes that are gone left of this target."""
    if _IS_WINDOWS:
        return
    is_part = re.compile(rf"\.{re.escape(target.name)}\.([0-9]+)\.part")
    for path in list(target.parent.iterdir()):
        found = is_part.fullmatch(path.name)
        if found and _is_gone(int(found[1])):
            # What cannot be removed is somebody else's, and in nobody's way.
            with suppress(OSError):
                path.unlink()
                on_removed(path)


def _is_gone(process_id: int) -> bool:
    """Say whether there is surely no such process."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # somebody else's process, or no number that a process can have
    return False
