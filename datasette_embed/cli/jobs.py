"""``jobs``: what has been embedded, what stopped and why.

Layer 10: the words around ``job_records``.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import Any

import click

from ..database import open_database, translated
from ..errors import SourceError
from ..job_records import JobRecord, JobRecords
from .output import print_json, print_table, say

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON")


@click.group()
def jobs() -> None:
    """The embedding jobs of a file."""


@jobs.command("list")
@click.argument("db", type=click.Path())
@_json
def list_(db: str, as_json: bool) -> None:
    """List the jobs of DB, the newest first."""
    with closing(open_database(db)) as conn, translated(db):
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
                    job.status.value,
                    f"{job.counts.rows_done:,} of {job.rows_total:,}",
                    f"{job.counts.embedded:,}",
                    f"{job.counts.failed:,}",
                    job.started_at,
                )
                for job in found
            ],
        )


@jobs.command()
@click.argument("db", type=click.Path())
@click.argument("job_id", type=int)
@_json
def show(db: str, job_id: int, as_json: bool) -> None:
    """Show a job and every row that it could not embed, with the reason."""
    with closing(open_database(db)) as conn, translated(db):
        records = JobRecords(conn)
        job = records.find_job(job_id)
        if job is None:
            known = ", ".join(str(other.id) for other in records.list_jobs()) or "none"
            raise SourceError(db, f"has no job {job_id}. Jobs: {known}")
        failures = records.list_failures(job_id)
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
            click.echo(f"{key}: {value}")
    if failures:
        click.echo()
        print_table(
            ("id", "attempts", "why it could not be embedded"),
            [(entry_id, attempts, message) for entry_id, message, attempts in failures],
        )


def _described(job: JobRecord) -> dict[str, Any]:
    described = asdict(job)
    counts = described.pop("counts")
    described["status"] = job.status.value
    # The owner names a machine and the epoch is the engine's own business.
    for private in ("owner", "epoch", "collection_id"):
        described.pop(private)
    return {**described, **counts}
