"""Settings: every number of the package, and what plugin config may say about it.

Layer 2: imports ``errors`` and ``settings_values``. ``SETTINGS`` is the one table of
defaults. A value comes from plugin config (``datasette-embed``), else from the environment
variable ``DATASETTE_EMBED_<NAME>``, else from the table. Keys may be nested or flat:
``{"query_cache": {"bytes": 1}}`` is ``{"query_cache_bytes": 1}``, since ``datasette
publish --plugin-secret`` can only set flat ones, and as text. Also the folder that holds
what a user has registered. No model is built here, and no key gets into a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import ConfigError
from .settings_values import (
    Allow,
    read_allow,
    read_allow_by_name,
    read_boolean,
    read_full_names,
    read_json_text,
    read_keys,
    read_names,
    read_optional_allow,
    read_optional_text,
    read_seconds,
    read_text,
    read_whole_number,
)

if TYPE_CHECKING:
    from datasette.app import Datasette

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
        allow: who may use it on a site; None where nothing is said. Of plugin config only.
    """

    provider: str
    model: str
    model_id: str | None = None
    aliases: tuple[str, ...] = ()
    device: str | None = None
    truncate_dim: int | None = None
    allow: Allow | None = None

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
    provider = read_text(value.get("provider"), f"{where}.provider")
    if provider not in PROVIDERS:
        raise ConfigError(
            f"{where}.provider", f"must be one of {', '.join(PROVIDERS)}, not {provider!r}"
        )
    truncate_dim = value.get("truncate_dim")
    model = read_text(value.get("model"), f"{where}.model")
    model_id = read_optional_text(value.get("id"), f"{where}.id")
    if model_id is None and is_path(model) and not last_part(model).strip(".~"):
        raise ConfigError(f"{where}.model", f"a folder like {model!r} needs an id too")
    return ModelEntry(
        provider=provider,
        model=model,
        model_id=model_id,
        aliases=read_names(value.get("aliases", ()), f"{where}.aliases"),
        device=read_optional_text(value.get("device"), f"{where}.device"),
        truncate_dim=None
        if truncate_dim is None
        else read_whole_number(truncate_dim, f"{where}.truncate_dim"),
    )


def parse_model_entries(value: Any, where: str = "models") -> tuple[ModelEntry, ...]:
    """Return a list of model entries; text is read as JSON, for flat config keys.

    Such an entry may also have ``allow``: who may use the model on this site.

    Raises:
        ConfigError: the value is no such list.
    """
    value = read_json_text(value, where, "a list of models")
    if not isinstance(value, list | tuple):
        raise ConfigError(where, f"must be a list of models, not {type(value).__name__}")
    return tuple(_site_entry(entry, f"{where}[{n}]") for n, entry in enumerate(value))


def _site_entry(value: Any, where: str) -> ModelEntry:
    if not isinstance(value, Mapping) or "allow" not in value:
        return parse_model_entry(value, where)
    bare = {key: inner for key, inner in value.items() if key != "allow"}
    return replace(
        parse_model_entry(bare, where), allow=read_allow(value["allow"], f"{where}.allow")
    )


_MB = 1024 * 1024
#: Begins the flat name of one API key: ``keys_openai`` is ``{"keys": {"openai": …}}``.
KEYS_PREFIX = "keys_"

#: Every setting: its name, its default, and what turns a configured value into its type.
SETTINGS: dict[str, tuple[Any, Callable[[Any, str], Any]]] = {
    "query_cache_bytes": (32 * _MB, read_whole_number),
    "matrix_cache_bytes": (512 * _MB, read_whole_number),
    "embed_timeout_seconds": (10.0, read_seconds),
    "max_text_characters": (100_000, read_whole_number),
    "query_characters": (2_000, read_whole_number),
    "calls_per_request": (20, read_whole_number),
    "calls_per_minute": (60, read_whole_number),
    "calls_per_minute_total": (600, read_whole_number),
    "visitor_header": (None, read_optional_text),
    "max_body_bytes": (2 * _MB, read_whole_number),
    "body_timeout_seconds": (30.0, read_seconds),
    "job_workers": (1, read_whole_number),
    "watch_seconds": (2.0, read_seconds),
    "resume_jobs": (True, read_boolean),
    "warm_models": (("default",), read_names),
    "models": ((), parse_model_entries),
    "allow": ({}, read_allow_by_name),
    "allow_create": (None, read_optional_allow),
    "public_collections": ((), read_full_names),
    "keys": ({}, read_keys),
}


