"""``sync``: bring collections up to date with their rows.

Layer 10: the words around ``planning`` and ``jobs``. No decision about data is made here.
"""

from __future__ import annotations

from contextlib import closing

import click

from ..database import open_database
from ..errors import EmbedError, SourceError
from ..records import CollectionRecord
from ..sources import Source, SourceSpec
from ..store import Store
from .arguments import not_empty, reading, yes
from .output import command_text, confirm, say
from .run import run_collection


@click.command()
@click.argument("db", type=click.Path())
@click.argument("collections", nargs=-1)
@click.option(
    "--from",
    "source_db",
    type=click.Path(),
    callback=not_empty,
    help="The file that holds the rows",
)
@click.option("--keep-removed", is_flag=True, help="Keep entries whose row is gone")
@yes
def sync(
    db: str, collections: tuple[str, ...], source_db: str | None, keep_removed: bool, yes: bool
) -> None:
    """Bring collections of DB up to date with their rows (default: all of them).

    Embeds what is new or changed and removes what is gone. It asks before it reads rows
    of another file, before it costs money and before it empties a collection. One that
    cannot be brought up to date does not keep the others from it.
    """
    with reading(db) as conn:
        store = Store(conn)
        chosen = [store.get_collection(name) for name in collections] or [
            record for record in store.list_collections() if record.source
        ]
    if not chosen:
        raise SourceError(db, "has no collection made from a table or a query: create one first")
    is_done = True
    for record in chosen:
        try:
            is_done &= _sync(db, record, source_db, remove=not keep_removed, asks=not yes)
        except EmbedError as error:
            say(f"Error: {error.detail}")
            is_done = False
    if not is_done:
        raise click.exceptions.Exit(1)


def _sync(
    db: str, record: CollectionRecord, source_db: str | None, *, remove: bool, asks: bool
) -> bool:
    """Bring one collection up to date; return whether it came to its end.

    Raises:
        EmbedError: as ``run_collection``.
        click.Abort: the answer to a question was no.
    """
    subject = f"collection '{record.name}'"
    if record.source is None:
        again = command_text("create", db, "TABLE", collection=record.name)
        raise SourceError(subject, f"does not say what it was made from. Run this once: {again}")
    spec = SourceSpec.from_json(record.source)
    if not spec.is_elsewhere:
        source_db = db  # --from names the file of those whose rows are elsewhere
    elif source_db is None:
        raise SourceError(subject, "its rows are in another file: name it with --from")
    elif asks:
        # Whoever made this file decides what is read, and may not have meant well.
        confirm(subject, f"'{record.name}' asks to read this from {source_db}: {spec}. Read it?")
    with closing(open_database(source_db)) as conn:
        source = Source(conn, spec, source_db)
        return run_collection(db, record.name, source, remove=remove, asks=asks)
