"""Looking: the jobs in a file that this site is to go on with.

Part of layer 10. The file may be a stranger's: what is cheap to see is asked first, and a
signature is checked last. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Callable

from ..job_records import WATCH, JobRecords, JobStatus
from ..store import Store
from .rows import reading
from .site import Site

#: Most jobs of one file that a look takes up, the newest: a file may hold any number.
LOOK_JOBS = 1_000


def interrupted(site: Site, path: str, is_due: Callable[[str, int], bool]) -> list[int]:
    """Return the jobs of this site in a file that wait, or whose process is gone.

    Raises:
        SourceError: the file cannot be read, or its tables are somebody else's.
    """
    with reading(path) as conn:
        jobs = JobRecords(conn).list_signed(LOOK_JOBS)
        collections = Store(conn).list_collections() if jobs else []
    records = {record.id: record for record in collections}
    return [
        job.id
        for job in reversed(jobs)
        if job.action != WATCH
        and (job.status is JobStatus.PENDING or job.is_abandoned)
        and is_due(path, job.id)
        # By name and model too: SQLite reuses the id of a deleted collection.
        and (record := records.get(job.collection_id)) is not None
        and (record.name, record.model_id) == (job.collection, job.model_id)
        and site.is_ours(path, job, record)
    ]
