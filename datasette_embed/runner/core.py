"""Core: the jobs of one server: made, queued, run, paused, gone on with.

Part of layer 10. The states are in the files; what is kept here is only which jobs wait for
a thread of this process. Every method is synchronous, reads or writes files, and may be
called from any thread but an event loop's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from time import monotonic
from typing import Any

from ..collection_setup import check_collection, check_retry, prepare_collection
from ..database import sqlite3
from ..errors import EmbedError, JobStateError
from ..job_records import UNFINISHED, WATCH, JobRecord, JobRecords, JobStatus
from ..job_rows import lease_seconds
from ..models import EmbeddingModel
from ..planning import Plan
from ..records import CollectionRecord
from ..runs import Run, RunOptions
from ..sources import SourceSpec
from ..store import Store, existing
from ..watching import check_watched
from ..workers import Clock, Workers
from .execution import Execution
from .looking import interrupted
from .making import make_way, refuse_busy, signed, still_there, waits_for
from .rows import (
    new_source,
    opened_rows,
    reading,
    refuse_empty,
    rows_options,
    rows_unknown,
    writing,
)
from .site import Site, SiteClosedError

logger = logging.getLogger(__name__)

#: How often files are looked at for jobs that another process has left.
LOOK_SECONDS = 30.0


class Runner:
    """The jobs of one Datasette server.

    Args:
        site: the Datasette.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._workers = Workers(site.settings.job_workers, "embed-job")
        self._executions: dict[tuple[str, int], Execution] = {}
        self._not_before: dict[tuple[str, int], float] = {}
        # Reentrant: the garbage collector may stop a runner in any thread at any moment.
        self._lock = threading.RLock()
        self._clock: Clock | None = None
        self._told: set[tuple[str, type]] = set()
        self._stopping = threading.Event()

    # -- making jobs ---------------------------------------------------------------

    def create(
        self,
        database: str,
        name: str,
        spec: SourceSpec,
        model: str | EmbeddingModel | None = None,
        *,
        store: bool = False,
        rows_database: str | None = None,
        actor_id: str | None = None,
    ) -> JobRecord:
        """Make a collection, unless it is there, and start to embed its rows.

        Args:
            database: where the vectors go, by Datasette's name of it.
            name: the collection.
            spec: the rows.
            model: an id, an alias or a model; None for the default one.
            store: store the content beside its vector.
            rows_database: where the rows are, if that is another database.
            actor_id: who asked.

        Raises:
            JobStateError: the collection has a job that runs or waits.
            EmbedError: it cannot be done; nothing was written.
        """
        path = self._site.get_file(database)
        resolved = self._site.get_model(model)
        other = None if rows_database == database else rows_database
        options = {"rows_database": other} if other else {}
        with new_source(self._site, path, name, spec, other) as source:
            with existing(path) as conn:
                found = Store(conn).find_collection(name) if conn else None
            check_collection(found, resolved, source)
            refuse_empty(source)

            def prepare(conn: sqlite3.Connection) -> CollectionRecord:
                return prepare_collection(conn, path, name, resolved, source, store_content=store)

            return self._start(path, "create", prepare, options, actor_id)

    def sync(
        self, database: str, name: str, *, remove: bool = True, actor_id: str | None = None
    ) -> JobRecord:
        """Start to bring a collection up to date with its rows.

        Args:
            remove: delete entries whose row is gone.

        Raises:
            CollectionNotFoundError: there is no such collection.
            UnknownModelError: its model is not registered here.
            JobStateError: it has a job that runs or waits.
            EmbedError: it cannot be done; nothing was written.
        """
        path = self._site.get_file(database)
        with reading(path) as conn:
            record = Store(conn).get_collection(name)
            options = rows_options(self._site, conn, path, record)
        options = {**options, "remove": remove}
        model = self._site.registry.get(record.model_id)
        with opened_rows(self._site, path, record, options) as source:
            check_collection(record, model, source)
        return self._start(path, "sync", still_there(record), options, actor_id)

    def retry(self, database: str, job_id: int, *, actor_id: str | None = None) -> JobRecord:
        """Start to embed once more what a job's collection could not embed, and only that.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: there is nothing to retry, or a job of it is unfinished.
            OutdatedCollectionError: all of the collection is to be embedded again.
        """
        path = self._site.get_file(database)
        with reading(path) as conn:
            record = check_retry(conn, JobRecords(conn).get_job(job_id))
            options = rows_options(self._site, conn, path, record)
        record.check_current(self._site.registry.get(record.model_id))
        return self._start(path, "retry", still_there(record), options, actor_id)

    def estimate(
        self,
        database: str,
        name: str,
        spec: SourceSpec,
        model: str | EmbeddingModel | None = None,
        *,
        store: bool = False,
        rows_database: str | None = None,
        seconds: float | None = None,
    ) -> Plan:
        """Return what ``create`` would do and cost; nothing is written.

        Raises:
            EmbedError: it cannot be done, or reading the rows takes longer than ``seconds``.
        """
        path = self._site.get_file(database)
        resolved = self._site.get_model(model)
        other = None if rows_database == database else rows_database
        with new_source(self._site, path, name, spec, other, seconds) as source:
            registry = self._site.registry
            return Run(
                path, name, source, resolved.model_id, RunOptions(store=store), registry
            ).plan

    def delete(self, database: str, name: str) -> int:
        """Delete a collection, its jobs too; return how many entries it had.

        Raises:
            CollectionNotFoundError: there is no such collection.
            JobStateError: it has a job that runs or waits for its turn.
        """
        path = self._site.get_file(database)
        with writing(path) as conn:
            store = Store(conn)
            record = store.get_collection(name)
            refuse_busy(self._site, JobRecords(conn), path, record, self._workers.has)
            deleted = store.delete_collection(record)
        logger.info("%s: collection '%s' was deleted, %s entries", path, name, deleted)
        return deleted

    def waits_for(self, database: str, job: JobRecord, record: CollectionRecord) -> str | None:
        """Return what a job of a collection waits for; None for one that runs or has ended.

        Raises:
            SourceError: the secret of this site cannot be read, or the database is in memory.
        """
        path = self._site.get_file(database, writable=False)
        return waits_for(self._site, path, job, record, self._workers.has)

    # -- steering jobs -------------------------------------------------------------

    def pause(self, database: str, job_id: int) -> JobRecord:
        """Pause a job, at once or after the batch in flight: ``JobRecords.pause``."""
        return self._steer(database, job_id, JobRecords.pause)

    def cancel(self, database: str, job_id: int) -> JobRecord:
        """End a job for good; what it has done is kept: ``JobRecords.cancel``."""
        return self._steer(database, job_id, JobRecords.cancel)

    def resume(self, database: str, job_id: int) -> JobRecord:
        """Let a job go on, whoever began it.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it runs, waits for its turn, or has ended.
            UnknownModelError: its model is not registered here.
            SourceError: a stranger's job wants rows of another database.
        """
        path = self._site.get_file(database)
        with writing(path) as conn:
            records = JobRecords(conn)
            job = records.get_job(job_id)
            if job.status is JobStatus.PENDING and self._workers.waits((path, job_id)):
                raise JobStateError(job_id, job.status.value, "it waits for its turn")
            record = Store(conn).get_collection(job.collection)
            self._site.registry.get(record.model_id)
            is_ours = self._site.is_ours(path, job, record)
            if job.options.get("rows_database") and not is_ours:
                raise rows_unknown(record)
            job = records.resume(job_id)
            if job.action == WATCH:
                check_watched(conn, record, job)
                return job  # the watcher goes on with it
            if not is_ours:
                job = signed(self._site, records, path, job, record)
        if job.status is JobStatus.PENDING:
            self._not_before.pop((path, job.id), None)
            self._queue(path, job.id, again=True)
        return job

    def _steer(
        self, database: str, job_id: int, change: Callable[[JobRecords, int], JobRecord]
    ) -> JobRecord:
        path = self._site.get_file(database)
        with writing(path) as conn:
            job = change(JobRecords(conn), job_id)
        self._nudge(path, job_id)
        if job.status not in UNFINISHED:
            self._give_up(path, job_id)
        return job

    def _nudge(self, path: str, job_id: int) -> None:
        """Let a job of this process look at once at what it is asked to do."""
        with self._lock:
            execution = self._executions.get((path, job_id))
        if execution:
            execution.pause.set()

    def _give_up(self, path: str, job_id: int) -> None:
        """Leave a model call that may never end to itself: its job is no longer ours."""
        if self._workers.give_up((path, job_id)):
            logger.warning("%s: job %s ended while its model computes", path, job_id)

    # -- the life of the runner ----------------------------------------------------

    def start(self) -> None:
        """Go on with what a stop has interrupted, now and whenever another process leaves it."""
        with self._lock:
            if self._clock or self._stopping.is_set():
                return
            seconds = min(LOOK_SECONDS, lease_seconds() / 2)
            self._clock = Clock(seconds, self.look, "embed-jobs")

    def stop(self, seconds: float = 0.0) -> bool:
        """End every job with the batch in flight, to go on at the next start.

        Args:
            seconds: how long to wait for that.

        Returns:
            Whether all have ended.
        """
        with self._lock:
            self._stopping.set()
            if self._clock:
                self._clock.stop()
            executions = list(self._executions.values())
        self._workers.stop()
        for execution in executions:
            execution.pause.set()
        return self._workers.wait(seconds)

    def abandon(self) -> None:
        """Begin nothing more, for the Datasette is gone; a job that runs notices by itself.

        Sets no event: the garbage collector may call this in a thread that is about to wait
        for that very event.
        """
        clock = self._clock
        if clock:
            clock.stop()
        self._workers.stop()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until no job of this process runs or waits; return whether that is so."""
        return self._workers.wait(seconds)

    def look(self) -> bool:
        """Queue the jobs of this site that nobody runs; return whether to look again."""
        try:
            resumes = self._site.settings.resume_jobs
            files = self._site.list_files() if resumes else {}
        except SiteClosedError:
            return False
        for path, job_id in [key for key in list(self._not_before) if self._is_due(*key)]:
            self._queue(path, job_id)
        for path in files.values():
            try:
                for job_id in interrupted(self._site, path, self._is_due):
                    self._queue(path, job_id)
            except EmbedError as error:
                logger.debug("%s: no jobs to go on with: %s", path, error)
            except Exception as error:
                # A file may hold anything; the others are looked at all the same.
                if (path, type(error)) not in self._told:
                    self._told.add((path, type(error)))
                    logger.exception("%s: no jobs to go on with", path)
        return not self._stopping.is_set() and (resumes or bool(self._not_before))

    def submit(self, key: Hashable, work: Callable[[threading.Event], None]) -> bool:
        """Queue other work of the background, once for each key and after one that runs.

        Args:
            work: called with an event that is set when the server stops.
        """
        return self._workers.submit(key, partial(work, self._stopping), again=True)

    # -- within --------------------------------------------------------------------

    def _start(
        self,
        path: str,
        action: str,
        prepare: Callable[[sqlite3.Connection], CollectionRecord],
        options: Mapping[str, Any],
        actor_id: str | None,
    ) -> JobRecord:
        """Write a job, and whatever ``prepare`` writes, in one transaction; then queue it."""
        with writing(path) as conn:
            record = prepare(conn)
            records = JobRecords(conn)
            make_way(self._site, records, path, record, self._workers.has)
            job = records.create(
                record.id,
                record.name,
                record.model_id,
                action=action,
                options=options,
                actor=actor_id,
            )
            job = signed(self._site, records, path, job, record)
        self._queue(path, job.id)
        return job

    def _is_due(self, path: str, job_id: int) -> bool:
        return monotonic() >= self._not_before.get((path, job_id), 0.0)

    def _queue(self, path: str, job_id: int, *, again: bool = False) -> None:
        work = partial(self._execute, path, job_id)
        self._workers.submit((path, job_id), work, again=again)

    def _try_later(self, path: str, job_id: int, seconds: float) -> None:
        """Have a job tried again, if need be by a clock for that alone."""
        self._not_before[path, job_id] = monotonic() + seconds
        with self._lock:
            if not self._stopping.is_set() and (self._clock is None or self._clock.has_ended):
                self._clock = Clock(min(seconds, LOOK_SECONDS), self.look, "embed-jobs")

    def _execute(self, path: str, job_id: int) -> None:
        """Run a job; whatever happens, the worker goes on and the job can be found again."""
        goes_on = True
        while goes_on:
            lost = partial(self._give_up, path, job_id)
            execution = Execution(self._site, path, job_id, self._stopping, lost)
            with self._lock:
                self._executions[path, job_id] = execution
            try:
                self._not_before.pop((path, job_id), None)
                seconds = execution.run()
                if seconds is not None:
                    self._try_later(path, job_id, seconds)
            finally:
                with self._lock:
                    if self._executions.get((path, job_id)) is execution:
                        del self._executions[path, job_id]
            # Asked to pause and to go on after all, while one batch was in flight.
            goes_on = execution.is_pending and not self._stopping.is_set()
