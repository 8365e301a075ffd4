"""``similarities``: keep a table of the nearest others of every entry.

Layer 11: the words around ``explore.similarities``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..amounts import rows_text
from ..explore.neighbors import Report
from ..explore.similarities import SimilarityCounts, write_similarities
from .arguments import database_and, not_empty, writing
from .output import command_text, say


@click.command()
@database_and("collection")
@click.option(
    "--table",
    default="similarities",
    show_default=True,
    callback=not_empty,
    help="The table to write",
)
@click.option(
    "-n",
    "--number",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many others for each entry",
)
@click.option("--only-changed", is_flag=True, help="Compute only what a change can affect")
def similarities(db: str, collection: str, table: str, number: int, only_changed: bool) -> None:
    """Write a table of the entries nearest to each entry of COLLECTION.

    The table has the columns id, other_id and score, is brought up to date in one
    transaction, and is the same with --only-changed, in less time.
    """
    with writing(db) as conn, _progress() as report:
        counts = write_similarities(
            conn,
            db,
            collection,
            table=table,
            number=number,
            only_changed=only_changed,
            report=report,
        )
    _say_counts(db, table, counts)


def _say_counts(db: str, table: str, counts: SimilarityCounts) -> None:
    if counts.left_out:
        say(
            f"{rows_text(counts.left_out)} left out: no usable vector. "
            f"Which: {command_text('check', db)}"
        )
    say(
        f"{db}: table {table}: {counts.pairs:,} pairs of {counts.entries:,} entries, "
        f"{counts.computed:,} of them computed"
    )
    say(f"{counts.added:,} added, {counts.changed:,} changed, {counts.removed:,} removed")


@contextmanager
def _progress() -> Iterator[Report | None]:
    """Show how many entries are done and the time left, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(
        length=1, label="Comparing", show_pos=True, show_eta=True, file=sys.stderr
    ) as bar:

        def report(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield report
