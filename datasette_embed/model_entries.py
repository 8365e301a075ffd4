"""Model entries: what the models file and plugin config may say about a model.

Layer 2: imports ``errors``, ``presets`` and ``settings_values``. An entry is a provider, what
that provider calls the model, the names it gets here, and options. ``OPTIONS`` is the one table
of what each provider may be told; what an option does is said by the provider. No model is
built here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import ConfigError
from .presets import PRESETS
from .settings_values import (
    Allow,
    read_allow,
    read_boolean,
    read_choice,
    read_json_text,
    read_key_name,
    read_names,
    read_object,
    read_optional_text,
    read_price,
    read_prompt,
    read_seconds,
    read_text,
    read_variable,
    read_whole_number,
)

Reader = Callable[[Any, str], Any]

#: Options of every provider: they become attributes of the model.
COMMON_OPTIONS: dict[str, Reader] = {
    "batch_size": read_whole_number,
    "max_tokens": read_whole_number,
    "metric": read_choice("cosine", "dot"),
    "price_per_million_tokens": read_price,
    "query_prompt": read_prompt,
    "document_prompt": read_prompt,
}

_OPENAI_OPTIONS: dict[str, Reader] = {
    "base_url": read_text,
    "dimensions": read_whole_number,
    "key": read_key_name,
    "key_env_var": read_variable,
    "encoding_format": read_choice("base64", "float", "none"),
    "query_parameters": read_object,
    "document_parameters": read_object,
    "max_batch_tokens": read_whole_number,
    "concurrency": read_whole_number,
    "timeout_seconds": read_seconds,
}

_WRAPPED_OPTIONS: dict[str, Reader] = {
    "arguments": read_object,
    "key": read_key_name,
    "key_env_var": read_variable,
    "dimensions": read_whole_number,
    "is_local": read_boolean,
    "concurrency": read_whole_number,
}

#: Provider -> the options it takes besides the common ones.
OPTIONS: dict[str, dict[str, Reader]] = {
    "onnx": {
        "file": read_text,
        "revision": read_text,
        "pooling": read_choice("mean", "cls", "max", "lasttoken"),
        "normalize": read_boolean,
        "truncate_dim": read_whole_number,
    },
    "sentence-transformers": {
        "device": read_text,
        "truncate_dim": read_whole_number,
        "revision": read_text,
        "backend": read_choice("torch", "onnx", "openvino"),
        "normalize": read_boolean,
        "images": read_boolean,
        "trust_remote_code": read_boolean,
    },
    "openai": _OPENAI_OPTIONS,
    "langchain": _WRAPPED_OPTIONS,
    "llama-index": _WRAPPED_OPTIONS,
    "llm": {},
    **dict.fromkeys(PRESETS, _OPENAI_OPTIONS),
}
#: What ``provider`` may be.
PROVIDERS = tuple(OPTIONS)
#: Providers whose models have the ids that their users know, without the provider's name.
_WITHOUT_PREFIX = ("openai", "llm")
#: Options that let a model run code of its own: not to be had by a single command.
CONFIG_ONLY_OPTIONS = ("trust_remote_code",)


@dataclass(frozen=True)
class ModelEntry:
    """One model that a user or an administrator registered by name.

    Attributes:
        provider: one of ``PROVIDERS``.
        model: what the provider calls it: a name on a hub, a folder, an import path.
        model_id: the id it gets here; None for ``provider/NAME``, of a path its last part.
        aliases: shorter names for it.
        options: those of ``COMMON_OPTIONS`` and of the provider's that are given.
        allow: who may use it on a site; None where nothing is said. Of plugin config only.
    """

    provider: str
    model: str
    model_id: str | None = None
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    allow: Allow | None = None

    @property
    def resolved_id(self) -> str:
        """Return the id this model is registered under.

        A name that begins with the provider's is not prefixed again, so that the ids are
        those of LLM's plugins; and no path becomes an id, because everybody sees those.
        Shortened vectors of a service have their length in the id, as LLM's do.
        """
        if self.model_id:
            return self.model_id
        name = last_part(self.model) if is_path(self.model) else self.model
        if self.provider in OPTIONS and OPTIONS[self.provider] is _OPENAI_OPTIONS:
            dimensions = self.options.get("dimensions")
            name = f"{name}-{dimensions}" if dimensions else name
        if self.provider in _WITHOUT_PREFIX and "base_url" not in self.options:
            return name
        prefix = f"{self.provider}/"
        return prefix + name.removeprefix(prefix)

    def as_json(self) -> dict[str, Any]:
        """Return the entry in the shape of the models file, without what is not set."""
        entry = {
            "provider": self.provider,
            "model": self.model,
            "id": self.model_id,
            "aliases": list(self.aliases) or None,
            **self.options,
        }
        return {key: value for key, value in entry.items() if value is not None}


def is_path(model: str) -> bool:
    """Return whether this names a folder or an import path: a name on a hub has one slash.

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
        value: ``{"provider", "model"[, "id", "aliases"]}`` and options of the provider.
        where: how an error names this entry, for example ``models[0]``.

    Raises:
        ConfigError: the value has another shape.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(where, f"must be an object with provider and model, not {value!r}")
    provider = read_text(value.get("provider"), f"{where}.provider")
    if provider not in OPTIONS:
        raise ConfigError(
            f"{where}.provider", f"must be one of {', '.join(PROVIDERS)}, not {provider!r}"
        )
    readers = {**OPTIONS[provider], **COMMON_OPTIONS}
    allowed = ("provider", "model", "id", "aliases", *readers)
    for key in value:
        if key not in allowed:
            raise ConfigError(f"{where}.{key}", f"unknown key. Allowed: {', '.join(allowed)}")
    model = read_text(value.get("model"), f"{where}.model")
    model_id = read_optional_text(value.get("id"), f"{where}.id")
    if model_id is None and is_path(model) and not last_part(model).strip(".~"):
        raise ConfigError(f"{where}.model", f"a folder like {model!r} needs an id too")
    return ModelEntry(
        provider=provider,
        model=model,
        model_id=model_id,
        aliases=read_names(value.get("aliases", ()), f"{where}.aliases"),
        options={
            name: read(value[name], f"{where}.{name}")
            for name, read in readers.items()
            if value.get(name) is not None
        },
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
