"""Heartbeat: says now and then that a job is alive, however long its model computes.

Layer 7: imports ``database``, ``errors``, ``job_records``, ``job_rows`` and ``threads``. It has
a thread and a connection of its own, because the run's own thread may be inside a model.
It never claims a job: one that was taken over meanwhile stays with its new owner.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from types import TracebackType

from .database import open_database, translated
from .errors import SourceError
from .job_records import JobRecords
from .job_rows import Claim, lease_seconds
from .threads import start_thread

logger = logging.getLogger(__name__)

#: Heartbeats in the time after which a silent process loses its job.
BEATS_PER_LEASE = 4


class Heartbeat:
    """Keeps the lease of a claimed job alive while the ``with`` block runs.

    Args:
        path: the file with the job; nothing happens for one that cannot be opened.
        claim: what makes the job ours.
        on_lost: called, in its thread, when the job is no longer ours.
    """

    def __init__(self, path: str, claim: Claim, on_lost: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._on_lost = on_lost
        self._claim = claim
        self._seconds = lease_seconds() / BEATS_PER_LEASE
        self._is_over = threading.Event()

    def __enter__(self) -> Heartbeat:
        start_thread(self._run, name=f"embed-heartbeat-{self._claim.job_id}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.wait(self._seconds):
            try:
                if not self._beat():
                    self._on_lost()
                    return  # the run itself finds out when it next writes
            except SourceError as error:
                # The next one may come through; until then the batches say it too.
                logger.debug("no heartbeat for job %s: %s", self._claim.job_id, error)

    def _beat(self) -> bool:
        with (
            closing(open_database(self._path, writable=True)) as conn,
            translated(self._path),
        ):
            return JobRecords(conn).beat(self._claim)
