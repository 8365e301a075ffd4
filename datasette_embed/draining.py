"""Draining: embed the rows of a watched collection that changed.

Layer 9: imports what a job is made of (``changed_rows``, ``jobs``, ``opened_sources``,
``watching``). When to do it is decided by ``watcher``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from .changed_rows import ChangedRows
from .database import open_database, translated, write_transaction
from .job_records import JobStatus
from .jobs import JobRun
from .models import EmbeddingModel
from .opened_sources import synced_source
from .records import CollectionRecord
from .registry import Registry
from .sources import Source
from .store import Store
from .watches import Changes, Watches
from .watching import DueWork, take_up

#: From so many changed keys on, reading the whole table costs less than looking them up.
EVERYTHING_FROM = 20_000

KeyFor = Callable[[EmbeddingModel], str | None]


def drain(
    path: str,
    name: str,
    registry: Registry,
    *,
    key_for: KeyFor = lambda model: None,
    pause: threading.Event | None = None,
) -> JobStatus | None:
    """Bring a watched collection up to date with what changed; None when nothing had.

    What was noted is forgotten only after its rows are stored, so a process that is killed
    anywhere costs its successor a comparison. Only what was noted before the rows were read
    is forgotten: a row that changes in the meantime stays noted.

    Args:
        path: the file with the collection and its table.
        key_for: returns the API key for a model.
        pause: set it to end after the batch in flight; what is left stays noted,
            and the job is pending.

    Raises:
        EmbedError: as ``watching.take_up`` and ``JobRun.run``.
    """
    with closing(open_database(path, writable=True)) as conn:
        with translated(path):
            record = Store(conn).get_collection(name)
        model = registry.get(record.model_id)
        with synced_source(path, record, None, None) as source:
            work = take_up(conn, path, name, source, model)
            if work is None:
                return None
            job = JobRun(
                conn,
                path,
                work.collection,
                work.job,
                _rows_of(source, record, work.changes),
                model,
                rows_total=len(work.changes),
                remove=True,
                key=key_for(model),
                pause=pause,
            )
            # Where a server stops, its next start goes on by itself.
            job.pause_status = JobStatus.PENDING
            status = job.run()
        if status is JobStatus.FINISHED:
            _forget(path, work)
        return status


def _rows_of(source: Source, record: CollectionRecord, changes: Changes) -> Source:
    """Return the source of what changed, or of everything where that is not known."""
    if changes.is_everything or len(changes) >= EVERYTHING_FROM or len(source.id_columns) != 1:
        return source
    return ChangedRows(source.conn, source.spec, source.path, changes.numbers)


def _forget(path: str, work: DueWork) -> None:
    with (
        closing(open_database(path, writable=True)) as conn,
        translated(path),
        write_transaction(conn),
    ):
        Watches(conn).forget_changes(work.collection.id, work.changes)
