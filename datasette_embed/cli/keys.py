"""``keys``: list, path, set, remove.

Layer 11: the words around ``keys`` and ``llm_files``. They are LLM's keys, in LLM's file;
no command prints one.
"""

from __future__ import annotations

import sys

import click
from click_default_group import DefaultGroup

from ..keys import keys_path, read_stored_keys
from ..llm_files import remove_key, write_key
from .output import print_line, say


@click.group(cls=DefaultGroup, default="list", default_if_no_args=True)
def keys() -> None:
    """The API keys of models, which LLM uses too."""


@keys.command("list")
def list_() -> None:
    """List the names of the stored keys, never the keys."""
    names = read_stored_keys()
    for name in names:
        print_line(name)
    if not names:
        say("No keys found")


@keys.command()
def path() -> None:
    """Print the path of the file that holds them."""
    print_line(str(keys_path()))


@keys.command("set")
@click.argument("name")
@click.option("--value", help="The key; without it you are asked, and nobody sees what you type")
def set_(name: str, value: str | None) -> None:
    """Store the key called NAME, which is what a model says it needs: openai for example."""
    if not name.strip() or name.startswith("//"):
        raise click.BadParameter("must be a word like openai", param_hint="'NAME'")
    if value is None:
        value = _typed() if sys.stdin.isatty() else sys.stdin.readline()
    if not value.strip():
        raise click.UsageError("The key is blank")
    is_new = name not in read_stored_keys()
    write_key(name, value.strip())
    say(f"{'Stored' if is_new else 'Replaced'} the key '{name}' in {keys_path()}")


def _typed() -> str:
    typed: str = click.prompt("Enter key", hide_input=True, err=True)
    return typed


@keys.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove the key called NAME; LLM has it no more either."""
    remove_key(name)
    say(f"Removed the key '{name}' from {keys_path()}")
