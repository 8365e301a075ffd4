"""Jobs as rows of the database: their states, and who owns one.

Layer 6: imports ``errors``, ``database`` and ``schema``. A job belongs to one process at a
time. Whoever claims it raises its epoch, and every batch transaction checks both, so a
process that slept through its lease cannot write beside the new owner. Nothing here
embeds; that is ``jobs``.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from . import schema
from .database import sqlite3
from .errors import JobStateError

#: A running job whose owner has not been heard of for so long may be taken over.
LEASE_SECONDS = 120
# Tells this process from an earlier one of the same number: a container that is started
# again often gives its process the number the dead one had.
_PROCESS_TOKEN = secrets.token_hex(4)


class JobStatus(StrEnum):
    """The states of a job; every path ends in one of the last four."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"
    FINISHED = "finished"


#: A job in one of these still has work to do.
UNFINISHED = (JobStatus.PENDING, JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.FAILED)


@dataclass
class JobCounts:
    """What one run of a job has done so far, in rows unless said otherwise.

    Attributes:
        rows_done: rows dealt with, whatever became of them.
        embedded: distinct contents embedded; each was one item of a model call.
        reused: rows given the stored vector of the same content, without a model call.
        unchanged: rows that were up to date.
        refreshed: up-to-date rows whose content was stored in addition.
        blank: rows without text.
        failed: rows that could not be embedded, each recorded with its reason.
        removed: entries deleted because their row is gone.
        tokens: tokens the model read, where it says so.
    """

    rows_done: int = 0
    embedded: int = 0
    reused: int = 0
    unchanged: int = 0
    refreshed: int = 0
    blank: int = 0
    failed: int = 0
    removed: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Failure:
    """A row that could not be embedded. ``content_hash`` is None where there is no text."""

    entry_id: str
    message: str
    content_hash: bytes | None = None


@dataclass(frozen=True)
class JobRecord:
    """One row of ``_embed_jobs``. Times are UTC, ISO 8601."""

    id: int
    collection_id: int
    collection: str
    model_id: str
    status: JobStatus
    reason: str | None
    owner: str | None
    epoch: int
    heartbeat_at: str | None
    rows_total: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    counts: JobCounts

    @property
    def is_abandoned(self) -> bool:
        """Whether it says it is running but its process is gone."""
        return self.status is JobStatus.RUNNING and not _is_alive(self)


@dataclass(frozen=True)
class Claim:
    """The right to write for a job, as long as its epoch stands.

    ``before`` is what earlier runs of the same job did.
    """

    job_id: int
    owner: str
    epoch: int
    before: JobCounts = field(default_factory=JobCounts)


_COUNTS = [column.name for column in fields(JobCounts)]
#: Counts of work done once, which a job that goes on adds to what it did before; the
#: others are counted anew, since every run looks at every row.
_LASTING = {"embedded", "reused", "refreshed", "removed", "tokens"}
_COLUMNS = [column.name for column in fields(JobRecord) if column.name != "counts"]
_SELECT = f"select {', '.join([*_COLUMNS, *_COUNTS])} from _embed_jobs"


def owner_name() -> str:
    """Return a name for this process: host, process id and a random token."""
    return f"{socket.gethostname()}:{os.getpid()}:{_PROCESS_TOKEN}"


