"""``datasette embed``: the command group.

Layer 11. Every ``datasette`` command imports this module, so it imports click and nothing
heavy; a command's own module is imported when the command is used.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any

import click

from ..errors import EmbedError
from ..redaction import redacted
from .output import visible

#: command -> module that defines a click command of the same name (``-`` as ``_``).
COMMANDS = {
    "create": "create",
    "sync": "sync",
    "watch": "watch",
    "unwatch": "watch",
    "search": "search",
    "similar": "similar",
    "similarities": "similarities",
    "cluster": "cluster",
    "collections": "collections",
    "models": "models",
    "keys": "keys",
    "jobs": "jobs",
    "check": "check",
    "text": "text",
    "multi": "multi",
    "demo": "demo",
}


class _Utf8(click.types.StringParamType):
    """Text, and no bytes that Python has hidden in one (``surrogateescape``, PEP 383).

    A shell passes on any bytes. Those that are no UTF-8 can neither be stored nor looked for.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; click says of which parameter it is refused."""
        text: str = super().convert(value, param, ctx)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            self.fail(f"{ascii(text)} is not UTF-8", param, ctx)
        return text


def _take_only_utf8(command: click.Command) -> None:
    """Let a command and those below it refuse texts that are no UTF-8; paths may be any bytes."""
    for param in command.params:
        if isinstance(param.type, click.Tuple):
            param.type.types = [_checked(inner) for inner in param.type.types]
        else:
            param.type = _checked(param.type)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _take_only_utf8(inner)


def _checked(kind: Any) -> Any:
    return _Utf8() if type(kind) is click.types.StringParamType else kind


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
        _take_only_utf8(command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an EmbedError becomes click's ``Error: …`` and exit code 1."""
        if sys.stdout is None:  # closed by the shell: >&-
            raise click.ClickException("standard output is closed, and with it all that is found")
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except EmbedError as error:
            raise click.ClickException(visible(redacted(error.detail))) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise click.ClickException(f"cannot be written: {error.strerror}") from error


@click.group(cls=LazyGroup)
def embed() -> None:
    """Search and explore tables by meaning."""


def register(cli: click.Group) -> None:
    """Add ``embed`` to the ``datasette`` command."""
    cli.add_command(embed)
