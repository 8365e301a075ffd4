"""``collections``: list, path, show, rename, delete.

Layer 11: the words around ``store``.
"""

from __future__ import annotations

from typing import Any

import click
from click_default_group import DefaultGroup

from ..amounts import rows_text
from ..database import write_transaction
from ..errors import SourceError
from ..failure_records import FailureRecords
from ..job_records import JobRecords
from ..llm_files import default_database
from ..records import CollectionRecord, EntryWarning
from ..schema import has_collections
from ..sources import SourceSpec
from ..store import Store
from ..watches import rename_watched
from .arguments import as_json, database_and, reading, writing, yes
from .exchange import export, import_
from .jobs import status_text
from .output import command_text, confirm, is_terminal, print_json, print_line, print_table, say


@click.group(cls=DefaultGroup, default="list", default_if_no_args=True)
def collections() -> None:
    """The collections of a file."""


collections.add_command(export)
collections.add_command(import_)


@collections.command("list")
@database_and()
@as_json
def list_(db: str, as_json: bool) -> None:
    """List the collections of DB."""
    with reading(db) as conn:
        if not has_collections(conn):
            raise click.ClickException(
                f"No collections table found in {db}. "
                f"Make a collection: {command_text('create', db, 'TABLE')}"
            )
        store = Store(conn)
        described = [_described(store, record) for record in store.list_collections()]
    if as_json:
        print_json(described)
        return
    if not described:
        say(f"{db} has no collections. Make one: {command_text('create', db, 'TABLE')}")
    for collection in described:
        print_line(f"{collection['name']}: {collection['model']}")
        count = collection["num_embeddings"]
        print_line(f"  {count} embedding{'' if count == 1 else 's'}")


@collections.command()
def path() -> None:
    """Print the path of the database of commands that name none."""
    click.echo(default_database())


@collections.command()
@database_and("name")
@click.option(
    "-n",
    "--number",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many warnings to name",
)
@as_json
def show(db: str, name: str, number: int, as_json: bool) -> None:
    """Show what collection NAME is made of, and which of its rows to look at."""
    with reading(db) as conn:
        store = Store(conn)
        record = store.get_collection(name)
        described = _described(store, record)
        counts = store.count_warnings(record.id)
        named = {w: store.list_warnings(record.id, w, number) for w in counts}
        unfinished = JobRecords(conn).find_unfinished(record.id)
        job = unfinished and {"id": unfinished.id, "status": status_text(unfinished)}
        failing = FailureRecords(conn).count_failing(record.id)
    if as_json:
        described["unfinished_job"] = job
        described["failed"] = sum(failing.values())
        described["warnings"] = {
            warning.value: {
                "count": counts[warning],
                "entries": [
                    {"id": i, "tokens": tokens, "tokens_lost": lost} for i, tokens, lost in rows
                ],
            }
            for warning, rows in named.items()
        }
        print_json(described)
        return
    for key, value in described.items():
        print_line(f"{key}: {'unknown' if value is None else value}")
    if job:
        say(f"Job {job['id']} is {job['status']}: {command_text('jobs show', db, job['id'])}")
    for job_id, count in failing.items():
        say(
            f"{rows_text(count)} could not be embedded. Which, and why: "
            f"{command_text('jobs show', db, job_id)}"
        )
    for warning, rows in named.items():
        click.echo(f"\n{rows_text(counts[warning])} {_MEANINGS[warning]}")
        print_table(
            ("tokens", "lost", "id"), [(f"{t:,}", f"{lost:,}", entry) for entry, t, lost in rows]
        )
        if counts[warning] > len(rows):
            say(f"… and {counts[warning] - len(rows):,} more: -n {counts[warning]}")


@collections.command()
@database_and("old", "new")
def rename(db: str, old: str, new: str) -> None:
    """Give collection OLD the name NEW."""
    with writing(db) as conn:
        with write_transaction(conn):
            store = Store(conn)
            record = store.get_collection(old)
            rename_watched(conn, record, store.rename_collection(record, new))
    say(f"Renamed '{old}' to '{new}'")


@collections.command()
@database_and("name")
@yes
def delete(db: str, name: str, yes: bool) -> None:
    """Delete collection NAME: its vectors and all that is kept for it, not the rows.

    Asks first where there is a terminal to ask on.
    """
    with writing(db) as conn:
        store = Store(conn)
        record = store.get_collection(name)
        if not yes and is_terminal():
            entries = rows_text(store.count(record.id))
            confirm(f"collection '{name}'", f"Delete '{name}' and its {entries} of vectors?")
        with write_transaction(conn):
            deleted = store.delete_collection(store.get_collection(name))
    say(f"Deleted '{name}': {rows_text(deleted)}")


_MEANINGS = {
    EntryWarning.TRUNCATED: "longer than the model reads: only their beginning counts",
    EntryWarning.UNREADABLE: "mostly unknown to the model: a multilingual one would read them",
}


def _source_text(record: CollectionRecord) -> str | None:
    try:
        return str(SourceSpec.from_json(record.source)) if record.source else None
    except SourceError as error:
        return error.reason


def _described(store: Store, record: CollectionRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "model": record.model_id,
        "num_embeddings": store.count(record.id),
        "dimensions": record.dimensions,
        "source": _source_text(record),
        "stores_text": record.store,
        "created_at": record.created_at,
    }
