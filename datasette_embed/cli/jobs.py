"""``jobs``: what has been embedded, what stopped and why.

Layer 11: the words around ``job_records``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click

from ..chosen_rows import ChosenRows
from ..collection_setup import RETRY, make_retry
from ..database import sqlite3, write_transaction
from ..errors import SourceError
from ..failure_records import FailureRecords
from ..job_records import WATCH, JobRecord, JobRecords, JobStatus
from ..opened_sources import synced_source
from ..schema import ensure_schema
from ..store import Store
from ..watching import check_watched
from .arguments import as_json, database_and, reading, rows_from, writing, yes
from .output import agreed, command_text, print_json, print_line, print_table, say
from .run import run_collection

#: The end of a reason that is told in full where the job ran, and only there.
LOGGED = re.compile(r"\blog says (why|more)$")


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
        failures = FailureRecords(conn).list_failures(number)
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
        if any(LOGGED.search(message) for _, message, _ in failures):
            again = command_text("jobs retry", db, number)
            say(f"\nWhat a log says is not kept in this file. To see it here: {again}")


@jobs.command()
@database_and("job_id")
def pause(db: str, job_id: str) -> None:
    """Pause a job; it can be resumed."""
    number = _number(job_id)
    job = _steer(db, number, JobRecords.pause)
    if job.request:
        say(f"Job {number} of '{job.collection}' pauses after the batch in flight.")
    else:
        say(f"Paused job {number} of '{job.collection}'.")


@jobs.command()
@database_and("job_id")
def cancel(db: str, job_id: str) -> None:
    """End an unfinished job for good; what it has embedded is kept.

    A running job stores the batch in flight first. A second time, it ends at once.
    """
    number = _number(job_id)
    job = _steer(db, number, JobRecords.cancel)
    if job.request:
        say(f"Job {number} of '{job.collection}' ends after the batch in flight.")
    else:
        say(f"Cancelled job {number} of '{job.collection}'. What it has embedded is kept.")


@jobs.command()
@database_and("job_id")
@rows_from
@yes
def resume(db: str, job_id: str, source_db: str | None, yes: bool) -> None:
    """Go on with a job that was paused, failed or was interrupted, here and now.

    It asks before it reads rows of another file and before it costs money.
    """
    number = _number(job_id)
    job = _steer(db, number, _resumed)
    if job.action == WATCH:
        say(f"Job {number} of '{job.collection}' goes on: a Datasette server with {db} does it.")
    elif job.status is JobStatus.RUNNING:
        say(f"Job {number} of '{job.collection}' goes on: it had not paused yet.")
    else:
        _run(db, job, source_db, asks=not yes)


def _resumed(records: JobRecords, job_id: int) -> JobRecord:
    job = records.resume(job_id)
    if job.action == WATCH:
        check_watched(records.conn, Store(records.conn).get_collection(job.collection), job)
    return job


@jobs.command()
@database_and("job_id")
@rows_from
@yes
def retry(db: str, job_id: str, source_db: str | None, yes: bool) -> None:
    """Embed once more what the collection of a job could not embed, and nothing else."""
    number = _number(job_id)
    with writing(db) as conn, write_transaction(conn):
        seen = _get_job(conn, db, number)
        ensure_schema(conn, db)
        job = make_retry(conn, seen)
    _run(db, job, source_db, asks=not yes)


def _steer(db: str, job_id: int, change: Callable[[JobRecords, int], JobRecord]) -> JobRecord:
    """Do to a job what was asked, and return it as it is then.

    Raises:
        SourceError: there is no such job; it lists those there are.
        JobStateError: it is in no state for that.
    """
    with writing(db) as conn, write_transaction(conn):
        _get_job(conn, db, job_id)
        ensure_schema(conn, db)
        return change(JobRecords(conn), job_id)


def _run(db: str, job: JobRecord, source_db: str | None, *, asks: bool) -> None:
    """Run a job in the foreground.

    Raises:
        EmbedError: as ``run_collection``.
        click.exceptions.Exit: 1, when it was paused.
    """
    with reading(db) as conn:
        record = Store(conn).get_collection(job.collection)
        failing = FailureRecords(conn).failing_ids(record.id)
    with synced_source(db, record, source_db, agreed(record.name) if asks else None) as opened:
        source = ChosenRows(opened, failing) if job.action == RETRY else opened
        is_done = run_collection(
            db,
            record.name,
            source,
            remove=job.options.get("remove") is True,
            asks=asks,
            job_id=job.id,
        )
    if not is_done:
        raise click.exceptions.Exit(1)


def status_text(job: JobRecord) -> str:
    """Return what to call a job's state: one whose process is gone is ``interrupted``."""
    return "interrupted" if job.is_abandoned else job.status.value


def _say_interrupted(jobs: Sequence[JobRecord]) -> None:
    if any(job.is_abandoned for job in jobs):
        say("interrupted: its process is gone. Run the same command again, sync, or jobs resume.")


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
    for private in ("owner", "epoch", "collection_id", "signature"):
        described.pop(private)
    return {**described, **counts}
