"""Settings: every number of the package, and what plugin config may say about it.

Layer 1: imports ``errors`` only. ``SETTINGS`` is the one table of defaults. A value comes
from plugin config (``datasette-embed``), else from the environment variable
``DATASETTE_EMBED_<NAME>``, else from the table. Keys may be nested or flat:
``{"query_cache": {"bytes": 1}}`` is ``{"query_cache_bytes": 1}``, since ``datasette
publish --plugin-secret`` can only set flat ones, and as text. Also the folder that holds
what a user has registered. No model is built here.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .errors import ConfigError

PLUGIN_NAME = "datasette-embed"
USER_DIRECTORY_NAME = "datasette_embed"
USER_DIRECTORY_VARIABLE = "DATASETTE_EMBED_USER_PATH"
MODELS_FILE_NAME = "models.json"
#: Providers that an entry of the models file or of plugin config may name.
PROVIDERS = ("sentence-transformers",)


@dataclass(frozen=True)
class ModelEntry:
    """One model that a user or an administrator registered by name.

    Attributes:
        provider: one of ``PROVIDERS``.
        model: what the provider calls it: a name on a hub, or a folder.
        model_id: the id it gets here; None for ``provider/NAME``, of a folder its last part.
        aliases: shorter names for it.
        device: where to run it (``cpu``, ``cuda``, ``mps``); None lets the provider choose.
        truncate_dim: shorten its vectors to this many dimensions; None keeps them whole.
    """

    provider: str
    model: str
    model_id: str | None = None
    aliases: tuple[str, ...] = ()
    device: str | None = None
    truncate_dim: int | None = None

    @property
    def resolved_id(self) -> str:
        """Return the id this model is registered under.

        A name that begins with the provider's is not prefixed again, so that the ids are
        those of LLM's plugins; and no path becomes an id, because everybody sees those.
        """
        name = last_part(self.model) if is_path(self.model) else self.model
        prefix = f"{self.provider}/"
        return self.model_id or prefix + name.removeprefix(prefix)

    def as_json(self) -> dict[str, Any]:
        """Return the entry in the shape of the models file, without what is not set."""
        entry = {
            "provider": self.provider,
            "model": self.model,
            "id": self.model_id,
            "aliases": list(self.aliases) or None,
            "device": self.device,
            "truncate_dim": self.truncate_dim,
        }
        return {key: value for key, value in entry.items() if value is not None}


def is_path(model: str) -> bool:
    """Return whether this names a folder: a name on a hub has one slash at most.

    A folder of the working directory has to be written as ``./NAME``.
    """
    return (
        model.startswith((".", "~", "/")) or "\\" in model or ":" in model or model.count("/") > 1
    )


def last_part(path: str) -> str:
    """Return the name of a folder without where it is, for either kind of slash."""
    return re.split(r"[\\/:]", path.rstrip("\\/"))[-1]


def parse_model_entry(value: Any, where: str) -> ModelEntry:
    """Return one entry of the models file or of plugin config ``models``.

    Args:
        value: ``{"provider", "model"[, "id", "aliases", "device", "truncate_dim"]}``.
        where: how an error names this entry, for example ``models[0]``.

    Raises:
        ConfigError: the value has another shape.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(where, f"must be an object with provider and model, not {value!r}")
    allowed = ("provider", "model", "id", "aliases", "device", "truncate_dim")
    for key in value:
        if key not in allowed:
            raise ConfigError(f"{where}.{key}", f"unknown key. Allowed: {', '.join(allowed)}")
    provider = _text(value.get("provider"), f"{where}.provider")
    if provider not in PROVIDERS:
        raise ConfigError(
            f"{where}.provider", f"must be one of {', '.join(PROVIDERS)}, not {provider!r}"
        )
    truncate_dim = value.get("truncate_dim")
    model = _text(value.get("model"), f"{where}.model")
    model_id = _optional_text(value.get("id"), f"{where}.id")
    if model_id is None and is_path(model) and not last_part(model).strip(".~"):
        raise ConfigError(f"{where}.model", f"a folder like {model!r} needs an id too")
    return ModelEntry(
        provider=provider,
        model=model,
        model_id=model_id,
        aliases=_names(value.get("aliases", ()), f"{where}.aliases"),
        device=_optional_text(value.get("device"), f"{where}.device"),
        truncate_dim=None
        if truncate_dim is None
        else _whole_number(truncate_dim, f"{where}.truncate_dim"),
    )


