"""How the commands print and ask: data on stdout, talk on stderr.

Layer 11: imports click, ``errors`` and ``redaction``. No command belongs here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import click

from ..errors import SourceError
from ..redaction import redacted

#: Kinds of characters (Unicode categories) that could move the cursor, end a line or
#: send the terminal a command; and the marks that turn the direction of what follows.
_HIDDEN_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
_DIRECTIONS = {chr(code) for span in ((0x202A, 0x202F), (0x2066, 0x206A)) for code in range(*span)}


def say(message: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    click.echo("\n".join(map(visible, redacted(message).split("\n"))), err=True)


def is_terminal() -> bool:
    """Say whether there is a person who could be asked."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def confirm(subject: str, question: str) -> None:
    """Ask on stderr whether to go on; return only if the answer is yes.

    Raises:
        SourceError: about ``subject``, where nobody can be asked.
        click.Abort: the answer is no.
    """
    if not is_terminal():
        raise SourceError(
            subject,
            "nothing was changed, for there is no terminal to ask on. With --yes it goes on "
            f"without asking: {question}",
        )
    click.confirm(visible(question), abort=True, err=True)


def agreed(name: str) -> Callable[[str], bool]:
    """Return what asks about a collection, and ends the command when the answer is no."""

    def ask(question: str) -> bool:
        confirm(f"collection '{name}'", question)
        return True

    return ask


def command_text(command: str, *arguments: Any, **options: Any) -> str:
    """Return a ``datasette embed`` command that can be pasted into a shell.

    Args:
        command: its name, with the name of a subcommand after a space.
        arguments: its positional arguments.
        options: its long options; True for a flag, None to leave one out.
    """
    words = ["datasette", "embed", *command.split()]
    for name, value in options.items():
        if value is not None and value is not False:
            words.append(f"--{name}")
            words += [] if value is True else [str(value)]
    texts = [str(argument) for argument in arguments]
    # Without it a name that begins with a dash would be taken for an option.
    words += ["--"] if any(text.startswith("-") for text in texts) else []
    return shlex.join([*words, *texts])


def print_json(value: Any) -> None:
    """Print data as indented JSON, on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_line(text: str) -> None:
    """Print one line of data, on stdout."""
    click.echo(visible(text))


def print_text(text: str) -> None:
    """Print text of several lines, on stdout; tabs and the ends of lines stay."""
    parts = re.split(r"(\r?\n|\t)", text)
    parts[::2] = map(visible, parts[::2])
    click.echo("".join(parts))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns, on stdout; the last column is cut to the terminal's width."""
    texts = [["" if value is None else str(value) for value in row] for row in rows]
    texts = [[*map(visible, row[:-1]), row[-1]] for row in texts]
    widths = [
        max(len(header), *(len(row[column]) for row in texts)) if texts else len(header)
        for column, header in enumerate(headers)
    ]
    room = max(20, shutil.get_terminal_size((100, 24)).columns - sum(w + 2 for w in widths[:-1]))
    for row in [list(headers), *texts]:
        cells = [value.ljust(width) for value, width in zip(row[:-1], widths[:-1], strict=True)]
        click.echo("  ".join([*cells, one_line(row[-1], room)]).rstrip())


def one_line(text: str, length: int) -> str:
    """Return the text on one line, of at most ``length`` characters."""
    # Cut first: a row may hold megabytes.
    joined = visible(" ".join(text[: 8 * length].split()))
    joined += "…" if len(text) > 8 * length and len(joined) < length else ""
    return joined if len(joined) <= length else joined[: length - 1].rstrip() + "…"


def visible(text: str) -> str:
    """Return the text with control characters written out (``\\x1b``), and no line break.

    What is printed comes out of a file, which may be a stranger's.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if character in _DIRECTIONS or unicodedata.category(character) in _HIDDEN_CATEGORIES
        else character
        for character in text
    )
