"""Small files in a user's folder: read, and replaced whole.

Layer 1: imports ``errors``. A file is replaced in one step, so that a reader never meets
half of it, and whoever changes what is in one does so inside ``changing``, so that of two
commands at the same moment neither loses the other's change. What the files mean is said
elsewhere.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import SourceError

try:
    import fcntl
except ImportError:  # Windows, where the last of two commands wins
    fcntl = None  # type: ignore[assignment]

#: How long a command waits for another one that is changing a file, which takes milliseconds.
PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.01


def read_json(path: Path, missing: Any) -> Any:
    """Return what a JSON file holds, or ``missing`` where there is no file.

    Raises:
        SourceError: the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return missing
    except (OSError, ValueError) as error:
        raise SourceError(
            str(path), f"cannot be read as JSON ({error}); mend or remove it"
        ) from error


def read_line(path: Path) -> str | None:
    """Return the text of a file without the white space around it; None: empty or no file.

    Raises:
        SourceError: the file cannot be read as text.
    """
    try:
        return path.read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SourceError(
            str(path), f"cannot be read as text ({error}); mend or remove it"
        ) from error


@contextmanager
def changing(path: Path, *, adds: bool = True) -> Iterator[None]:
    """Keep everybody else who comes through here from changing this file meanwhile.

    What is read inside is what the change is made to. The folder itself is what is locked: it
    needs no file more, and the system lets go of it however a process ends.

    Args:
        adds: make the folder if there is none; there is nothing in it to take away.

    Raises:
        SourceError: the folder cannot be used, or somebody else has been at it for too long.
    """
    folder = Path(os.path.realpath(path)).parent
    if fcntl is None or not (adds or folder.exists()):
        yield
        return
    try:
        if adds:
            folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise SourceError(str(path), f"cannot be written ({error})") from error
    try:
        _lock(handle, path)
        yield
    finally:
        os.close(handle)  # and the lock with it


def _lock(handle: int, path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise SourceError(
                    str(path), "is being changed by another command; try again when that has ended"
                ) from error
            time.sleep(_PAUSE_SECONDS)
        except OSError:  # some network file systems lock no folders
            return


def replace_text(path: Path, text: str) -> None:
    """Write a file in one step; its folder is made, its permissions are kept.

    A new file can be read by its owner only. A link stays one: the file it leads to is
    replaced.

    Raises:
        SourceError: it cannot be written. A file that was there is left as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                # Else, after a crash, the new name may stand for a file without content.
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o777)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):  # the first error is the one to be told
                os.unlink(temporary)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise SourceError(str(path), f"cannot be written ({error})") from error


def _sync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder, where the system can be asked to."""
    with suppress(OSError):  # Windows opens no folders, and some file systems sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_file(path: Path) -> None:
    """Remove a file; one that is not there is fine.

    Raises:
        SourceError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(str(path), f"cannot be removed ({error})") from error
