"""``watch`` and ``unwatch``: collections that follow their table by themselves.

Layer 11: the words around ``watching`` and ``watches``.
"""

from __future__ import annotations

import click

from ..database import write_transaction
from ..opened_sources import syncable, synced_source
from ..records import CollectionRecord
from ..registry import get_registry
from ..store import Store
from ..watches import Watches
from ..watching import refuse_elsewhere, start_watching
from .arguments import database_and, writing
from .output import command_text, say


@click.command()
@database_and("[collections...]")
@click.option("--paid", is_flag=True, help="Even if the collection's model costs money")
def watch(db: str, collections: tuple[str, ...], paid: bool) -> None:
    """Let collections of DB follow the tables they were made from.

    From now on the file notes which rows change, whichever program changes them, and a
    Datasette server that has the file open for writing embeds those rows. Only on this
    machine: a server elsewhere pays no attention to it.
    """
    if not collections:
        raise click.UsageError("Missing argument 'COLLECTION'.")
    for record in syncable(db, collections):
        _watch(db, record, paid)
        say(
            f"Watching '{record.name}': a Datasette server with {db} embeds what changes. "
            "To end that, and before you drop a column of its table: "
            f"{command_text('unwatch', db, record.name)}"
        )


def _watch(db: str, record: CollectionRecord, paid: bool) -> None:
    """Set up one watch.

    Raises:
        EmbedError: as ``refuse_elsewhere`` and ``start_watching``.
    """
    refuse_elsewhere(record)
    model = get_registry().get(record.model_id)
    with synced_source(db, record, None, None) as source, writing(db) as conn:
        start_watching(conn, db, record, source, model, allows_paid=paid)


@click.command()
@database_and("[collections...]")
def unwatch(db: str, collections: tuple[str, ...]) -> None:
    """Let collections of DB follow their tables no longer (default: all of them).

    Nothing of it is left in the file; the collections stay as they are.
    """
    with writing(db) as conn, write_transaction(conn):
        store, watches = Store(conn), Watches(conn)
        if collections:
            chosen = [store.get_collection(name) for name in collections]
        else:
            chosen = store.list_collections()
        ended = [record.name for record in chosen if watches.delete_watch(record.id)]
    for name in ended or collections:
        say(f"'{name}' is no longer watched" if name in ended else f"'{name}' was not watched")
    if not ended and not collections:
        say(f"No collection of {db} was watched")
