"""Making: what happens in a file when a person asks for a job.

Part of layer 10. Called inside the transaction that writes the job, so that of two who ask
at once one finds the job of the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from ..database import sqlite3
from ..errors import CollectionNotFoundError, JobStateError, SourceError
from ..job_records import WATCH, JobRecord, JobRecords, JobStatus
from ..records import CollectionRecord
from ..schema import ensure_schema
from ..store import Store
from .site import Site

logger = logging.getLogger(__name__)


def make_way(
    site: Site,
    records: JobRecords,
    path: str,
    record: CollectionRecord,
    is_queued: Callable[[Hashable], bool],
) -> None:
    """End the collection's jobs that nobody is going to run, for a new one replaces them.

    Args:
        is_queued: whether this process runs or will run the job of a (path, id).

    Raises:
        JobStateError: one of them runs, or waits for its turn.
    """
    for job in records.list_unfinished(record.id):
        if job.action == WATCH and not _runs(job):
            continue  # nobody else does its work, and a pause of it is to last
        if is_busy(site, path, job, record, is_queued):
            raise JobStateError(
                job.id,
                job.status.value,
                f"it embeds '{record.name}'. Wait for it to end, or cancel it",
            )
        records.cancel(job.id, "replaced by a later job")


def refuse_busy(
    site: Site,
    records: JobRecords,
    path: str,
    record: CollectionRecord,
    is_queued: Callable[[Hashable], bool],
) -> None:
    """Keep a collection whose job is at work from being deleted.

    Raises:
        JobStateError: one of them runs, or waits for its turn.
    """
    for job in records.list_unfinished(record.id):
        if is_busy(site, path, job, record, is_queued):
            raise JobStateError(
                job.id,
                job.status.value,
                f"it embeds '{record.name}'. Cancel job {job.id} first, then delete the collection",
            )


def is_busy(
    site: Site,
    path: str,
    job: JobRecord,
    record: CollectionRecord,
    is_queued: Callable[[Hashable], bool],
) -> bool:
    """Say whether a job runs, or waits for its turn on this site."""
    is_waiting = job.status is JobStatus.PENDING and (
        is_queued((path, job.id)) or site.is_ours(path, job, record)
    )
    return _runs(job) or (is_waiting and job.action != WATCH)


def waits_for(
    site: Site,
    path: str,
    job: JobRecord,
    record: CollectionRecord,
    is_queued: Callable[[Hashable], bool],
) -> str | None:
    """Return what a job waits for; None for one that runs or has ended."""
    if job.status in (JobStatus.PAUSED, JobStatus.FAILED):
        return "somebody to resume it"
    if job.status is not JobStatus.PENDING and not job.is_abandoned:
        return None
    if is_queued((path, job.id)):
        return "its turn"
    if job.action == WATCH:
        return "the next look at the table"
    if not site.is_ours(path, job, record):
        return "somebody to resume it: this server was not asked for it, and starts nothing alone"
    if not site.settings.resume_jobs:
        return "somebody to resume it: the setting resume_jobs is false"
    return "its turn"


def _runs(job: JobRecord) -> bool:
    return job.status is JobStatus.RUNNING and not job.is_abandoned


def signed(
    site: Site, records: JobRecords, path: str, job: JobRecord, record: CollectionRecord
) -> JobRecord:
    """Record that a person asked this site for a job; one that cannot be signed runs too."""
    try:
        return records.set_signature(job, site.sign(path, job, record))
    except SourceError as error:
        logger.warning("job %s will not go on by itself after a restart: %s", job.id, error)
        return job


def still_there(record: CollectionRecord) -> Callable[[sqlite3.Connection], CollectionRecord]:
    """Return what finds a collection again inside the transaction."""

    def find(conn: sqlite3.Connection) -> CollectionRecord:
        ensure_schema(conn, record.name)
        found = Store(conn).get_collection(record.name)
        if not found.is_same(record):
            raise CollectionNotFoundError(record.name)
        return found

    return find
