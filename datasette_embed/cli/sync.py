"""``sync``: bring collections up to date with their rows.

Layer 11: the words around ``opened_sources``; the run itself is in ``run``. No decision about
data is made here.
"""

from __future__ import annotations

import click

from ..errors import EmbedError
from ..image_values import ImageAccess
from ..opened_sources import syncable, synced_source
from ..records import CollectionRecord
from .arguments import database_and, image_access, rows_from, yes
from .output import agreed, say
from .run import run_collection


@click.command()
@database_and("[collections...]")
@rows_from
@image_access
@click.option("--keep-removed", is_flag=True, help="Keep entries whose row is gone")
@yes
def sync(
    db: str,
    collections: tuple[str, ...],
    source_db: str | None,
    images: ImageAccess,
    keep_removed: bool,
    yes: bool,
) -> None:
    """Bring collections of DB up to date with their rows (default: all of them).

    Embeds what is new or changed and removes what is gone. It asks before it reads rows
    of another file, before it costs money and before it empties a collection. One that
    cannot be brought up to date does not keep the others from it.
    """
    chosen = syncable(db, collections)
    is_done = True
    for record in chosen:
        try:
            is_done &= _sync(db, record, source_db, images, remove=not keep_removed, asks=not yes)
        except EmbedError as error:
            say(f"Error: {error.detail}")
            is_done = False
    if not is_done:
        raise click.exceptions.Exit(1)


def _sync(
    db: str,
    record: CollectionRecord,
    source_db: str | None,
    images: ImageAccess,
    *,
    remove: bool,
    asks: bool,
) -> bool:
    """Bring one collection up to date; return whether it came to its end.

    Raises:
        EmbedError: as ``run_collection``.
        click.Abort: the answer to a question was no.
    """
    ask = agreed(record.name) if asks else None
    with synced_source(db, record, source_db, ask, images) as source:
        return run_collection(db, record.name, source, remove=remove, asks=asks)
