"""What several commands take: their shared options, and the file they read.

Layer 10: imports click, ``database`` and ``schema``. No command belongs here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from ..database import open_database, sqlite3, translated
from ..schema import refuse_foreign


def not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty option, as a callback of it.

    It is what a shell makes of a variable that is not set, and must not mean "everything".

    Raises:
        click.BadParameter: naming the option.
    """
    if value is not None and not value.strip(" ,\t\n"):
        raise click.BadParameter("is empty", ctx, param)
    return value


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON")
yes = click.option("-y", "--yes", is_flag=True, help="Do not ask")


@contextmanager
def reading(db: str) -> Iterator[sqlite3.Connection]:
    """Open a file for reading; what SQLite says inside the block is said about the file.

    Raises:
        SourceError: no such file, no database, or one whose ``collections`` or
            ``embeddings`` are somebody else's tables.
    """
    with closing(open_database(db)) as conn, translated(db):
        refuse_foreign(conn, db)
        yield conn


@contextmanager
def writing(db: str) -> Iterator[sqlite3.Connection]:
    """Open a file that is there for writing, otherwise as ``reading``.

    Raises:
        SourceError: as ``reading``; nothing is written by opening.
    """
    with closing(open_database(db, writable=True)) as conn, translated(db):
        refuse_foreign(conn, db)
        yield conn
