"""Keys: where the API key of a model is found when the call does not bring one.

Layer 1: imports ``errors`` and ``redaction``. A model's own key, its environment variable,
then LLM's ``keys.json`` (shape and rules of llm 0.36, ``llm/__init__.py:get_key``). Every
key that is found here is kept out of what is shown. Plugin config is read elsewhere, and
passed with each call. Nothing is written here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from .errors import SourceError
from .redaction import keep_secret

DIRECTORY_VARIABLE = "LLM_USER_PATH"
KEYS_FILE_NAME = "keys.json"


def llm_directory() -> Path:
    """Return LLM's folder: ``LLM_USER_PATH``, else where LLM keeps it; it may not exist."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or click.get_app_dir("io.datasette.llm"))


def keys_path() -> Path:
    """Return LLM's file of API keys; it may not exist."""
    return llm_directory() / KEYS_FILE_NAME


def read_keys_file() -> dict[str, Any]:
    """Return everything LLM's file of keys holds, its note to the reader too.

    Raises:
        SourceError: the file cannot be read, or is no JSON object. Nothing of it is quoted.
    """
    try:
        found = json.loads(keys_path().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SourceError(str(keys_path()), f"cannot be read ({error.strerror})") from error
    except ValueError:
        # From None: the decoder's exception carries the whole text of the file.
        raise SourceError(str(keys_path()), "is no JSON; mend or remove it") from None
    if not isinstance(found, dict):
        raise SourceError(str(keys_path()), "is no JSON object of keys; mend or remove it")
    return found


def read_stored_keys() -> dict[str, str]:
    """Return ``name -> key`` of LLM's file; what is no key is left out.

    Raises:
        SourceError: the file cannot be read, or is no JSON object.
    """
    found = {
        name: key
        for name, key in read_keys_file().items()
        if isinstance(key, str) and key and not name.startswith("//")
    }
    for key in found.values():
        keep_secret(key)
    return found


def find_key(
    explicit: str | None, own: str | None, name: str | None, variable: str | None
) -> str | None:
    """Return the key of a call, or None where there is none.

    Args:
        explicit: the key the call brings, or the name of one in LLM's file.
        own: the key of the model itself.
        name: what the key is called in LLM's file.
        variable: the environment variable that may hold it.

    Raises:
        SourceError: LLM's file had to be asked and cannot be read.
    """
    if explicit:
        keep_secret(explicit)
        return _by_name_in_place(explicit)
    key = own or (os.environ.get(variable) if variable else None)
    if not key and name:
        key = read_stored_keys().get(name)
    keep_secret(key)
    return key or None


def find_key_place(own: str | None, name: str | None, variable: str | None) -> str | None:
    """Return where ``find_key`` finds the key of a model, or None; the key itself is not told.

    Raises:
        SourceError: LLM's file had to be asked and cannot be read.
    """
    if own:
        return "the model itself"
    if variable and os.environ.get(variable):
        return f"the environment variable {variable}"
    if name and read_stored_keys().get(name):
        return f"the key '{name}' in {keys_path()}"
    return None


def _by_name_in_place(explicit: str) -> str:
    """Return the stored key of this name, as LLM would; else what was given, a key itself."""
    try:
        return read_stored_keys().get(explicit, explicit)
    except SourceError:
        return explicit  # a key that was given does not depend on a file
