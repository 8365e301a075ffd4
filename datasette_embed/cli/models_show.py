"""``models show``: all that is known of a model without calling it.

Layer 11: the words around ``keys``, ``models_file`` and ``registry``.
"""

from __future__ import annotations

from typing import Any

import click

from ..amounts import price_text
from ..errors import EmbedError, MissingKeyError
from ..keys import find_key_place
from ..models import EmbeddingModel
from ..models_file import read_models_file
from ..providers.adapted import AdaptedModel
from ..registry import RegisteredModel, get_registry
from ..settings import models_file
from .arguments import as_json
from .output import print_json, print_line

_OURS = "datasette_embed.providers."


@click.command()
@click.argument("name")
@click.option("--load", is_flag=True, help="Load it first, for what only its own files say")
@as_json
def show(name: str, load: bool, as_json: bool) -> None:
    """Say what is known of the model NAME, by its id or an alias, without calling it."""
    registry = get_registry()
    if registry.find(name) is None and name in registry.unavailable:
        raise click.ClickException(f"{name} is unavailable: {registry.unavailable[name]}")
    model = registry.get(name)
    (entry,) = [known for known in registry.list_models() if known.model is model]
    if load:
        model.warm()
    found = _described(entry, registry.unavailable.get(model.model_id))
    if as_json:
        print_json(found)
        return
    for label, text in _lines(found):
        print_line(f"{label + ':':<20}{text}")


def _described(entry: RegisteredModel, unavailable: str | None) -> dict[str, Any]:
    model = entry.model
    key, reason = _key_place(model)  # first: a model of LLM's is only now looked for
    wrapped = model.wrapped if isinstance(model, AdaptedModel) else model
    return {
        "id": model.model_id,
        "aliases": list(entry.aliases),
        "class": type(wrapped).__name__,
        "source": _source(model, type(wrapped)),
        "accepts": ["text"] * model.supports_text + ["binary"] * model.supports_binary,
        "dimensions": model.dimensions,
        "max_tokens": model.max_tokens,
        "metric": model.metric,
        "query_prompt": model.query_prompt,
        "document_prompt": model.document_prompt,
        "batch_size": model.batch_size,
        "max_batch_tokens": model.max_batch_tokens,
        "concurrency": model.concurrency,
        "is_local": model.is_local,
        "price_per_million_tokens": model.price_per_million_tokens,
        "licence": model.licence,
        "needs_key": model.needs_key,
        "key_from": key,
        "unavailable": unavailable or reason,
    }


def _source(model: EmbeddingModel, of: type) -> str:
    """Return where a model comes from."""
    for known in read_models_file():
        if known.name == model.model_id and known.entry is not None:
            return f"{known.entry.provider} {known.entry.model}, in {models_file()}"
    if getattr(model, "origin", None) == "llm":
        return f"LLM's plugin {of.__module__}"
    if of.__module__.startswith(f"{_OURS}bundled"):
        return "bundled with this package"
    if of.__module__.startswith(_OURS):
        return "built into this package"
    return f"the plugin {of.__module__}"


def _key_place(model: EmbeddingModel) -> tuple[str | None, str | None]:
    """Return where the key is, never the key; and why the model cannot be called without."""
    try:
        model.get_key()
    except MissingKeyError as error:
        return None, str(error)
    except EmbedError as error:
        return None, error.detail
    if model.needs_key is None:
        return None, None
    place = find_key_place(model.key, model.needs_key, model.key_env_var)
    return place or "the model itself", None


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return label and text of each line; what is not known is said where it matters."""
    needs, key = found["needs_key"], found["key_from"]
    price = found["price_per_million_tokens"]
    lines = [
        ("id", found["id"]),
        ("aliases", ", ".join(found["aliases"]) or "none"),
        ("class", found["class"]),
        ("source", found["source"]),
        ("takes", " and ".join(found["accepts"])),
        ("dimensions", _number(found["dimensions"], "known after its first call")),
        ("longest text", _number(found["max_tokens"], "not known", " tokens")),
        ("metric", found["metric"]),
        ("query prompt", _prompt(found["query_prompt"])),
        ("document prompt", _prompt(found["document_prompt"])),
        ("items a call", _number(found["batch_size"], "no limit")),
        ("tokens a call", _number(found["max_batch_tokens"], "no limit")),
        ("calls at once", _number(found["concurrency"], "")),
        ("runs", "on this machine" if found["is_local"] else "at its provider, or it does not say"),
        ("price", "none known" if price is None else price_text(price)),
        ("licence", found["licence"] or "not known"),
        ("key", f"{needs}, from {key}" if key else f"{needs}, not found" if needs else "none"),
    ]
    return lines + ([("unavailable", found["unavailable"])] if found["unavailable"] else [])


def _number(number: int | None, otherwise: str, unit: str = "") -> str:
    return otherwise if number is None else f"{number:,}{unit}"


def _prompt(prompt: str | None) -> str:
    return "as the model itself says" if prompt is None else repr(prompt) if prompt else "none"
