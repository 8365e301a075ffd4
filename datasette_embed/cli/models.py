"""``models``: list, default, alias, remove; the others are in modules of their own.

Layer 11: the words around ``registry``, ``model_names``, ``llm_files`` and ``models_file``.
"""

from __future__ import annotations

from typing import Any

import click
from click_default_group import DefaultGroup

from ..errors import UnknownModelError
from ..llm_files import aliases_path, read_aliases, remove_alias, write_alias
from ..model_names import (
    DEFAULT_ALIAS,
    get_default_embedding_model,
    set_default_embedding_model,
)
from ..models import EmbeddingModel
from ..models_file import read_models_file, remove_model_entry
from ..providers.adapted import AdaptedModel
from ..providers.bundled import BundledModel
from ..registry import RegisteredModel, Registry, get_registry
from .arguments import as_json
from .export_onnx import export_onnx_command
from .models_register import register
from .models_show import show
from .output import command_text, print_json, print_line, say


@click.group(cls=DefaultGroup, default="list", default_if_no_args=True)
def models() -> None:
    """The embedding models that can be called here."""


models.add_command(export_onnx_command)
models.add_command(register)
models.add_command(show)


@models.command("list")
@click.option(
    "-q", "--query", "queries", multiple=True, help="Only those with this in a name; all of them"
)
@as_json
def list_(queries: tuple[str, ...], as_json: bool) -> None:
    """List the models, with their other names."""
    registry = get_registry()
    entries = [entry for entry in registry.list_models() if all(entry.matches(q) for q in queries)]
    if as_json:
        print_json([_described(entry, registry.unavailable) for entry in entries])
    for entry in entries if not as_json else ():
        aliases = f" (aliases: {', '.join(entry.aliases)})" if entry.aliases else ""
        print_line(f"{entry.model}{aliases}")
    if queries and not entries:
        say(f"No model matches {' and '.join(repr(query) for query in queries)}")
    for name, reason in registry.unavailable.items():
        if not queries or any(name == entry.model.model_id for entry in entries):
            say(f"{name} is unavailable: {reason}")


@models.command()
@click.argument("model", required=False)
@click.option("--remove-default", is_flag=True, help="Have no default model, of LLM or here")
def default(model: str | None, remove_default: bool) -> None:
    """Print the default model, or make MODEL the default one, of LLM too."""
    if remove_default:
        if model is not None:
            raise click.UsageError("Give a MODEL or --remove-default, not both")
        set_default_embedding_model(None)
    elif model is not None:
        set_default_embedding_model(model)
    else:
        _print_default(get_registry())


def _print_default(registry: Registry) -> None:
    chosen = get_default_embedding_model()
    if chosen is None:
        bundled = registry.find(DEFAULT_ALIAS)
        say("<No default embedding model set>")
        say(f"Without one it is {bundled.model_id}" if bundled else "")
        return
    print_line(chosen)
    if registry.find(chosen) is None:
        say(f"{chosen} is not registered here: datasette embed models default minilm sets another")


@models.command()
@click.argument("alias")
@click.argument("model", required=False)
@click.option("--remove", is_flag=True, help="Take the alias away")
def alias(alias: str, model: str | None, remove: bool) -> None:
    """Let ALIAS name MODEL, for LLM too; it is written into LLM's file of aliases."""
    if remove:
        if model is not None:
            raise click.UsageError("Give a MODEL or --remove, not both")
        say(f"Removed the alias '{alias}' of {remove_alias(alias)} from {aliases_path()}")
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    if not alias.strip():
        raise click.BadParameter("is blank", param_hint="'ALIAS'")
    registry = get_registry()
    model_id = registry.get(model).model_id
    holder = registry.find(alias)
    if holder is not None and alias not in registry.user_aliases:
        if holder.model_id != model_id:
            raise click.ClickException(f"The name '{alias}' belongs to {holder.model_id}")
        say(f"'{alias}' names {model_id} already")
        return
    before = read_aliases().get(alias)
    write_alias(alias, model_id)
    say(f"'{alias}' names {model_id}, by {aliases_path()}")
    if before not in (None, model_id):
        say(f"It named {before} before.")


@models.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a registered model by its id or alias; its collections are left alone."""
    try:
        model_id = remove_model_entry(name)
    except UnknownModelError:
        holder = get_registry().find(name)
        if holder is None:
            raise
        model_id = _remove_holder(name, holder)
    say(f"Removed {model_id}. Collections made with it can still be read in SQL.")
    if get_default_embedding_model() in (name, model_id):
        none = command_text("models default", **{"remove-default": True})
        say(f"It was the default model. To have none: {none}")
    for alias in (alias for alias, target in read_aliases().items() if target == model_id):
        say(f"It leaves an alias: {command_text('models alias', alias, remove=True)}")


def _remove_holder(name: str, holder: EmbeddingModel) -> str:
    """Remove the model that a name means without being one of its entry's; return its id.

    Raises:
        click.ClickException: it is there without having been registered.
    """
    if any(found.name == holder.model_id for found in read_models_file()):
        return remove_model_entry(holder.model_id)
    if isinstance(holder, BundledModel):
        raise click.ClickException(
            f"{holder.model_id} comes with datasette-embed and cannot be removed"
        )
    raise click.ClickException(
        f"{holder.model_id} was not registered by a command, so none removes it: it comes with a "
        "package or a plugin, or from plugin config"
    )


def _described(entry: RegisteredModel, unavailable: dict[str, str]) -> dict[str, Any]:
    model = entry.model
    wrapped = model.wrapped if isinstance(model, AdaptedModel) else model
    return {
        "id": model.model_id,
        "class": type(wrapped).__name__,
        "aliases": list(entry.aliases),
        "dimensions": model.dimensions,
        "max_tokens": model.max_tokens,
        "is_local": model.is_local,
        "price_per_million_tokens": model.price_per_million_tokens,
        "unavailable": unavailable.get(model.model_id),
    }
