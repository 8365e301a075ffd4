"""``models``: list, register, remove.

Layer 10: the words around ``registry`` and ``models_file``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..models_file import add_model_entry, read_models_file, remove_model_entry
from ..registry import RegisteredModel, get_registry
from ..settings import PROVIDERS, parse_model_entry
from .output import print_json, print_table, say


@click.group()
def models() -> None:
    """The embedding models that can be called here."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def list_(as_json: bool) -> None:
    """List the models, with their other names."""
    registry = get_registry()
    described = [_described(entry, registry.unavailable) for entry in registry.list_models()]
    ids = {entry["id"] for entry in described}
    if as_json:
        print_json(described)
    else:
        print_table(
            ("id", "aliases", "dimensions", "longest text", "state"),
            [
                (
                    entry["id"],
                    ", ".join(entry["aliases"]),
                    entry["dimensions"],
                    f"{entry['max_tokens']} tokens" if entry["max_tokens"] else None,
                    entry["unavailable"] or "available",
                )
                for entry in described
            ],
        )
    for name, reason in registry.unavailable.items():
        if name not in ids:
            say(f"{name} is unavailable: {reason}")


@models.command()
@click.argument("provider", type=click.Choice(PROVIDERS))
@click.argument("name")
@click.option("-a", "--alias", "aliases", multiple=True, help="Another name for it")
def register(provider: str, name: str, aliases: tuple[str, ...]) -> None:
    """Register the model NAME (a hub name or a folder), so that SQL can call it."""
    if Path(name).is_dir():
        name = str(Path(name).resolve())  # a server may run in another folder
    entry = parse_model_entry(
        {"provider": provider, "model": name, "aliases": aliases}, "the entry"
    )
    registry = get_registry()
    for taken in (entry.resolved_id, *entry.aliases):
        holder = registry.find(taken)
        if holder is not None and holder.model_id != entry.resolved_id:
            raise click.ClickException(f"The name '{taken}' belongs to {holder.model_id}")
    replaced = [known for known in read_models_file() if known.name == entry.resolved_id]
    if registry.find(entry.resolved_id) is not None and not replaced:
        raise click.ClickException(f"{entry.resolved_id} is there already, without registering")
    path = add_model_entry(entry)
    say(f"Registered {entry.resolved_id} in {path}. It is loaded when it is first used.")
    for known in replaced:
        if known.entry is not None and known.entry.model != entry.model:
            say(f"It takes the place of {known.entry.model}, which had this id.")


@models.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a registered model by its id or alias; its collections are left alone."""
    model_id = remove_model_entry(name)
    say(f"Removed {model_id}. Collections made with it can still be read in SQL.")


def _described(entry: RegisteredModel, unavailable: dict[str, str]) -> dict[str, Any]:
    model = entry.model
    return {
        "id": model.model_id,
        "aliases": list(entry.aliases),
        "dimensions": model.dimensions,
        "max_tokens": model.max_tokens,
        "is_local": model.is_local,
        "price_per_million_tokens": model.price_per_million_tokens,
        "unavailable": unavailable.get(model.model_id),
    }
