"""``create`` and ``sync``: embed what is missing.

Layer 10: the words around ``planning`` and ``jobs``. No decision about data is made here.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from ..database import check_writable, open_database, sqlite3, translated
from ..errors import SourceError
from ..job_records import JobCounts, JobRecords, JobStatus
from ..jobs import JobRun, check_collection, ensure_collection
from ..models import EmbeddingModel
from ..planning import Plan, make_plan
from ..registry import get_registry
from ..schema import refuse_foreign
from ..sources import Source, SourceSpec
from ..store import CollectionRecord, EntryWarning, Store
from .output import duration_text, rows_text, say, size_text


@click.command()
@click.argument("db", type=click.Path())
@click.argument("table", required=False)
@click.option("--columns", help="Columns that make up the text, with commas between them")
@click.option("--template", help="The text, with {{ column }} where a column's value goes")
@click.option("--sql", help="A query instead of a table: its first column is the id")
@click.option("--where", help="Only rows for which this SQL condition holds")
@click.option("--id", "id_columns", help="Columns that name a row (default: the primary key)")
@click.option("--collection", help="Name of the collection (default: the table's)")
@click.option("--model", "model_id", help="Model id or alias (default: the bundled model)")
@click.option("--store", is_flag=True, help="Store the text beside its vector")
@click.option("--into", type=click.Path(), help="Put the vectors in this file, not in DB")
def create(
    db: str,
    table: str | None,
    columns: str | None,
    template: str | None,
    sql: str | None,
    where: str | None,
    id_columns: str | None,
    collection: str | None,
    model_id: str | None,
    store: bool,
    into: str | None,
) -> None:
    """Embed the rows of TABLE, so that DB can be searched by meaning.

    Run it again after an interruption, or when rows were added: only what is missing is
    embedded. Without --columns, the columns that hold prose are taken.
    """
    if columns and template:
        raise click.UsageError("Give --columns or --template, not both")
    if bool(table) == bool(sql):
        raise click.UsageError("Name a TABLE or give --sql, one of them")
    name = collection or table
    if not name:
        raise click.UsageError("Name the collection of the query: --collection NAME")
    spec = SourceSpec(
        table=table,
        sql=sql,
        columns=_names(columns),
        template=template,
        where=where,
        id_columns=_names(id_columns),
        is_elsewhere=bool(into) and Path(str(into)).absolute() != Path(db).absolute(),
    )
    embed_table(db, name, spec, into=into, model_id=model_id, store=store)


@click.command()
@click.argument("db", type=click.Path())
@click.argument("collections", nargs=-1)
@click.option("--from", "source_db", type=click.Path(), help="The file that holds the rows")
@click.option("--keep-removed", is_flag=True, help="Keep entries whose row is gone")
def sync(db: str, collections: tuple[str, ...], source_db: str | None, keep_removed: bool) -> None:
    """Bring collections of DB up to date with their rows (default: all of them).

    Embeds what is new or changed and removes what is gone.
    """
    with closing(open_database(db)) as conn, translated(db):
        store = Store(conn)
        chosen = [store.get_collection(name) for name in collections] or [
            record for record in store.list_collections() if record.source
        ]
    if not chosen:
        raise SourceError(db, "has no collection made from a table or a query: create one first")
    for record in chosen:
        if record.source is None:
            raise SourceError(
                f"collection '{record.name}'",
                "does not say what it was made from. Run this once: datasette embed create "
                f"{db} TABLE --collection {record.name}",
            )
        spec = SourceSpec.from_json(record.source)
        if spec.is_elsewhere and source_db is None:
            raise SourceError(
                f"collection '{record.name}'", "its rows are in another file: name it with --from"
            )
        # --from names the file of those whose rows are elsewhere, not of the others.
        with _opened(str(source_db) if spec.is_elsewhere else db, spec) as source:
            run_collection(db, record.name, source, remove=not keep_removed)


def embed_table(
    db: str,
    name: str,
    spec: SourceSpec,
    *,
    into: str | None = None,
    model_id: str | None = None,
    store: bool = False,
) -> None:
    """Embed a table, view or query of ``db`` into the collection ``name``, with words.

    Raises:
        EmbedError: as ``run_collection``.
    """
    with _opened(db, spec) as source:
        run_collection(into or db, name, source, model_id, store=store)


def run_collection(
    path: str,
    name: str,
    source: Source,
    model_id: str | None = None,
    *,
    store: bool = False,
    remove: bool = False,
) -> None:
    """Say what will happen, do it with a progress bar, and say what happened.

    Raises:
        EmbedError: nothing was changed, or the job's row says how far it came.
        click.exceptions.Exit: 1, when the job was paused.
    """
    unfinished = None
    with _existing(path) as conn:
        collection = Store(conn).find_collection(name) if conn else None
        if conn and collection:
            unfinished = JobRecords(conn).find_unfinished(collection.id)
        if model_id is None and collection:
            model_id = collection.model_id
        model = get_registry().get(model_id or "default")
        check_collection(collection, model, source)
        keeps_content = store or bool(collection and collection.store)
        plan = make_plan(
            source, model, Store(conn) if conn else None, collection, store_content=keeps_content
        )
    if collection is None:
        _refuse_nothing(plan, source)
    _say_plan(plan, source, model, remove)
    # A job that was killed after its last batch still waits to be finished.
    if collection and plan.is_up_to_date and not (remove and plan.removable) and not unfinished:
        return
    with closing(open_database(path, writable=True, create=True)) as conn, translated(path):
        collection, job = ensure_collection(conn, path, name, model, source, store_content=store)
        run = JobRun(
            conn, path, collection, job, source, model, rows_total=plan.rows, remove=remove
        )
        status = _run(run)
        _say_warnings(Store(conn), path, collection, model)
    _say_end(run, status)


def _run(run: JobRun) -> JobStatus:
    """Run a job with a progress bar; Ctrl-C pauses it."""
    started = time.perf_counter()
    with _pausing(run), _progress(run):
        status = run.run()
    _say_counts(run.counts, time.perf_counter() - started)
    return status


def _say_end(run: JobRun, status: JobStatus) -> None:
    """Say what to do next.

    Raises:
        click.exceptions.Exit: 1, when the job was paused.
    """
    if run.counts.failed:
        say(
            f"{rows_text(run.counts.failed)} could not be embedded. "
            f"Which, and why: datasette embed jobs show {run.path} {run.job.id}"
        )
    if status is JobStatus.PAUSED:
        say(f"Paused{': ' + run.reason if run.reason else ''}. Run the same command to go on.")
        raise click.exceptions.Exit(1)
    say(f'Search it: datasette embed search {run.path} {run.collection.name} "some words"')


def _names(columns: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in columns.split(",") if name.strip()) if columns else ()


@contextmanager
def _opened(db: str, spec: SourceSpec) -> Iterator[Source]:
    with closing(open_database(db)) as conn:
        yield Source(conn, spec, db)


@contextmanager
def _existing(path: str) -> Iterator[sqlite3.Connection | None]:
    """Open the file the vectors go to, if it is there, and make sure it takes them.

    A file that is locked, read-only or somebody else's says so here, before any work.
    """
    if not Path(path).exists():
        if not Path(path).absolute().parent.is_dir():
            raise SourceError(path, "its folder does not exist")
        yield None
        return
    with closing(open_database(path, writable=True)) as conn, translated(path):
        refuse_foreign(conn, path)
        check_writable(conn)
        yield conn


def _refuse_nothing(plan: Plan, source: Source) -> None:
    """Refuse a source of which no row can be embedded; nothing has been written yet."""
    if plan.rows == 0:
        raise SourceError(source.path, f"{source.spec.name} has no rows to embed")
    if plan.blank + plan.unusable == plan.rows:
        if plan.unusable:
            raise SourceError(
                source.path, f"no row of {source.spec.name} can be embedded: {plan.example_problem}"
            )
        raise SourceError(source.path, f"all {rows_text(plan.rows)} are empty or NULL")


# -- words -------------------------------------------------------------------------


def _say_plan(plan: Plan, source: Source, model: EmbeddingModel, remove: bool) -> None:
    say(f"{source.path}: {source.spec}")
    parts = [f"{plan.missing:,} to embed", f"{plan.unchanged:,} up to date"]
    parts += [f"{plan.blank:,} empty"] if plan.blank else []
    parts += [f"{plan.unusable:,} unusable ({plan.example_problem})"] if plan.unusable else []
    parts += [f"{plan.removable:,} to remove"] if remove and plan.removable else []
    say(f"{rows_text(plan.rows)}: {', '.join(parts)}")
    if not plan.missing:
        return
    where = "on this machine, free" if model.is_local else "over the network"
    say(f"Model: {model.model_id} ({where})")
    about = "about " if plan.is_sampled else ""
    estimates = [f"{about}{plan.tokens:,} tokens"]
    if plan.cost_usd is not None:
        estimates.append(f"about ${plan.cost_usd:,.2f}")
    if plan.duration_seconds is not None:
        estimates.append(f"about {duration_text(plan.duration_seconds)}")
    if plan.disk_bytes:
        estimates.append(f"about {size_text(plan.disk_bytes)} of disk")
    say(f"Estimate: {', '.join(estimates)}")


def _say_counts(counts: JobCounts, duration_seconds: float) -> None:
    done = counts.embedded + counts.reused
    parts = [f"Embedded {rows_text(done)} in {duration_seconds:.1f} s"]
    if done and duration_seconds > 0:
        parts[0] += f" ({done / duration_seconds:.0f} rows a second)"
    parts += [f"{counts.reused:,} of them by reusing a vector"] if counts.reused else []
    parts += [f"{counts.unchanged:,} were up to date"] if counts.unchanged else []
    parts += [f"{counts.refreshed:,} now have their text stored"] if counts.refreshed else []
    parts += [f"{counts.blank:,} are empty"] if counts.blank else []
    parts += [f"{counts.removed:,} removed"] if counts.removed else []
    say("; ".join(parts))


def _say_warnings(
    store: Store, path: str, collection: CollectionRecord, model: EmbeddingModel
) -> None:
    """Name the rows whose vector does not speak for the whole text."""
    found = store.count_warnings(collection.id)
    for warning, count in found.items():
        examples = store.list_warnings(collection.id, warning, 3)
        ids = ", ".join(entry_id for entry_id, _, _ in examples)
        ids += ", …" if count > len(examples) else ""
        if warning is EntryWarning.TRUNCATED:
            say(
                f"{rows_text(count)} longer than the {model.max_tokens} tokens this model reads: "
                f"only their beginning counts ({ids})"
            )
        else:
            say(
                f"{rows_text(count)} mostly unknown to this model, in another language or script "
                f"perhaps: a multilingual model would read them ({ids})"
            )
    if found:
        say(f"All of them: datasette embed collections show {path} {collection.name}")


@contextmanager
def _pausing(run: JobRun) -> Iterator[None]:
    """Turn the first Ctrl-C into a pause after the batch in flight; a second one ends it."""

    def handle(number: int, frame: Any) -> None:
        if run.pause.is_set():
            raise KeyboardInterrupt
        run.pause.set()
        say("\nPausing after this batch (Ctrl-C again to stop at once)")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(run: JobRun) -> Iterator[None]:
    """Show rows done, rows a second and the time left, on a terminal."""
    started = time.perf_counter()

    def speed(counts: JobCounts | None) -> str:
        done = counts.embedded + counts.reused if counts else 0
        return f"{done / (time.perf_counter() - started):.0f} rows/s" if done else ""

    with click.progressbar(
        length=run.rows_total,
        label="Embedding",
        show_pos=True,
        show_eta=True,
        item_show_func=speed,
        file=sys.stderr,
    ) as bar:
        run.report = lambda counts: bar.update(counts.rows_done - bar.pos, counts)
        yield
