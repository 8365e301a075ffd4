"""Execution: one job of a server, from its row to its end.

Part of layer 10. Nothing that happens here may end the worker: what goes wrong stands in
the job's row, or, where even that cannot be written, in the log.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import closing

from ..batches import first_line
from ..chosen_rows import ChosenRows
from ..collection_setup import check_collection
from ..database import open_database, translated, write_transaction
from ..errors import EmbedError, JobNotFoundError, JobStateError, SourceError, UnknownModelError
from ..failure_records import FailureRecords
from ..job_records import JobCounts, JobRecord, JobRecords, JobStatus
from ..jobs import JobRun
from ..records import RowSource
from ..store import Store
from .rows import opened_rows
from .site import Site, SiteClosedError

logger = logging.getLogger(__name__)


class Execution:
    """One attempt to run a job.

    Args:
        site: the Datasette.
        path: the file with the job.
        job_id: the job; by the time it is its turn it may be gone, or somebody else's.
        stopping: set when the server stops.

    Attributes:
        pause: set it to have the job look at once at what it is asked to do.
        is_pending: whether the job ended only to go on at once.
    """

    def __init__(self, site: Site, path: str, job_id: int, stopping: threading.Event) -> None:
        self._site = site
        self._path = path
        self._job_id = job_id
        self._stopping = stopping
        self.pause = threading.Event()
        self.is_pending = False
        self._job: JobRecord | None = None

    def run(self) -> bool:
        """Run the job to its end; return whether it may be tried again at once."""
        try:
            self._run()
            return True
        except (JobStateError, JobNotFoundError) as error:
            # Another process was faster, or somebody paused, cancelled or deleted it.
            logger.warning("%s: %s", self._path, error)
            return True
        except UnknownModelError as error:
            # It may be registered after the next restart, or by another server of the file.
            self._record(first_line(error), is_final=False)
        except EmbedError as error:
            logger.warning("%s: job %s: %s", self._path, self._job_id, error.detail)
            self._record(first_line(error))
        except Exception as error:
            logger.exception("%s: job %s failed", self._path, self._job_id)
            self._record(f"internal error ({type(error).__name__}). The log says why")
        return False

    def _run(self) -> None:
        with closing(open_database(self._path, writable=True)) as conn, translated(self._path):
            job = self._job = JobRecords(conn).get_job(self._job_id)
            record = Store(conn).get_collection(job.collection)
            model = self._site.registry.get(record.model_id)
            with opened_rows(self._site, self._path, record, job.options) as opened:
                source: RowSource = opened
                if job.action == "retry":
                    source = ChosenRows(opened, FailureRecords(conn).failing_ids(record.id))
                check_collection(record, model, source)
                watch = _FileWatch(self._path, self._site, self.pause)
                run = JobRun(
                    conn,
                    self._path,
                    record,
                    job,
                    source,
                    model,
                    rows_total=sum(len(window) for window in source.iter_windows()),
                    remove=job.options.get("remove") is True,
                    key=self._site.key_for(model),
                    report=watch,
                    pause=self.pause,
                )
                run.pause_status = JobStatus.PENDING
                run.states = (JobStatus.PENDING, JobStatus.RUNNING)
                if self._stopping.is_set():
                    return
                status = run.run()
                self.is_pending = status is JobStatus.PENDING and not watch.is_closed

    def _record(self, reason: str, *, is_final: bool = True) -> None:
        """Write into the row of a job that could not begin why that is."""
        if self._job is None:
            return
        try:
            with (
                closing(open_database(self._path, writable=True)) as conn,
                translated(self._path),
                write_transaction(conn),
            ):
                if is_final:
                    JobRecords(conn).fail(self._job, reason)
                else:
                    JobRecords(conn).note(self._job, reason)
        except (JobStateError, JobNotFoundError):
            return  # it did begin, and its row says how it ended
        except EmbedError as error:
            logger.warning("%s: the end of job %s: %s", self._path, self._job_id, error)


class _FileWatch:
    """Called after every step of a run: notices that its file is no longer the site's.

    A file that is deleted or replaced while it is open would otherwise go on to be filled,
    for money, and be gone in the end.
    """

    def __init__(self, path: str, site: Site, pause: threading.Event) -> None:
        self._path = path
        self._site = site
        self._pause = pause
        self.is_closed = False
        self._identity = _identity(path)

    def __call__(self, counts: JobCounts) -> None:
        """Stop the run where its file is not the one it began with.

        Raises:
            SourceError: the file was deleted or replaced.
        """
        if _identity(self._path) != self._identity:
            raise SourceError(self._path, "was deleted or replaced while a job wrote to it")
        try:
            is_served = self._path in self._site.list_files().values()
        except SiteClosedError:
            is_served = False
        if not is_served:
            self.is_closed = True
            self._pause.set()  # it stays pending, for whoever serves the file next


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