class JobRecords:
    """The jobs of one file. Writing methods run inside the caller's transaction."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

    def list_jobs(self) -> list[JobRecord]:
        """Return all jobs, the newest first."""
        if not schema.has_our_tables(self.conn):
            return []
        return [_record(row) for row in self.conn.execute(f"{_SELECT} order by id desc")]

    def find_job(self, job_id: int) -> JobRecord | None:
        """Return one job, or None."""
        if not schema.has_our_tables(self.conn):
            return None
        row = self.conn.execute(f"{_SELECT} where id = ?", (job_id,)).fetchone()
        return _record(row) if row else None

    def find_unfinished(self, collection_id: int) -> JobRecord | None:
        """Return the newest job of a collection that still has work to do, or None."""
        if not schema.has_our_tables(self.conn):
            return None
        row = self.conn.execute(
            # By name and model too: SQLite reuses the id of a deleted collection.
            f"{_SELECT} where collection_id = ? and status in (?, ?, ?, ?) and exists (select 1"
            " from collections as c where c.id = collection_id and c.name = collection"
            " and c.model = model_id) order by id desc limit 1",
            (collection_id, *(status.value for status in UNFINISHED)),
        ).fetchone()
        return _record(row) if row else None

    def create(self, collection_id: int, collection: str, model_id: str) -> JobRecord:
        """Write a new pending job."""
        job_id = self.conn.execute(
            "insert into _embed_jobs (collection_id, collection, model_id, status, created_at)"
            " values (?, ?, ?, ?, ?)",
            (collection_id, collection, model_id, JobStatus.PENDING.value, schema.now()),
        ).lastrowid
        job = self.find_job(int(job_id or 0))
        assert job is not None
        return job

    def claim(self, job: JobRecord, rows_total: int) -> Claim:
        """Make this process the owner of a job and set it running.

        Raises:
            JobStateError: another process that is alive runs it, or it was deleted.
        """
        # Read again: another process may have claimed it since the caller looked.
        current = self.find_job(job.id)
        if current is None:
            raise JobStateError(job.id, "deleted", "run the command again")
        job = current
        if job.status is JobStatus.RUNNING and _is_alive(job):
            raise JobStateError(
                job.id,
                job.status.value,
                f"another process ({job.owner}) is embedding '{job.collection}'. "
                "Wait for it to end, or stop it",
                allowed=[s.value for s in UNFINISHED if s is not JobStatus.RUNNING],
            )
        claim = Claim(job.id, owner_name(), job.epoch + 1, job.counts)
        self.conn.execute(
            "update _embed_jobs set status = ?, reason = null, owner = ?, epoch = ?,"
            " heartbeat_at = ?, rows_total = ?, started_at = ?, finished_at = null where id = ?",
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

    def checkpoint(self, claim: Claim, counts: JobCounts) -> None:
        """Record how far a job has come, if it is still ours.

        Raises:
            JobStateError: it was cancelled, deleted or taken over; nothing may be written.
        """
        changed = self.conn.execute(
            f"update _embed_jobs set heartbeat_at = ?, {', '.join(f'{n} = ?' for n in _COUNTS)}"
            " where id = ? and owner = ? and epoch = ? and status = ?",
            (
                schema.now(),
                *(
                    getattr(counts, name) + getattr(claim.before, name) * (name in _LASTING)
                    for name in _COUNTS
                ),
                claim.job_id,
                claim.owner,
                claim.epoch,
                JobStatus.RUNNING.value,
            ),
        ).rowcount
        if not changed:
            job = self.find_job(claim.job_id)
            status = job.status.value if job else "deleted"
            raise JobStateError(
                claim.job_id, status, "another process has taken it over, cancelled or deleted it"
            )

    def end(
        self, claim: Claim, status: JobStatus, counts: JobCounts, reason: str | None = None
    ) -> None:
        """Record the end of a run, and forget whose machine it was.

        Raises:
            JobStateError: the job is no longer ours.
        """
        self.checkpoint(claim, counts)
        self.conn.execute(
            "update _embed_jobs set status = ?, reason = ?, owner = null, finished_at = ?"
            " where id = ?",
            (status.value, reason, schema.now(), claim.job_id),
        )

    def cancel(self, job_id: int) -> JobRecord:
        """End a job for good; what it has done is kept. Its process stops at its next batch.

        Raises:
            JobStateError: there is no such job, or it has ended.
        """
        job = self.find_job(job_id)
        if job is None or job.status not in UNFINISHED:
            status = job.status.value if job else "unknown"
            raise JobStateError(job_id, status, "there is nothing to cancel", UNFINISHED)
        self.conn.execute(
            "update _embed_jobs set status = ?, owner = null, finished_at = ? where id = ?",
            (JobStatus.CANCELLED.value, schema.now(), job_id),
        )
        return replace(job, status=JobStatus.CANCELLED)

    def record_failures(self, job_id: int, failures: Sequence[Failure]) -> None:
        """Record failures, counting the attempts of all jobs of the collection."""
        self.conn.executemany(
            "insert or replace into _embed_failures"
            " (job_id, entry_id, content_hash, message, attempts) select ?, ?, ?, ?,"
            " 1 + coalesce(max(f.attempts), 0) from _embed_failures as f where f.entry_id = ?"
            " and f.job_id in (select other.id from _embed_jobs as other join _embed_jobs as this"
            " on this.collection_id = other.collection_id where this.id = ?)",
            [
                (job_id, entry_id, failure.content_hash, message, entry_id, job_id)
                for failure in failures
                for entry_id, message in [map(_storable, (failure.entry_id, failure.message))]
            ],
        )

    def known_failures(self, collection_id: int) -> set[tuple[str, bytes]]:
        """Return (entry id, content hash) of what could not be embedded before."""
        rows = self.conn.execute(
            "select f.entry_id, f.content_hash from _embed_failures as f join _embed_jobs as j"
            " on j.id = f.job_id where j.collection_id = ? and f.content_hash is not null",
            (collection_id,),
        )
        return set(rows.fetchall())

    def forget_healed(self, job: JobRecord) -> None:
        """Drop the failures of the job's collection whose content has a vector by now."""
        self.conn.execute(
            "delete from _embed_failures where job_id in"
            " (select id from _embed_jobs where collection_id = ?) and exists (select 1"
            " from embeddings as e where e.collection_id = ? and e.id = entry_id"
            " and e.content_hash = _embed_failures.content_hash)",
            (job.collection_id, job.collection_id),
        )

    def forget_failures(self, job: JobRecord, still_failing: Iterable[str]) -> None:
        """Drop every recorded failure of the job's collection that this job did not meet."""
        self.conn.execute(
            "delete from _embed_failures where job_id != ? and job_id in"
            " (select id from _embed_jobs where collection_id = ?)",
            (job.id, job.collection_id),
        )
        self.conn.execute(
            "delete from _embed_failures where job_id = ?"
            " and entry_id not in (select value from json_each(?))",
            (job.id, json.dumps(sorted(still_failing))),
        )

    def list_failures(self, job_id: int) -> list[tuple[str, str, int]]:
        """Return (entry id, message, attempts) of a job's failures, by id."""
        rows = self.conn.execute(
            "select entry_id, message, attempts from _embed_failures where job_id = ?"
            " order by entry_id",
            (job_id,),
        )
        return [(entry_id, message, attempts) for entry_id, message, attempts in rows]


