"""How the commands print: data on stdout, talk on stderr.

Layer 10: imports click only. No command belongs here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

import click


def say(message: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    click.echo(message, err=True)


def print_json(value: Any) -> None:
    """Print data as indented JSON, on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns, on stdout; the last column is cut to the terminal's width."""
    texts = [["" if value is None else str(value) for value in row] for row in rows]
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
    joined = " ".join(text.split())
    return joined if len(joined) <= length else joined[: length - 1].rstrip() + "…"


def rows_text(count: int) -> str:
    """Return ``1 row`` or ``1,234 rows``."""
    return f"{count:,} row" + ("" if count == 1 else "s")


def duration_text(seconds: float) -> str:
    """Return a duration as a person would say it: ``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5_400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3_600:.1f} h"


def size_text(size_bytes: float) -> str:
    """Return a size as a person would say it, in units of 1,000 bytes."""
    for unit in ("bytes", "kB", "MB"):
        if size_bytes < 1_000:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1_000
    return f"{size_bytes:.1f} GB"
