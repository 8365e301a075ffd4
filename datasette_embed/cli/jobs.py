"""``jobs``: what has been embedded, what stopped and why.

Layer 10: the words around ``job_records``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from ..database import sqlite3, write_transaction
from ..errors import SourceError
from ..job_records import JobRecord, JobRecords, JobStatus
from .arguments import as_json, database_and, reading, writing
from .output import print_json, print_line, print_table, say


@click.group()
def jobs() -> None:
    """The embedding jobs of a file."""


@jobs.command("list")
@database_and()
@as_json
def list_(db: str, as_json: bool) -> None:
    """List the jobs of DB, the newest first."""
    with reading(db) as conn:
        found = JobRecords(conn).list_jobs()
    if as_json:
        print_json([_described(job) for job in found])
    elif not found:
        say(f"{db} has no jobs")
    else:
        print_table(
            ("id", "collection", "status", "rows", "embedded", "failed", "started at (UTC)"),
            [
                (
                    job.id,
                    job.collection,
                    status_text(job),
                    f"{job.counts.rows_done:,} of {job.rows_total:,}",
                    f"{job.counts.embedded:,}",
                    f"{job.counts.failed:,}",
                    job.started_at,
                )
                for job in found
            ],
        )
    _say_interrupted(found)


@jobs.command()
@database_and("job_id")
@as_json
def show(db: str, job_id: str, as_json: bool) -> None:
    """Show a job and every row that it could not embed, with the reason."""
    number = _number(job_id)
    with reading(db) as conn:
        job = _get_job(conn, db, number)
        failures = JobRecords(conn).list_failures(number)
    described = _described(job)
    if as_json:
        described["failures"] = [
            {"id": entry_id, "message": message, "attempts": attempts}
            for entry_id, message, attempts in failures
        ]
        print_json(described)
        return
    for key, value in described.items():
        if value is not None:
            print_line(f"{key}: {value}")
    _say_interrupted([job])
    if failures:
        click.echo()
        print_table(
            ("id", "attempts", "why it could not be embedded"),
            [(entry_id, attempts, message) for entry_id, message, attempts in failures],
        )


@jobs.command()
@database_and("job_id")
def cancel(db: str, job_id: str) -> None:
    """End an unfinished job for good; what it has embedded is kept."""
    number = _number(job_id)
    with writing(db) as conn:
        job = _get_job(conn, db, number)
        with write_transaction(conn):
            JobRecords(conn).cancel(number)
    say(f"Cancelled job {number} of '{job.collection}'. What it has embedded is kept.")
    if job.status is JobStatus.RUNNING and not job.is_abandoned:
        say("Its process stops at its next batch.")


def status_text(job: JobRecord) -> str:
    """Return what to call a job's state: one whose process is gone is ``interrupted``."""
    return "interrupted" if job.is_abandoned else job.status.value


def _say_interrupted(jobs: Sequence[JobRecord]) -> None:
    if any(job.is_abandoned for job in jobs):
        say("interrupted: its process is gone. Run the same command again, or sync, to go on.")


def _number(job_id: str) -> int:
    """Return the number of a job.

    Raises:
        click.BadParameter: it is no number, in click's words.
    """
    try:
        return click.INT(job_id)
    except click.BadParameter as error:
        error.param_hint = "'JOB_ID'"
        raise


def _get_job(conn: sqlite3.Connection, db: str, job_id: int) -> JobRecord:
    """Return a job.

    Raises:
        SourceError: listing those there are.
    """
    job = JobRecords(conn).find_job(job_id)
    if job is None:
        known = ", ".join(str(other.id) for other in JobRecords(conn).list_jobs()) or "none"
        raise SourceError(db, f"has no job {job_id}. Jobs: {known}")
    return job


def _described(job: JobRecord) -> dict[str, Any]:
    described = asdict(job)
    counts = described.pop("counts")
    described["status"] = status_text(job)
    # The owner names a machine and the epoch is the engine's own business.
    for private in ("owner", "epoch", "collection_id"):
        described.pop(private)
    return {**described, **counts}