def _record(row: tuple[Any, ...]) -> JobRecord:
    values = dict(zip(_COLUMNS, row, strict=False))
    try:
        values["status"] = JobStatus(values["status"])
    except ValueError:
        raise JobStateError(
            values["id"], str(values["status"]), "this version knows no such state", JobStatus
        ) from None
    return JobRecord(**values, counts=JobCounts(*row[len(_COLUMNS) :]))


def _is_alive(job: JobRecord) -> bool:
    """Say whether the process that owns a running job may still be at work."""
    if not job.owner or not job.heartbeat_at:
        return False
    try:
        host, process_id, token = job.owner.rsplit(":", 2)
        silent = datetime.now(UTC) - datetime.fromisoformat(job.heartbeat_at)
        if host == socket.gethostname() and not _process_exists(int(process_id), token):
            return False
    except (ValueError, TypeError, OverflowError):
        return False  # not written by us
    # A heartbeat from the future was written by a clock that is wrong.
    return abs(silent.total_seconds()) < LEASE_SECONDS


def _process_exists(process_id: int, token: str) -> bool:
    if process_id == os.getpid():
        return token == _PROCESS_TOKEN
    if os.name == "nt":
        # There os.kill(pid, 0) would end the process: leave it to the lease.
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _storable(text: str) -> str:
    """Return a text that SQLite takes; a file's name may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
