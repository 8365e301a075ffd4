"""Settings' values: what turns a configured value into its type, or says what is wrong.

Layer 1: imports ``errors`` only. Each function takes the value and the key as it was
written, and raises a ``ConfigError`` that names the key and what is allowed; a value that
may be a secret is never quoted. Which settings there are is said in ``settings``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from .errors import ConfigError

#: Who may do something, as Datasette writes it: true, false or ``{"id": ["anna"]}``.
Allow = bool | Mapping[str, Any]


def read_json_text(value: Any, key: str, what: str) -> Any:
    """Return what a text says in JSON, and anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ConfigError(key, f"must be {what}, or the same as JSON") from None


def read_text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(key, f"must be text that is not blank, not {value!r}")
    return value.strip()


def read_optional_text(value: Any, key: str) -> str | None:
    return None if value is None else read_text(value, key)


def read_names(value: Any, key: str) -> tuple[str, ...]:
    """Return a tuple of names from a list, or from text separated by commas."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ConfigError(key, f"must be a list of names, not {value!r}")
    return tuple(read_text(name, f"{key}[{position}]") for position, name in enumerate(value))


def read_full_names(value: Any, key: str) -> tuple[str, ...]:
    """Return names of collections, each with its database: ``database/collection``."""
    names = read_names(value, key)
    for name in names:
        database, _, collection = name.partition("/")
        if not database or not collection:
            raise ConfigError(key, f"must be a list of database/collection, not {name!r}")
    return names


def read_whole_number(value: Any, key: str) -> int:
    """Return a whole number of 1 or more; ``$env`` and ``--plugin-secret`` give text."""
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigError(key, f"must be a whole number of 1 or more, not {value!r}")
    return number


def read_seconds(value: Any, key: str) -> float:
    """Return a number of seconds above zero."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise ConfigError(key, f"must be a number of seconds above 0, not {value!r}")
    return number


def read_boolean(value: Any, key: str) -> bool:
    """Return true or false; ``$env`` and ``--plugin-secret`` give text."""
    words = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
    found = words.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ConfigError(key, f"must be true or false, not {value!r}")
    return found


def read_allow(value: Any, key: str) -> Allow:
    """Return who may do something."""
    found = read_json_text(value, key, "true, false or an allow block")
    if not isinstance(found, bool | Mapping):
        raise ConfigError(
            key, f'must be true, false or an allow block like {{"id": ["anna"]}}, not {value!r}'
        )
    return found


def read_optional_allow(value: Any, key: str) -> Allow | None:
    return None if value is None else read_allow(value, key)


def read_allow_by_name(value: Any, key: str) -> dict[str, Allow]:
    """Return ``name of a model -> who may use it``."""
    blocks = read_json_text(value, key, "an object of model: allow block")
    if not isinstance(blocks, Mapping):
        raise ConfigError(key, f"must be an object of model: allow block, not {value!r}")
    return {str(name): read_allow(block, f"{key}.{name}") for name, block in blocks.items()}


def read_keys(value: Any, key: str) -> dict[str, str]:
    """Return ``name -> API key``; one whose ``$env`` is not set is left out."""
    keys = read_json_text(value, key, "an object of name: API key")
    if not isinstance(keys, Mapping):
        raise ConfigError(key, f"must be an object of name: API key, not {type(keys).__name__}")
    for name, given in keys.items():
        if given is not None and not isinstance(given, str):
            raise ConfigError(f"{key}.{name}", f"must be text, not {type(given).__name__}")
    return {str(name): given.strip() for name, given in keys.items() if given and given.strip()}


def read_choice(*allowed: str) -> Callable[[Any, str], str]:
    """Return what reads one of these words."""

    def read(value: Any, key: str) -> str:
        if value not in allowed:
            raise ConfigError(key, f"must be one of {', '.join(allowed)}, not {value!r}")
        return str(value)

    return read


#: What a key is called, and what a variable is: neither looks like a key itself.
_KEY_NAME = re.compile(r"(?!sk-)[A-Za-z][\w.-]{0,29}")
_VARIABLE = re.compile(r"[A-Za-z_]\w{0,79}")


def read_key_name(value: Any, key: str) -> str:
    """Return the name of an API key. What may be the key itself is refused and not quoted."""
    if not isinstance(value, str) or not _KEY_NAME.fullmatch(value):
        raise ConfigError(
            key,
            "must be the name of a key, like example, and not the key itself: that is stored "
            "with datasette embed keys set example",
        )
    return value


def read_variable(value: Any, key: str) -> str:
    """Return the name of an environment variable; what may be a key is not quoted."""
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise ConfigError(key, "must be the name of an environment variable, like EXAMPLE_API_KEY")
    return value


def read_prompt(value: Any, key: str) -> str:
    """Return text that is put before others: a space at its end counts, and it may be empty."""
    if not isinstance(value, str):
        raise ConfigError(key, f"must be text, not {value!r}")
    return value


def read_price(value: Any, key: str) -> float:
    """Return US dollars, 0 or more."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ConfigError(key, f"must be a number of US dollars, 0 or more, not {value!r}")
    return number


def read_object(value: Any, key: str) -> dict[str, Any]:
    """Return an object of anything; it may hold a secret, so it is never quoted."""
    found = read_json_text(value, key, "an object")
    if not isinstance(found, Mapping):
        raise ConfigError(key, f"must be an object, not {type(found).__name__}")
    return {str(name): inner for name, inner in found.items()}
