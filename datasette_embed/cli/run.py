"""One embedding run with its words: the plan, the questions, the progress and the end.

Layer 10: what ``create``, ``sync`` and ``demo`` have in common; the words are in ``words``.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..collection_setup import check_collection, ensure_collection
from ..database import check_writable, open_database, sqlite3, translated
from ..errors import SourceError
from ..job_records import JobRecords, JobStatus
from ..jobs import JobRun
from ..models import EmbeddingModel
from ..planning import Plan, make_plan
from ..registry import get_registry
from ..schema import refuse_foreign
from ..sources import Source
from ..store import Store
from .output import command_text, confirm, rows_text, say
from .words import progress, say_counts, say_plan, say_warnings


def run_collection(
    path: str,
    name: str,
    source: Source,
    model_id: str | None = None,
    *,
    store: bool = False,
    remove: bool = False,
    asks: bool = False,
) -> bool:
    """Say what will happen, do it with a progress bar, and say what happened.

    Args:
        path: the file the vectors go to.
        name: the collection.
        source: the rows.
        model_id: None for the collection's own, else the default one.
        store: store the text beside its vector.
        remove: delete entries whose row is gone.
        asks: ask before it costs money or empties the collection.

    Returns:
        Whether it came to its end; if not, the model kept failing and the job is paused.

    Raises:
        EmbedError: nothing was changed, or the job's row says how far it came.
        click.exceptions.Exit: 1, when Ctrl-C paused it.
        click.Abort: the answer was no; nothing was changed.
    """
    prepared = _prepare(path, name, source, model_id, store)
    model, plan = prepared.model, prepared.plan
    say_plan(plan, source, model, remove)
    if prepared.is_done and not (remove and plan.removable):
        return True
    if asks:
        _ask(name, prepared, remove)
    with closing(open_database(path, writable=True, create=True)) as conn, translated(path):
        collection, job = ensure_collection(conn, path, name, model, source, store_content=store)
        run = JobRun(
            conn, path, collection, job, source, model, rows_total=plan.rows, remove=remove
        )
        started = time.perf_counter()
        with _pausing(run), progress(run):
            status = run.run()
        say_counts(run.counts, time.perf_counter() - started)
        say_warnings(Store(conn), path, collection, model)
    return _end(run, status)


class _Prepared(NamedTuple):
    """What is known before anything is written.

    Attributes:
        entries: how many the collection has.
        is_done: whether the collection has all that the source gives.
    """

    model: EmbeddingModel
    plan: Plan
    entries: int
    is_done: bool


def _prepare(path: str, name: str, source: Source, model_id: str | None, store: bool) -> _Prepared:
    """Compare the source with what is stored, and refuse what cannot be done."""
    unfinished, entries = None, 0
    with _existing(path) as conn:
        collection = Store(conn).find_collection(name) if conn else None
        if conn and collection:
            unfinished = JobRecords(conn).find_unfinished(collection.id)
            entries = Store(conn).count(collection.id)
            model_id = model_id or collection.model_id
        model = get_registry().get(model_id or "default")
        check_collection(collection, model, source)
        keeps_content = store or bool(collection and collection.store)
        plan = make_plan(
            source, model, Store(conn) if conn else None, collection, store_content=keeps_content
        )
    if collection is None:
        _refuse_nothing(plan, source)
    # A job that was killed after its last batch still waits to be finished, and so does a
    # collection whose job was cancelled there.
    is_done = (
        collection is not None
        and plan.is_up_to_date
        and not unfinished
        and not collection.is_rebuilding
    )
    return _Prepared(model, plan, entries, is_done)


def _end(run: JobRun, status: JobStatus) -> bool:
    """Say what to do next; return whether the run came to its end.

    Raises:
        click.exceptions.Exit: 1, when Ctrl-C paused it.
    """
    if run.counts.failed:
        say(
            f"{rows_text(run.counts.failed)} could not be embedded. "
            f"Which, and why: {command_text('jobs show', run.path, run.job.id)}"
        )
    if status is JobStatus.PAUSED:
        say(f"Paused{': ' + run.reason if run.reason else ''}. Run the same command to go on.")
        if run.pause.is_set():
            raise click.exceptions.Exit(1)
        return False
    say(f"Search it: {command_text('search', run.path, run.collection.name, 'some words')}")
    return True


def _ask(name: str, prepared: _Prepared, remove: bool) -> None:
    """Ask about what costs money or cannot be taken back.

    Raises:
        SourceError: nobody can be asked.
        click.Abort: the answer is no.
    """
    model, plan, entries, _ = prepared
    subject = f"collection '{name}'"
    if plan.missing and (model.needs_key or model.price_per_million_tokens):
        cost = f" for about ${plan.cost_usd:,.2f}" if plan.cost_usd is not None else ""
        confirm(subject, f"Embed {rows_text(plan.missing)} with {model.model_id}{cost}?")
    removed = plan.removable if remove else plan.blanked
    if entries and removed == entries and not plan.missing:
        confirm(subject, f"Remove all {entries:,} entries of '{name}', whose rows are gone?")


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