def parse_model_entries(value: Any, where: str = "models") -> tuple[ModelEntry, ...]:
    """Return a list of model entries; text is read as JSON, for flat config keys.

    Raises:
        ConfigError: the value is no such list.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigError(where, "must be a list of models, or that list as JSON") from None
    if not isinstance(value, list | tuple):
        raise ConfigError(where, f"must be a list of models, not {type(value).__name__}")
    return tuple(
        parse_model_entry(entry, f"{where}[{position}]") for position, entry in enumerate(value)
    )


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(key, f"must be text that is not blank, not {value!r}")
    return value.strip()


def _optional_text(value: Any, key: str) -> str | None:
    return None if value is None else _text(value, key)


def _names(value: Any, key: str) -> tuple[str, ...]:
    """Return a tuple of names from a list, or from text separated by commas."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ConfigError(key, f"must be a list of names, not {value!r}")
    return tuple(_text(name, f"{key}[{position}]") for position, name in enumerate(value))


def _whole_number(value: Any, key: str) -> int:
    """Return a whole number of 1 or more; ``$env`` and ``--plugin-secret`` give text."""
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigError(key, f"must be a whole number of 1 or more, not {value!r}")
    return number


def _seconds(value: Any, key: str) -> float:
    """Return a number of seconds above zero."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise ConfigError(key, f"must be a number of seconds above 0, not {value!r}")
    return number


#: Every setting: its name, its default, and what turns a configured value into its type.
SETTINGS: dict[str, tuple[Any, Callable[[Any, str], Any]]] = {
    "query_cache_bytes": (32 * 1024 * 1024, _whole_number),
    "embed_timeout_seconds": (10.0, _seconds),
    "max_text_characters": (100_000, _whole_number),
    "warm_models": (("default",), _names),
    "models": ((), parse_model_entries),
}


@dataclass(frozen=True)
class Settings:
    """What a site has configured; each attribute is a row of ``SETTINGS``.

    Attributes:
        query_cache_bytes: memory for vectors of query texts, in bytes, one cache a process.
        embed_timeout_seconds: longest one embed of a query may keep a SQL query waiting.
        max_text_characters: longest text that SQL may embed.
        warm_models: names of models that are loaded when the server starts.
        models: models registered by plugin config.
    """

    query_cache_bytes: int = SETTINGS["query_cache_bytes"][0]
    embed_timeout_seconds: float = SETTINGS["embed_timeout_seconds"][0]
    max_text_characters: int = SETTINGS["max_text_characters"][0]
    warm_models: tuple[str, ...] = SETTINGS["warm_models"][0]
    models: tuple[ModelEntry, ...] = SETTINGS["models"][0]


def parse_settings(
    config: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings that plugin config and the environment give.

    Args:
        config: the plugin's block of config, nested or flat; None for none.
        environment: variables to look into; None for ``os.environ``.

    Raises:
        ConfigError: an unknown key, a value of another type, or one key given twice.
    """
    environment = os.environ if environment is None else environment
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(PLUGIN_NAME, f"must be an object, not {type(config).__name__}")
    given: dict[str, tuple[Any, str]] = {}
    for name in SETTINGS:
        variable = f"DATASETTE_EMBED_{name.upper()}"
        if environment.get(variable):
            given[name] = (environment[variable], variable)
    configured: set[str] = set()
    for name, value, key in _flatten(config or {}):
        if name not in SETTINGS:
            allowed = ", ".join(SETTINGS)
            raise ConfigError(key, f"unknown setting of {PLUGIN_NAME}. Allowed: {allowed}")
        if name in configured:
            raise ConfigError(key, f"the setting {name} is given twice")
        configured.add(name)
        given[name] = (value, key)
    return Settings(**{name: SETTINGS[name][1](value, key) for name, (value, key) in given.items()})


def _flatten(
    config: Mapping[str, Any], names: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, str]]:
    """Yield (flat name, value, key as written) of nested config."""
    for key, value in config.items():
        path = (*names, str(key))
        if isinstance(value, Mapping) and "_".join(path) not in SETTINGS:
            yield from _flatten(value, path)
        else:
            yield "_".join(path), value, ".".join(path)


def user_directory() -> Path:
    """Return the folder of what the user has registered; it may not exist yet."""
    configured = os.environ.get(USER_DIRECTORY_VARIABLE)
    return Path(configured or click.get_app_dir(USER_DIRECTORY_NAME))


def models_file() -> Path:
    """Return the path of the models file; it may not exist yet."""
    return user_directory() / MODELS_FILE_NAME
