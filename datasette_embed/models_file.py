"""The models file: what a user has registered with ``datasette embed models register``.

Layer 2: imports ``settings`` and ``errors``. A JSON list in the user's folder, in the
shape of plugin config ``models``. It is replaced whole, so that a reader never meets half
of it. No model is built here.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .errors import ConfigError, SourceError, UnknownModelError
from .settings import ModelEntry, models_file, parse_model_entries


def read_model_entries() -> tuple[ModelEntry, ...]:
    """Return the entries of the user's models file; none when there is no file.

    Raises:
        SourceError: the file cannot be read, or is not such a list.
    """
    path = models_file()
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise SourceError(str(path), f"cannot be read as JSON ({error}); mend or remove it") from (
            error
        )
    try:
        return parse_model_entries(value)
    except ConfigError as error:
        raise SourceError(str(path), f"{error}; mend or remove it") from error


def add_model_entry(entry: ModelEntry) -> Path:
    """Add an entry to the models file, in place of one with the same id.

    Returns:
        The path of the file that was written.

    Raises:
        SourceError: the file cannot be read or written. It is left as it was.
    """
    kept = [known for known in read_model_entries() if known.resolved_id != entry.resolved_id]
    return _write([*kept, entry])


def remove_model_entry(name: str) -> ModelEntry:
    """Remove the entry of this id or alias from the models file, and return it.

    Raises:
        UnknownModelError: the file has no such entry; it lists those it has.
        SourceError: the file cannot be read or written. It is left as it was.
    """
    entries = read_model_entries()
    for entry in entries:
        if name == entry.resolved_id or name in entry.aliases:
            _write([other for other in entries if other is not entry])
            return entry
    raise UnknownModelError(name, [entry.resolved_id for entry in entries])


def _write(entries: Iterable[ModelEntry]) -> Path:
    """Replace the models file in one step and return its path."""
    path = models_file()
    text = json.dumps([entry.as_json() for entry in entries], indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise SourceError(str(path), f"cannot be written ({error})") from error
    return path