@dataclass(frozen=True)
class Settings:
    """What a site has configured; each attribute is a row of ``SETTINGS``.

    Attributes:
        query_cache_bytes: memory for vectors of query texts, in bytes, one cache a process.
        matrix_cache_bytes: memory for the vectors of collections that are searched, in bytes.
        embed_timeout_seconds: longest one embed of a query may keep a SQL query waiting.
        max_text_characters: longest text that SQL may embed.
        query_characters: longest text that a visitor may have embedded.
        calls_per_request: most texts that one request of a visitor may have embedded.
        calls_per_minute: most texts that one visitor may have embedded in a minute.
        calls_per_minute_total: most texts that all visitors may have embedded in a minute.
        visitor_header: request header in which a trusted proxy puts the visitor's address.
        max_body_bytes: longest body of a request.
        body_timeout_seconds: longest time in which a body must have arrived.
        job_workers: jobs that run at once.
        watch_seconds: how often a watched table is looked at.
        resume_jobs: whether jobs that a stop interrupted go on when the server starts.
        warm_models: names of models that are loaded when the server starts.
        models: models registered by plugin config.
        allow: id or alias of a model -> who may use it.
        allow_create: who may create collections; None: the root user only.
        public_collections: those to show though their source is not served, as ``database/name``.
        keys: what a key is for, or a model's id -> API key.
    """

    query_cache_bytes: int = SETTINGS["query_cache_bytes"][0]
    matrix_cache_bytes: int = SETTINGS["matrix_cache_bytes"][0]
    embed_timeout_seconds: float = SETTINGS["embed_timeout_seconds"][0]
    max_text_characters: int = SETTINGS["max_text_characters"][0]
    query_characters: int = SETTINGS["query_characters"][0]
    calls_per_request: int = SETTINGS["calls_per_request"][0]
    calls_per_minute: int = SETTINGS["calls_per_minute"][0]
    calls_per_minute_total: int = SETTINGS["calls_per_minute_total"][0]
    visitor_header: str | None = SETTINGS["visitor_header"][0]
    max_body_bytes: int = SETTINGS["max_body_bytes"][0]
    body_timeout_seconds: float = SETTINGS["body_timeout_seconds"][0]
    job_workers: int = SETTINGS["job_workers"][0]
    watch_seconds: float = SETTINGS["watch_seconds"][0]
    resume_jobs: bool = SETTINGS["resume_jobs"][0]
    warm_models: tuple[str, ...] = SETTINGS["warm_models"][0]
    models: tuple[ModelEntry, ...] = SETTINGS["models"][0]
    allow: Mapping[str, Allow] = field(default_factory=dict)
    allow_create: Allow | None = SETTINGS["allow_create"][0]
    public_collections: tuple[str, ...] = SETTINGS["public_collections"][0]
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)


def get_settings(datasette: Datasette) -> Settings:
    """Return the settings of this Datasette.

    Raises:
        ConfigError: its plugin config is wrong.
    """
    return parse_settings(datasette.plugin_config(PLUGIN_NAME))


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
    for name, value, key in _flatten(_with_keys_nested(config or {})):
        if name not in SETTINGS:
            allowed = ", ".join(SETTINGS)
            raise ConfigError(key, f"unknown setting of {PLUGIN_NAME}. Allowed: {allowed}")
        if name in configured:
            raise ConfigError(key, f"the setting {name} is given twice")
        configured.add(name)
        given[name] = (value, key)
    return Settings(**{name: SETTINGS[name][1](value, key) for name, (value, key) in given.items()})


def _with_keys_nested(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config with each ``keys_NAME`` moved into its block ``keys``.

    Raises:
        ConfigError: one key is given both ways, or the block is no object.
    """
    flat = {str(name): value for name, value in config.items()}
    found = {name: flat.pop(name) for name in list(flat) if name.startswith(KEYS_PREFIX)}
    if not found:
        return config
    keys = read_keys(flat.get("keys") or {}, "keys")
    for name, value in found.items():
        if name.removeprefix(KEYS_PREFIX) in keys:
            raise ConfigError(name, "the same key is given in the block keys too")
        keys |= read_keys({name.removeprefix(KEYS_PREFIX): value}, "keys")
    return {**flat, "keys": keys}


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
