"""Execution: one job of a server, from its row to its end.

Part of layer 10. Nothing that happens here may end the worker: what goes wrong stands in
the job's row, or, where even that cannot be written, in the log.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing

from ..batches import first_line
from ..chosen_rows import ChosenRows
from ..collection_setup import check_collection
from ..database import open_database, translated, write_transaction
from ..errors import (
    DatabaseLockedError,
    EmbedError,
    JobNotFoundError,
    JobStateError,
    UnknownModelError,
)
from ..failure_records import FailureRecords
from ..job_records import JobRecord, JobRecords, JobStatus
from ..jobs import JobRun
from ..records import RowSource
from ..store import Store
from .file_watch import GONE, FileWatch
from .rows import opened_rows
from .site import MissingDatabaseError, Site, SiteClosedError

logger = logging.getLogger(__name__)

#: How long a job that could not begin is left alone, and one whose file was locked.
RETRY_SECONDS = 60.0
LOCKED_SECONDS = 5.0


class Execution:
    """One attempt to run a job.

    Args:
        site: the Datasette.
        path: the file with the job.
        job_id: the job; by the time it is its turn it may be gone, or somebody else's.
        stopping: set when the server stops.
        on_lost: called when the job, while its model computes, is no longer this run's.

    Attributes:
        pause: set it to have the job look at once at what it is asked to do.
        is_pending: whether the job ended only to go on at once.
    """

    def __init__(
        self,
        site: Site,
        path: str,
        job_id: int,
        stopping: threading.Event,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._site = site
        self._path = path
        self._job_id = job_id
        self._stopping = stopping
        self.pause = threading.Event()
        self.is_pending = False
        self._job: JobRecord | None = None
        self._watch: FileWatch | None = None
        self._on_lost = on_lost

    def run(self) -> float | None:
        """Run the job to its end, or return after how many seconds it is to be tried again."""
        try:
            self._run()
            return None
        except (JobStateError, JobNotFoundError, SiteClosedError) as error:
            # Another process was faster, or somebody paused, cancelled or deleted it.
            logger.info("%s: %s", self._path, error)
            return None
        except DatabaseLockedError as error:
            logger.warning("job %s waits: %s", self._job_id, error)
            self._record(first_line(error), is_final=False)
            return LOCKED_SECONDS
        except (UnknownModelError, MissingDatabaseError) as error:
            # It may be there after the next restart, or on another server of the file.
            logger.warning("%s: job %s waits: %s", self._path, self._job_id, error)
            self._record(first_line(error), is_final=False)
        except EmbedError as error:
            self._fail(error)
        except Exception as error:
            logger.exception("%s: job %s failed", self._path, self._job_id)
            self._record(f"internal error ({type(error).__name__}). The log says why")
        return RETRY_SECONDS

    def _fail(self, error: EmbedError) -> None:
        """Record why the job failed, unless its file is gone: another may be in its place."""
        if self._watch and self._watch.is_gone:
            logger.warning("job %s: %s: %s", self._job_id, self._path, GONE)
            return
        logger.warning("%s: job %s: %s", self._path, self._job_id, error.detail)
        self._record(first_line(error))

    def _run(self) -> None:
        with closing(open_database(self._path, writable=True)) as conn, translated(self._path):
            job = self._job = JobRecords(conn).get_job(self._job_id)
            record = Store(conn).get_collection(job.collection)
            model = self._site.registry.get(record.model_id)
            self._watch = watch = FileWatch(self._path, self._site, self.pause.set)
            with opened_rows(self._site, self._path, record, job.options) as opened:
                source: RowSource = opened
                if job.action == "retry":
                    source = ChosenRows(opened, FailureRecords(conn).failing_ids(record.id))
                check_collection(record, model, source)
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
                run.on_lost = self._on_lost
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
