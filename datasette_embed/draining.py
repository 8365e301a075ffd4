"""Draining: embed the rows of a watched collection that changed.

Layer 9: imports what a job is made of (``changed_rows``, ``jobs``, ``missing``,
``opened_sources``, ``watching``). When to do it is decided by ``watcher``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from .changed_rows import ChangedRows
from .database import open_database, translated, write_transaction
from .job_records import Failure, JobCounts, JobStatus
from .jobs import JobRun
from .missing import MissingContent
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
    report: Callable[[JobCounts], None] = lambda counts: None,
) -> JobStatus | None:
    """Bring a watched collection up to date with what changed; None when nothing had.

    What was noted is forgotten only after its rows are stored, so a process that is killed
    anywhere costs its successor a comparison; and only what was noted before they were read.

    Args:
        path: the file with the collection and its table.
        key_for: returns the API key for a model.
        pause: set it to end after the batch in flight; what is left stays noted.
        report: called with the counts after every step.

    Raises:
        EmbedError: as ``watching.take_up`` and ``JobRun.run``.
    """
    with closing(open_database(path, writable=True)) as conn, translated(path):
        record = Store(conn).get_collection(name)
        model = registry.get(record.model_id)
        with synced_source(path, record, None, None) as source:
            if not (work := take_up(conn, path, name, source, model)):
                return None
            rows = _rows_of(source, record, work.changes)
            job = _WatchRun(
                conn,
                path,
                work.collection,
                work.job,
                rows,
                model,
                rows_total=_count(source) if rows is source else len(work.changes),
                report=report,
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


class _WatchRun(JobRun):
    """A run that nobody asked for: what has failed before, it leaves alone until it changes."""

    def _read(self, missing: list[MissingContent]) -> tuple[list[MissingContent], list[Failure]]:
        known = [item for item in missing if self._has_failed(item)]
        ids = [entry_id for item in known for entry_id in item.entry_ids]
        if ids:
            with write_transaction(self.conn):
                self._failures.keep_failures(self.job, ids)
        self._failing.update(ids)
        self.counts.failed += len(ids)
        self.counts.rows_done += len(ids)
        return super()._read([item for item in missing if not self._has_failed(item)])

    def _has_failed(self, item: MissingContent) -> bool:
        return all((i, item.content_hash) in self._known_failures for i in item.entry_ids)


def _count(source: Source) -> int:
    return sum(len(window) for window in source.iter_windows())


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
