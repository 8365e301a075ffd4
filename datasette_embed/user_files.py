"""Small files in a user's folder: read, and replaced whole.

Layer 1: imports ``errors``. A file is replaced in one step, so that a reader never meets
half of it; of two commands that change one at the same moment the last one wins. What the
files mean is said elsewhere.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import SourceError


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
