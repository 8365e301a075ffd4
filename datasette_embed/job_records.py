"""Jobs as rows of the database: their states, and who owns one.

Layer 6: imports ``database``, ``errors``, ``job_rows`` and ``schema``. A job belongs to one
process at a time. Whoever claims it raises its epoch, and every batch transaction checks
both, so a process that slept through its lease cannot write beside the new owner. What a
running job is asked to do stands in its row until its process has stored the batch in
flight. Nothing here embeds; that is ``jobs``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from . import schema
from .database import sqlite3
from .errors import JobNotFoundError, JobStateError
from .job_rows import (
    COUNTS,
    LASTING,
    LEASE_SECONDS,
    UNFINISHED,
    Claim,
    Failure,
    JobCounts,
    JobRecord,
    JobStatus,
    Request,
    is_alive,
    owner_name,
    read_job,
    select_jobs,
)

__all__ = [
    "LEASE_SECONDS",
    "UNFINISHED",
    "Claim",
    "Failure",
    "JobCounts",
    "JobRecord",
    "JobRecords",
    "JobStatus",
    "Request",
    "owner_name",
]

#: Reasons of states that a person asked for.
PAUSED_BY_REQUEST = "paused on request"
CANCELLED_BY_REQUEST = "cancelled on request"
#: The action of the job that keeps a watched collection up to date. Nobody else runs it.
WATCH = "watch"
# By name and model too: SQLite reuses the id of a deleted collection.
_OF_THIS_COLLECTION = (
    "exists (select 1 from collections as c where c.id = collection_id and c.name = collection"
    " and c.model = model_id)"
)


class JobRecords:
    """The jobs of one file. Writing methods run inside the caller's transaction."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

    # -- reading -------------------------------------------------------------------

    def list_jobs(self, collection_id: int | None = None) -> list[JobRecord]:
        """Return all jobs, or those of one collection, the newest first."""
        if collection_id is None:
            return self._select("order by id desc")
        return self._select("where collection_id = ? order by id desc", collection_id)

    def find_job(self, job_id: int) -> JobRecord | None:
        """Return one job, or None."""
        found = self._select("where id = ?", job_id)
        return found[0] if found else None

    def get_job(self, job_id: int) -> JobRecord:
        """Return one job.

        Raises:
            JobNotFoundError: there is none of this number.
        """
        job = self.find_job(job_id)
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    def find_unfinished(self, collection_id: int) -> JobRecord | None:
        """Return the newest job of a collection that still has work to do, or None."""
        found = self.list_unfinished(collection_id)
        return found[0] if found else None

    def find_newest(self, collection_id: int) -> JobRecord | None:
        """Return the last job that a person began for a collection, whatever its state."""
        # A state of a later version's is none that we can speak of.
        found = self._select(
            f"where collection_id = ? and action != ? and {_OF_THIS_COLLECTION} and status in"
            f" ({', '.join('?' * len(JobStatus))}) order by id desc limit 1",
            collection_id,
            WATCH,
            *JobStatus,
        )
        return found[0] if found else None

    def find_resumable(self, collection_id: int) -> JobRecord | None:
        """Return the newest job that a ``create`` or ``sync`` of a person goes on with, or None."""
        jobs = self.list_unfinished(collection_id)
        return next((job for job in jobs if job.action != WATCH), None)

    def list_unfinished(self, collection_id: int | None = None) -> list[JobRecord]:
        """Return the jobs, or those of one collection, that have work to do, newest first."""
        return self._select(
            "where (? is null or collection_id = ?) and status in (?, ?, ?, ?) "
            f"and {_OF_THIS_COLLECTION} order by id desc",
            collection_id,
            collection_id,
            *(status.value for status in UNFINISHED),
        )

    def list_signed(self, limit: int) -> list[JobRecord]:
        """Return the newest jobs that wait or run and say that they were asked for on a server.

        Args:
            limit: most of them: a stranger's file may hold any number.
        """
        return self._select(
            "where status in (?, ?) and typeof(signature) = 'text' order by id desc limit ?",
            JobStatus.PENDING.value,
            JobStatus.RUNNING.value,
            limit,
        )

    def _select(self, condition: str, *parameters: Any) -> list[JobRecord]:
        if not schema.has_table(self.conn, "_embed_jobs"):
            return []
        sql = f"{select_jobs(self.conn)} {condition}"
        return [read_job(row) for row in self.conn.execute(sql, parameters)]

    # -- the life of a job ---------------------------------------------------------

    def create(
        self,
        collection_id: int,
        collection: str,
        model_id: str,
        *,
        action: str | None = None,
        options: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> JobRecord:
        """Write a new pending job."""
        job_id = self.conn.execute(
            "insert into _embed_jobs (collection_id, collection, model_id, status, created_at,"
            " action, options, actor) values (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                collection_id,
                collection,
                model_id,
                JobStatus.PENDING.value,
                schema.now(),
                action,
                json.dumps(options) if options else None,
                actor,
            ),
        ).lastrowid
        return self.get_job(int(job_id or 0))

    def set_signature(self, job: JobRecord, signature: str) -> JobRecord:
        """Record that a job was asked for on a server of ours."""
        self.conn.execute("update _embed_jobs set signature = ? where id = ?", (signature, job.id))
        return self.get_job(job.id)

    def claim(
        self, job: JobRecord, rows_total: int, states: Iterable[JobStatus] = UNFINISHED
    ) -> Claim:
        """Make this process the owner of a job and set it running.

        Args:
            states: those in which it is taken; one that is running, only if it is abandoned.

        Raises:
            JobStateError: another process that is alive runs it, or it was deleted, or it is
                in another state by now.
        """
        # Read again: another process may have claimed it since the caller looked.
        current = self.find_job(job.id)
        if current is None:
            raise JobStateError(job.id, "deleted", "run the command again")
        job = current
        allowed = [status.value for status in states if status is not JobStatus.RUNNING]
        if job.status is JobStatus.RUNNING and is_alive(job):
            raise JobStateError(
                job.id,
                job.status.value,
                f"another process ({job.owner}) is embedding '{job.collection}'. "
                "Wait for it to end, or stop it",
                allowed=allowed,
            )
        if job.status not in tuple(states):
            raise JobStateError(job.id, job.status.value, "it is not to be run", allowed)
        self._refuse_another(job)
        claim = Claim(job.id, owner_name(), job.epoch + 1, job.counts)
        self.conn.execute(
            "update _embed_jobs set status = ?, reason = null, request = null, owner = ?,"
            " epoch = ?, heartbeat_at = ?, rows_total = ?, started_at = ?, finished_at = null"
            " where id = ?",
            (
                JobStatus.RUNNING.value,
                claim.owner,
                claim.epoch,
                schema.now(),
                rows_total,
                schema.now(),
                job.id,
            ),
        )
        return claim

    def _refuse_another(self, job: JobRecord) -> None:
        """Let one job of a collection run at a time.

        Raises:
            JobStateError: another one runs.
        """
        running = (job.collection_id, JobStatus.RUNNING.value, job.id)
        for other in self._select("where collection_id = ? and status = ? and id != ?", *running):
            if is_alive(other):
                reason = f"it is embedding '{other.collection}'. Wait for it to end, or cancel it"
                raise JobStateError(other.id, other.status.value, reason)

    def beat(self, claim: Claim) -> bool:
        """Say that a job is alive; return whether it is still ours."""
        return bool(
            self.conn.execute(
                "update _embed_jobs set heartbeat_at = ?"
                " where id = ? and owner = ? and epoch = ? and status = ?",
                (
                    schema.now(),
                    claim.job_id,
                    claim.owner,
                    claim.epoch,
                    JobStatus.RUNNING.value,
                ),
            ).rowcount
        )

    def checkpoint(self, claim: Claim, counts: JobCounts) -> Request | None:
        """Record how far a job has come, if it is still ours; return what it is asked to do.

        Raises:
            JobStateError: it was cancelled, deleted or taken over; nothing may be written.
        """
        if not self.beat(claim):
            job = self.find_job(claim.job_id)
            if job is None:
                raise JobStateError(claim.job_id, "deleted", "its collection was deleted")
            reason = "another process has taken it over or ended it"
            raise JobStateError(claim.job_id, job.status.value, reason)
        self.conn.execute(
            f"update _embed_jobs set {', '.join(f'{n} = ?' for n in COUNTS)} where id = ?",
            (
                *(
                    getattr(counts, name) + getattr(claim.before, name) * (name in LASTING)
                    for name in COUNTS
                ),
                claim.job_id,
            ),
        )
        return self.get_job(claim.job_id).request

    def end(
        self, claim: Claim, status: JobStatus, counts: JobCounts, reason: str | None = None
    ) -> None:
        """Record the end of a run, and forget whose machine it was.

        Raises:
            JobStateError: the job is no longer ours.
        """
        self.checkpoint(claim, counts)
        self._set(claim.job_id, status, reason)

    def _set(self, job_id: int, status: JobStatus, reason: str | None) -> JobRecord:
        ended = None if status is JobStatus.PENDING else schema.now()
        self.conn.execute(
            "update _embed_jobs set status = ?, reason = ?, request = null, owner = null,"
            " finished_at = ? where id = ?",
            (status.value, reason, ended, job_id),
        )
        return self.get_job(job_id)

    # -- what a person asks for ----------------------------------------------------

    def pause(self, job_id: int) -> JobRecord:
        """Pause a job: at once, or when its process has stored the batch in flight.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it neither runs nor waits to run.
        """
        job = self.get_job(job_id)
        if job.status not in (JobStatus.PENDING, JobStatus.RUNNING):
            allowed = (JobStatus.PENDING, JobStatus.RUNNING)
            raise JobStateError(job_id, job.status.value, "there is nothing to pause", allowed)
        if job.request is Request.CANCEL and not job.is_abandoned:
            raise JobStateError(job_id, job.status.value, "it is being cancelled")
        if job.status is JobStatus.RUNNING and not job.is_abandoned:
            return self._request(job, Request.PAUSE)
        return self._set(job_id, JobStatus.PAUSED, PAUSED_BY_REQUEST)

    def resume(self, job_id: int) -> JobRecord:
        """Let a job go on: set it pending, or withdraw the request to pause.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it runs, or has ended for good.
        """
        job = self.get_job(job_id)
        if job.status is JobStatus.RUNNING and not job.is_abandoned:
            if job.request is Request.PAUSE:
                return self._request(job, None)
            raise JobStateError(job_id, job.status.value, "it need not be resumed", UNFINISHED)
        if job.status not in UNFINISHED:
            raise JobStateError(job_id, job.status.value, "there is nothing to resume", UNFINISHED)
        return self._set(job_id, JobStatus.PENDING, None)

    def cancel(self, job_id: int, reason: str = CANCELLED_BY_REQUEST) -> JobRecord:
        """End a job for good; what it has done is kept.

        At once, or when its process has stored the batch in flight. A second time it ends
        at once whatever its process does, which then may not write any more.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has ended.
        """
        job = self.get_job(job_id)
        if job.status not in UNFINISHED:
            raise JobStateError(job_id, job.status.value, "there is nothing to cancel", UNFINISHED)
        is_at_work = job.status is JobStatus.RUNNING and not job.is_abandoned
        if is_at_work and job.request is not Request.CANCEL:
            return self._request(job, Request.CANCEL)
        if is_at_work:
            reason += ", without waiting for the model call in flight"
        return self._set(job_id, JobStatus.CANCELLED, reason)

    def fail(self, job: JobRecord, reason: str) -> JobRecord:
        """End a job that could not even begin.

        Raises:
            JobNotFoundError: there is no such job any more.
            JobStateError: it is not in the state in which the caller saw it.
        """
        current = self.get_job(job.id)
        if (current.status, current.epoch) != (job.status, job.epoch):
            raise JobStateError(job.id, current.status.value, "somebody else has taken it")
        return self._set(job.id, JobStatus.FAILED, reason)

    def note(self, job: JobRecord, reason: str) -> None:
        """Record why a job waits."""
        self.conn.execute(
            "update _embed_jobs set reason = ? where id = ? and epoch = ? and status = ?",
            (reason, job.id, job.epoch, job.status.value),
        )

    def _request(self, job: JobRecord, request: Request | None) -> JobRecord:
        self.conn.execute("update _embed_jobs set request = ? where id = ?", (request, job.id))
        return self.get_job(job.id)
