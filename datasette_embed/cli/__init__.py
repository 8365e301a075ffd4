"""``datasette embed``: the command group.

Layer 10. Every ``datasette`` command imports this module, so it imports click and nothing
heavy; a command's own module is imported when the command is used.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from ..errors import EmbedError
from .output import visible

#: command -> module that defines a click command of the same name (``-`` as ``_``).
COMMANDS = {
    "create": "create",
    "sync": "sync",
    "search": "search",
    "similar": "similar",
    "similarities": "similarities",
    "cluster": "cluster",
    "collections": "collections",
    "models": "models",
    "jobs": "jobs",
    "check": "check",
    "text": "text",
    "multi": "multi",
    "demo": "demo",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used.

    It is also the one place where an error of ours becomes a line and exit code 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an EmbedError becomes click's ``Error: …`` and exit code 1."""
        try:
            return super().invoke(ctx)
        except EmbedError as error:
            raise click.ClickException(visible(error.detail)) from error


@click.group(cls=LazyGroup)
def embed() -> None:
    """Search and explore tables by meaning."""


def register(cli: click.Group) -> None:
    """Add ``embed`` to the ``datasette`` command."""
    cli.add_command(embed)
