"""The models file: what a user has registered with ``datasette embed models register``.

Layer 4: imports ``errors``, ``model_entries``, ``settings`` and ``user_files``. A JSON list in
the user's folder, in the shape of plugin config ``models``. No model is built here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError, SourceError, UnknownModelError
from .model_entries import ModelEntry, parse_model_entry
from .settings import MODELS_FILE_NAME, models_file
from .user_files import changing, read_json, replace_text

#: Keys of an entry that its id is made of.
_NAMING = ("provider", "model", "id", "dimensions", "base_url")


@dataclass(frozen=True)
class FileEntry:
    """One entry of the models file, which a person may have written by hand.

    Attributes:
        name: the id of its model; its place in the file when it gives none.
        value: the entry as it stands in the file.
        entry: the same, read; None for one that cannot be used.
        reason: why it cannot be used; None when it can.
    """

    name: str
    value: Any
    entry: ModelEntry | None = None
    reason: str | None = None


def read_models_file() -> tuple[FileEntry, ...]:
    """Return the entries of the user's models file, in order; none when there is no file.

    Raises:
        SourceError: the file cannot be read, or is no JSON list.
    """
    path = models_file()
    values = read_json(path, [])
    if not isinstance(values, list):
        raise SourceError(str(path), "is no JSON list of models; mend or remove it")
    return tuple(
        _read_entry(value, f"{MODELS_FILE_NAME}[{position}]")
        for position, value in enumerate(values)
    )


def _read_entry(value: Any, where: str) -> FileEntry:
    try:
        entry = parse_model_entry(value, where)
    except ConfigError as error:
        name = _find_id(value) or where
        reason = f"{error}. Mend it, or: datasette embed models remove '{name}'"
        return FileEntry(name, value, reason=reason)
    return FileEntry(entry.resolved_id, value, entry)


def _find_id(value: Any) -> str | None:
    """Return the id that an unusable entry gives, or would give, its model."""
    if not isinstance(value, Mapping):
        return None
    named = {key: value[key] for key in _NAMING if key in value}
    try:
        return parse_model_entry(named, "").resolved_id
    except ConfigError:
        return None


def add_model_entry(entry: ModelEntry) -> Path:
    """Add an entry to the models file, in place of those with the same id.

    Returns:
        The path of the file that was written.

    Raises:
        SourceError: the file cannot be read or written. It is left as it was.
    """
    with changing(models_file()):
        kept = [found.value for found in read_models_file() if found.name != entry.resolved_id]
        return _write([*kept, entry.as_json()])


def remove_model_entry(name: str) -> str:
    """Remove the entry of this id or alias from the models file, and return its id.

    One that cannot be used is removed by the name it is listed under.

    Raises:
        UnknownModelError: the file has no such entry; it lists those it has.
        SourceError: the file cannot be read or written. It is left as it was.
    """
    with changing(models_file(), adds=False):
        entries = read_models_file()
        for found in entries:
            if name == found.name or (found.entry and name in found.entry.aliases):
                _write([other.value for other in entries if other is not found])
                return found.name
    raise UnknownModelError(name, [found.name for found in entries])


def _write(values: Iterable[Any]) -> Path:
    """Replace the models file in one step and return its path."""
    path = models_file()
    replace_text(path, json.dumps(list(values), indent=2) + "\n")
    return path
