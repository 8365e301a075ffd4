"""Settings: every number of the package, and what plugin config may say about it.

Layer 3: imports ``errors``, ``model_entries`` and ``settings_values``. ``SETTINGS`` is the one
table of defaults. A value comes from plugin config (``datasette-embed``), else from the environment
variable ``DATASETTE_EMBED_<NAME>``, else from the table. Keys may be nested or flat:
``{"query_cache": {"bytes": 1}}`` is ``{"query_cache_bytes": 1}``, since ``datasette
publish --plugin-secret`` can only set flat ones, and as text. Also the folder that holds
what a user has registered. No model is built here, and no key gets into a message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import ConfigError
from .model_entries import ModelEntry, parse_model_entries
from .settings_values import (
    Allow,
    read_allow_by_name,
    read_boolean,
    read_full_names,
    read_keys,
    read_names,
    read_optional_allow,
    read_optional_text,
    read_seconds,
    read_whole_number,
)

if TYPE_CHECKING:
    from datasette.app import Datasette

PLUGIN_NAME = "datasette-embed"
USER_DIRECTORY_NAME = "datasette_embed"
USER_DIRECTORY_VARIABLE = "DATASETTE_EMBED_USER_PATH"
MODELS_FILE_NAME = "models.json"


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
    "max_image_bytes": (10 * _MB, read_whole_number),
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
        max_body_bytes: longest body of a request, but for a form with an image.
        max_image_bytes: largest image that a visitor may send to search with.
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
    max_image_bytes: int = SETTINGS["max_image_bytes"][0]
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
