"""Job rows: what a row of ``_embed_jobs`` says, and whether its owner may be at work.

Layer 3: imports ``database``, ``errors`` and ``schema``. Values and how they are read; what
changes a row is ``job_records``. A file may be of an earlier version, or a stranger's: a
column it lacks reads as empty, and options that are no JSON object as none.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from . import schema
from .database import sqlite3
from .errors import ConfigError, JobStateError

#: A running job whose owner has not been heard of for so long may be taken over.
LEASE_SECONDS = 120.0
#: The environment variable that sets another lease, for all processes that share a file.
LEASE_VARIABLE = "DATASETTE_EMBED_LEASE_SECONDS"
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


class Request(StrEnum):
    """What a running job can be asked to do, by whoever may write to the file."""

    PAUSE = "pause"
    CANCEL = "cancel"


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

    def describe_failures(self) -> str | None:
        """Return why a run that came to its end has stored nothing, if that is so."""
        if not self.failed or self.failed != self.rows_done - self.blank:
            return None
        rows = "the only row" if self.failed == 1 else f"all {self.failed:,} rows"
        return f"{rows} failed: see the failures of the job"


@dataclass(frozen=True)
class Failure:
    """A row that could not be embedded. ``content_hash`` is None where there is no text."""

    entry_id: str
    message: str
    content_hash: bytes | None = None


@dataclass(frozen=True)
class JobRecord:
    """One row of ``_embed_jobs``. Times are UTC, ISO 8601.

    Attributes:
        action: what was asked for: create, sync, retry, watch; None in an earlier file.
        options: what belongs to the action, a JSON object.
        request: what the process that runs it is asked to do after the batch in flight.
        actor: id of the actor who asked for it on a server.
        signature: tells a job that a server of ours was asked for; see ``signing``.
    """

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
    action: str | None
    options: Mapping[str, Any]
    request: Request | None
    actor: str | None
    signature: str | None
    counts: JobCounts

    @property
    def is_abandoned(self) -> bool:
        """Whether it says it is running but its process is gone."""
        return self.status is JobStatus.RUNNING and not is_alive(self)


@dataclass(frozen=True)
class Claim:
    """The right to write for a job, as long as its epoch stands.

    ``before`` is what earlier runs of the same job did.
    """

    job_id: int
    owner: str
    epoch: int
    before: JobCounts = field(default_factory=JobCounts)


COUNTS = [column.name for column in fields(JobCounts)]
#: Counts of work done once, which a job that goes on adds to what it did before; the
#: others are counted anew, since every run looks at every row.
LASTING = {"embedded", "reused", "refreshed", "removed", "tokens"}
_COLUMNS = [column.name for column in fields(JobRecord) if column.name != "counts"]


def owner_name() -> str:
    """Return a name for this process: host, process id and a random token."""
    return f"{socket.gethostname()}:{os.getpid()}:{_PROCESS_TOKEN}"


def lease_seconds() -> float:
    """Return how long a process may be silent before its job may be taken over, in seconds.

    Raises:
        ConfigError: the environment variable is no number of seconds.
    """
    configured = os.environ.get(LEASE_VARIABLE)
    if not configured:
        return LEASE_SECONDS
    try:
        seconds = float(configured)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds <= 0:
        raise ConfigError(LEASE_VARIABLE, f"must be a number of seconds, not {configured!r}")
    return seconds


def select_jobs(conn: sqlite3.Connection) -> str:
    """Return the SELECT whose rows ``read_job`` reads, without a condition."""
    missing = schema.missing_job_columns(conn)
    columns = [f"null as {name}" if name in missing else name for name in [*_COLUMNS, *COUNTS]]
    return f"select {', '.join(columns)} from _embed_jobs"


def read_job(row: tuple[Any, ...]) -> JobRecord:
    """Return a row of ``select_jobs`` as a record.

    Raises:
        JobStateError: it is in a state of a later version.
    """
    values = {name: _coerced(name, value) for name, value in zip(_COLUMNS, row, strict=False)}
    try:
        values["status"] = JobStatus(values["status"])
    except ValueError:
        raise JobStateError(
            values["id"], str(values["status"]), "this version knows no such state", JobStatus
        ) from None
    known = values["request"] in tuple(Request)
    values["request"] = Request(values["request"]) if known else None
    values["options"] = _read_options(values["options"])
    counts = [value if isinstance(value, int) else 0 for value in row[len(_COLUMNS) :]]
    return JobRecord(**values, counts=JobCounts(*counts))


#: Of the columns of a record, those that are numbers, and those that are never None.
_NUMBERS = frozenset(("id", "collection_id", "epoch", "rows_total"))
_TEXTS = frozenset(("collection", "model_id", "status", "created_at"))


def _coerced(name: str, value: Any) -> Any:
    """Return what a column holds if it is of its kind, else the nearest to nothing."""
    if name in _NUMBERS:
        return value if isinstance(value, int) else 0
    if isinstance(value, str):
        return value
    if name in _TEXTS:
        return "" if value is None else str(value)
    return None


def _read_options(stored: Any) -> dict[str, Any]:
    with suppress(ValueError, TypeError, RecursionError):
        options = json.loads(stored)
        if isinstance(options, dict):
            return options
    return {}


def is_alive(job: JobRecord) -> bool:
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
    return abs(silent.total_seconds()) < lease_seconds()


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
