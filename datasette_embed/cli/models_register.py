"""``models register``: a model of any provider, tried once and then written down.

Layer 11: the words around ``model_entries``, ``models_file`` and ``registry``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError, DimensionMismatchError, EmbedError, MissingKeyError
from ..model_calls import SHORT_TEXT, embed_items
from ..model_entries import (
    COMMON_OPTIONS,
    CONFIG_ONLY_OPTIONS,
    OPTIONS,
    PROVIDERS,
    ModelEntry,
    parse_model_entry,
)
from ..models import EmbeddingModel, Kind
from ..models_file import FileEntry, add_model_entry, read_models_file
from ..providers.opening import missing_package, open_model
from ..registry import Registry, get_registry
from ..settings import models_file
from .output import say

#: Providers whose models may be folders.
_FOLDERS = ("onnx", "sentence-transformers")


@click.command()
@click.argument("provider", type=click.Choice(PROVIDERS), metavar="PROVIDER")
@click.argument("name")
@click.option("--id", "model_id", help="The id it gets here, instead of PROVIDER/NAME")
@click.option("-a", "--alias", "aliases", multiple=True, help="Another name for it")
@click.option(
    "-o",
    "--option",
    "options",
    type=(str, str),
    multiple=True,
    metavar="KEY VALUE",
    help="An option of the provider; objects and lists as JSON",
)
@click.option("--lazy", is_flag=True, help="Write it down without trying it")
def register(
    provider: str,
    name: str,
    model_id: str | None,
    aliases: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    lazy: bool,
) -> None:
    """Register the model NAME of PROVIDER, so that SQL can call it.

    NAME is what the provider calls it: a hub name, a folder, an import path. It is loaded or
    called once with a short text, unless --lazy is given, and registered if that works.
    """
    if provider in _FOLDERS and (name.startswith(".") or Path(name).is_dir()):
        name = str(Path(name).resolve())  # a server may run in another folder
    given: dict[str, Any] = {"provider": provider, "model": name, "aliases": aliases}
    given |= {"id": model_id} if model_id is not None else {}
    try:
        entry = parse_model_entry({**given, **_checked_options(provider, options)}, _ENTRY)
        replaced = _check_names(get_registry(), entry)
        model = open_model(entry)
    except ConfigError as error:
        raise click.ClickException(str(error).removeprefix(f"{_ENTRY}.")) from error
    missing = missing_package(model)
    if missing is not None and not lazy:
        raise missing
    said = _lazily(missing) if lazy else _tried(model)
    path = add_model_entry(entry)
    say(f"{'Replaced' if replaced else 'Registered'} {entry.resolved_id} in {path}. {said}")
    for known in replaced:
        say(_before(known.entry, entry))


#: Begins the names of what is wrong with an entry, and is no word for whoever typed options.
_ENTRY = "the entry"


def _checked_options(provider: str, options: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return the options by name; their values are read where all entries are.

    Raises:
        click.ClickException: one is unknown, given twice, or not for a command.
    """
    known = {**OPTIONS[provider], **COMMON_OPTIONS}
    allowed = [name for name in known if name not in CONFIG_ONLY_OPTIONS]
    found: dict[str, str] = {}
    for name, value in options:
        if name in CONFIG_ONLY_OPTIONS and name in known:
            raise click.ClickException(
                f"{name} lets a model run code of its own, so no command sets it: write it into "
                f"the model's entry in {models_file()}, or into plugin config"
            )
        if name not in allowed:
            raise click.ClickException(
                f"{provider} has no option '{name}'. Options: {', '.join(allowed)}"
            )
        if name in found:
            raise click.ClickException(f"The option '{name}' is given twice")
        found[name] = value
    return found


def _check_names(registry: Registry, entry: ModelEntry) -> list[FileEntry]:
    """Return the entries that this one takes the place of.

    A model of LLM's plugins gives way to an entry of its own id, which is about it.

    Raises:
        click.ClickException: a name belongs to another model.
    """
    for taken in (entry.resolved_id, *entry.aliases):
        holder = registry.find(taken)
        if holder is not None and holder.model_id != entry.resolved_id:
            raise click.ClickException(f"The name '{taken}' belongs to {holder.model_id}")
    replaced = [known for known in read_models_file() if known.name == entry.resolved_id]
    holder = registry.find(entry.resolved_id)
    is_llms = entry.provider == "llm" and getattr(holder, "origin", None) == "llm"
    if holder is not None and not replaced and not is_llms:
        raise click.ClickException(f"{entry.resolved_id} is there already, without registering")
    return replaced


def _before(known: ModelEntry | None, entry: ModelEntry) -> str:
    """Say what had the id until now; of texts and objects, which may be long, the name only."""
    if known is None:
        return "What had this id before could not be used."
    if known == entry:
        return "It was the same before."
    told = [f"{known.provider} {known.model}"]
    told += [f"alias {alias}" for alias in known.aliases]
    told += [
        f"{name} {json.dumps(value)}" if isinstance(value, int | float) else name
        for name, value in known.options.items()
    ]
    return f"Before it was: {', '.join(told)}"


def _lazily(missing: EmbedError | None) -> str:
    if missing is not None:
        return f"It is unavailable: {missing}"
    return "It is loaded when it is first used."


def _tried(model: EmbeddingModel) -> str:
    """Call the model once, and return what that tells.

    Raises:
        click.ClickException: the model cannot be loaded or called.
    """
    try:
        model.get_key()
        if not model.supports_text:
            model.warm()
            return "It was loaded, and takes no text to be tried with."
        vectors = embed_items(model, [SHORT_TEXT], Kind.DOCUMENT).vectors
    except MissingKeyError as error:
        return f"It was not tried. {error}"
    except DimensionMismatchError as error:
        raise _not_registered(
            f"its vectors have {error.actual} dimensions, not {error.expected}"
        ) from error
    except EmbedError as error:
        raise _not_registered(error.detail) from error
    longest = f"texts of up to {model.max_tokens:,} tokens" if model.max_tokens else "texts"
    limit = "" if model.max_tokens else "; how long they may be it does not say"
    return f"It turns {longest} into {vectors.shape[1]:,} dimensions{limit}."


def _not_registered(reason: str) -> click.ClickException:
    return click.ClickException(
        f"{reason.rstrip('.')}. Nothing was registered; --lazy registers without trying"
    )
