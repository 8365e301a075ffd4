"""One embedding run with its words: the plan, the questions, the progress and the end.

Layer 11: what ``create``, ``sync``, ``multi`` and ``demo`` have in common; most of the words are
in ``words``.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..amounts import rows_text
from ..job_records import JobStatus
from ..jobs import JobRun
from ..records import RowSource
from ..runs import Run, RunOptions
from ..store import Store
from .output import command_text, confirm, say
from .words import progress, say_counts, say_plan, say_warnings


def run_collection(
    path: str,
    name: str,
    source: RowSource,
    model_id: str | None = None,
    *,
    asks: bool = False,
    **options: Any,
) -> bool:
    """Say what will happen, do it with a progress bar, and say what happened.

    Args:
        path: the file the vectors go to.
        name: the collection.
        source: the rows.
        model_id: None for the collection's own, else the default one.
        asks: ask before it costs money or empties the collection.
        options: the fields of ``RunOptions``.

    Returns:
        Whether it came to its end; if not, the model kept failing, or somebody asked for it.

    Raises:
        EmbedError: nothing was changed, or the job's row says how far it came.
        click.exceptions.Exit: 1, when Ctrl-C paused it.
        click.Abort: the answer was no; nothing was changed.
    """
    run = Run(path, name, source, model_id, RunOptions(**options))
    say_plan(run.plan, source, run.model, run.options.remove)
    if run.is_done:
        return True
    for question in run.questions() if asks else ():
        confirm(f"collection '{name}'", question)
    with run.opened() as job:
        started = time.perf_counter()
        with _pausing(job), progress(job):
            status = job.run()
        say_counts(job.counts, time.perf_counter() - started)
        say_warnings(Store(job.conn), path, job.collection, run.model)
    return _end(job, status)


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
    if status is JobStatus.CANCELLED:
        say("Cancelled. What it has embedded is kept.")
        return False
    say(f"Search it: {command_text('search', run.path, run.collection.name, 'some words')}")
    return True


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
