"""LLM's own files: its database of embeddings, its default model, its aliases, its keys.

Layer 3: imports ``errors``, ``keys`` and ``user_files``. Names and shapes are those of llm 0.36
(``llm/__init__.py``), so that both tools read what the other wrote. Reading makes nothing,
not even the folder. No model is looked up here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import SourceError
from .keys import keys_path, llm_directory, read_keys_file
from .user_files import changing, read_json, read_line, remove_file, replace_text

DATABASE_VARIABLE = "LLM_EMBEDDINGS_DB"
ALIASES_FILE_NAME = "aliases.json"
#: What LLM puts into a new file of keys, for whoever opens it.
KEYS_NOTE = {"// Note": "This file stores secret API credentials. Do not share!"}


def embeddings_path() -> Path:
    """Return the database LLM puts embeddings into when none is named; it may not exist."""
    return llm_directory() / "embeddings.db"


def default_database() -> str:
    """Return the database of a command that names none: ``LLM_EMBEDDINGS_DB``, else LLM's."""
    return os.environ.get(DATABASE_VARIABLE) or str(embeddings_path())


def default_model_path() -> Path:
    """Return the file that names LLM's default embedding model; it may not exist."""
    return llm_directory() / "default_embedding_model.txt"


def read_default_model() -> str | None:
    """Return the id of LLM's default embedding model; None when none is set.

    Raises:
        SourceError: the file cannot be read.
    """
    return read_line(default_model_path())


def write_default_model(model_id: str) -> None:
    """Make this LLM's default embedding model.

    Raises:
        SourceError: the file cannot be written.
    """
    replace_text(default_model_path(), model_id)


def remove_default_model() -> None:
    """Let LLM have no default embedding model; having none already is fine.

    Raises:
        SourceError: the file cannot be removed.
    """
    remove_file(default_model_path())


def aliases_path() -> Path:
    """Return LLM's file of aliases, of chat models and embedding models; it may not exist."""
    return llm_directory() / ALIASES_FILE_NAME


def read_aliases() -> dict[str, str]:
    """Return ``alias -> model`` of LLM's file, in its order; what is no text is left out.

    Raises:
        SourceError: the file cannot be read, or is no JSON object.
    """
    return {alias: target for alias, target in _read_aliases().items() if isinstance(target, str)}


def write_alias(alias: str, model_id: str) -> None:
    """Add an alias to LLM's file, or change it; every other one stays as it is.

    Raises:
        SourceError: the file cannot be read or written. It is left as it was.
    """
    with changing(aliases_path()):
        _write_aliases({**_read_aliases(), alias: model_id})


def remove_alias(alias: str) -> str:
    """Take an alias out of LLM's file, and return what it named.

    Raises:
        SourceError: the file has no such alias, or cannot be read or written. It is left
            as it was.
    """
    with changing(aliases_path(), adds=False):
        aliases = _read_aliases()
        if alias not in aliases:
            known = ", ".join(aliases) or "none"
            raise SourceError(str(aliases_path()), f"has no alias '{alias}'. Its aliases: {known}")
        target = str(aliases.pop(alias))
        _write_aliases(aliases)
    return target


def _read_aliases() -> dict[str, Any]:
    aliases = read_json(aliases_path(), {})
    if not isinstance(aliases, dict):
        raise SourceError(str(aliases_path()), "is no JSON object of aliases; mend or remove it")
    return aliases


def _write_aliases(aliases: dict[str, Any]) -> None:
    replace_text(aliases_path(), json.dumps(aliases, indent=4) + "\n")


def write_key(name: str, key: str) -> None:
    """Keep an API key in LLM's file, for its owner's eyes only; every other entry stays.

    Raises:
        SourceError: the file cannot be read or written. It is left as it was.
    """
    with changing(keys_path()):
        _write_keys({**(read_keys_file() or KEYS_NOTE), name: key})


def remove_key(name: str) -> None:
    """Take an API key out of LLM's file; every other entry stays.

    Raises:
        SourceError: the file has none of this name, or cannot be read or written. It is
            left as it was.
    """
    with changing(keys_path(), adds=False):
        keys = read_keys_file()
        if name not in keys or name.startswith("//"):
            known = ", ".join(key for key in keys if not key.startswith("//")) or "none"
            raise SourceError(str(keys_path()), f"has no key '{name}'. Its keys: {known}")
        del keys[name]
        _write_keys(keys)


def _write_keys(keys: dict[str, Any]) -> None:
    path = keys_path()
    try:
        # Before it is written to: the new file takes over the permissions of the old one.
        os.chmod(path, 0o600)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SourceError(str(path), f"cannot be written ({error.strerror})") from error
    replace_text(path, json.dumps(keys, indent=2) + "\n")
