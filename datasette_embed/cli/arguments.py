"""What several commands take: their shared options, and the file they read.

Layer 11: imports click and what it reads. No command belongs here.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from ..database import open_database, sqlite3, translated
from ..errors import SourceError
from ..image_values import ImageAccess
from ..inputs import STANDARD_INPUT, read_item
from ..llm_files import default_database
from ..models import Item
from ..schema import refuse_foreign

#: How the file name of a database ends, whether the file is there or not.
DATABASE_SUFFIXES = (".db", ".sqlite", ".sqlite3")


def not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty option, as a callback of it.

    It is what a shell makes of a variable that is not set, and must not mean "everything".

    Raises:
        click.BadParameter: naming the option.
    """
    if value is not None and not value.strip(" ,\t\n"):
        raise click.BadParameter("is empty", ctx, param)
    return value


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the names in a list with commas between them, as a callback of an option.

    Raises:
        click.BadParameter: the list is empty.
    """
    listed = not_empty(ctx, param, value) or ""
    return tuple(name.strip() for name in listed.split(",") if name.strip())


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON")
rows_from = click.option(
    "--from",
    "source_db",
    type=click.Path(),
    callback=not_empty,
    help="The file that holds the rows",
)


def image_access(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command say what paths and addresses of images may lead to, as ``images``."""

    @click.option(
        "--image-files",
        "image_folder",
        type=click.Path(),
        callback=not_empty,
        metavar="FOLDER",
        help="The column of images holds paths of files in this folder",
    )
    @click.option(
        "--image-urls", is_flag=True, help="The column of images holds URLs, which are fetched"
    )
    @functools.wraps(function)
    def command(*, image_folder: str | None, image_urls: bool, **options: Any) -> Any:
        return function(images=ImageAccess(image_folder, image_urls), **options)

    return command


yes = click.option("-y", "--yes", is_flag=True, help="Do not ask")


def database_and(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a command take ``[DB] NAME …`` as ours do, and ``NAME … -d DB`` as LLM's do.

    The function is called with ``db`` and each name as keyword arguments: the text, None
    for an optional name that is not given, a tuple for the names that may be repeated.

    Which argument is the database:

    - with ``-d`` none is: all are names;
    - one argument more than there are names: the first;
    - else the first when it is the name of a file that is there, or ends in ``.db``,
      ``.sqlite`` or ``.sqlite3``, or has a path separator in it while all the names that
      are needed follow;
    - else none is: the database is ``LLM_EMBEDDINGS_DB``, else LLM's own.

    Args:
        names: what the command names, in order: ``"collection"``; ``"[entry_id]"`` for one
            that may be left out; ``"[collections...]"`` at the end for any number.
    """
    metavar = " ".join(["[DB]", *map(_metavar, names)])

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("arguments", nargs=-1, metavar=metavar)
        @click.option(
            "-d",
            "--database",
            type=click.Path(),
            callback=not_empty,
            help="The database; without it and without DB: LLM_EMBEDDINGS_DB, else LLM's own",
        )
        @functools.wraps(function)
        def command(*, arguments: tuple[str, ...], database: str | None, **options: Any) -> Any:
            db, given = _split(arguments, database, names)
            taken = db if len(given) < len(arguments) else None
            return function(db=db, **_named(given, names, taken), **options)

        return command

    return decorate


def _metavar(name: str) -> str:
    """Return how a name is shown in the usage line."""
    bare = _bare(name).upper().removeprefix("ENTRY_")
    if "..." in name:
        return f"[{bare.removesuffix('S')}]..."
    return f"[{bare}]" if name.startswith("[") else bare


def _bare(name: str) -> str:
    return name.strip("[].")


def _split(
    arguments: tuple[str, ...], database: str | None, names: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """Return the database and the arguments that name something."""
    if database is not None or not arguments:
        return database or default_database(), arguments
    first, *rest = arguments
    needed = sum(not name.startswith("[") for name in names)
    is_repeated = any("..." in name for name in names)
    has_separator = os.sep in first or "/" in first
    is_database = (
        (len(rest) == len(names) and not is_repeated)
        or first.lower().endswith(DATABASE_SUFFIXES)
        or (has_separator and len(rest) >= needed)
        or os.path.isfile(first)  # not Path.is_file, which raises for a long name
    )
    return (first, tuple(rest)) if is_database else (default_database(), arguments)


def _named(given: tuple[str, ...], names: Sequence[str], taken: str | None) -> dict[str, Any]:
    """Return ``name -> argument``, in click's words where their number is wrong.

    Raises:
        click.UsageError: one is missing (``taken`` is what was taken for the database), or
            one is too many.
    """
    values: dict[str, Any] = {}
    left = list(given)
    for name in names:
        if "..." in name:
            values[_bare(name)], left = tuple(left), []
        elif left:
            values[_bare(name)] = left.pop(0)
        elif name.startswith("["):
            values[_bare(name)] = None
        else:
            why = f" ({taken} is taken for the database.)" if taken else ""
            raise click.UsageError(f"Missing argument '{_metavar(name)}'.{why}")
    if left:
        plural = "s" if len(left) > 1 else ""
        raise click.UsageError(f"Got unexpected extra argument{plural} ({' '.join(left)})")
    return values


@contextmanager
def reading(db: str) -> Iterator[sqlite3.Connection]:
    """Open a file for reading; what SQLite says inside the block is said about the file.

    Raises:
        SourceError: no such file, no database, or one whose ``collections`` or
            ``embeddings`` are somebody else's tables.
    """
    _refuse_missing(db)
    with closing(open_database(db)) as conn, translated(db):
        refuse_foreign(conn, db)
        yield conn


@contextmanager
def writing(db: str) -> Iterator[sqlite3.Connection]:
    """Open a file that is there for writing, otherwise as ``reading``.

    Raises:
        SourceError: as ``reading``; nothing is written by opening.
    """
    _refuse_missing(db)
    with closing(open_database(db, writable=True)) as conn, translated(db):
        refuse_foreign(conn, db)
        yield conn


def _refuse_missing(db: str) -> None:
    """Say of the database that nobody named why it is looked for."""
    if db == default_database() and not Path(db).exists():
        raise SourceError(
            db, "no such file. It is the database of a command that names none: name one with -d"
        )


def read_input(path: str, binary: bool) -> Item:
    """Return the content of a file, or of standard input for ``-``.

    Raises:
        SourceError: it cannot be read, or is no UTF-8 text (without ``binary``).
    """
    if path != "-":
        return read_item(path, binary=binary)
    if sys.stdin is None or sys.stdin.closed:
        raise SourceError(STANDARD_INPUT, "is closed")
    return read_item(STANDARD_INPUT, sys.stdin.buffer, binary=binary)
