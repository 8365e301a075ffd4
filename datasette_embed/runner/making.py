"""Making: what happens in a file when a person asks for a job.

Part of layer 10. Called inside the transaction that writes the job, so that of two who ask
at once one finds the job of the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from ..database import sqlite3
from ..errors import CollectionNotFoundError, JobStateError, SourceError
from ..job_records import JobRecord, JobRecords, JobStatus
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
        runs = job.status is JobStatus.RUNNING and not job.is_abandoned
        waits = job.status is JobStatus.PENDING and (
            is_queued((path, job.id)) or site.is_ours(path, job, record)
        )
        if runs or waits:
            raise JobStateError(
                job.id,
                job.status.value,
                f"it embeds '{record.name}'. Wait for it to end, or cancel it",
            )
        records.cancel(job.id, "replaced by a later job")


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
