"""Descriptions: a collection and a job as JSON, for those who may see them.

Layer 11: imports ``errors``, ``job_records``, ``records``, ``sources``, ``store`` and
``watches``. What is said here is all that the API says about them; who may read it is
decided in ``lookup``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from datasette.utils import tilde_encode

from ..database import sqlite3
from ..errors import SourceError
from ..job_records import JobRecords
from ..job_rows import UNFINISHED, JobRecord, JobStatus, Request
from ..models import EmbeddingModel
from ..records import CollectionRecord
from ..sources import SourceSpec
from ..store import Store
from ..watches import Watches
from .http import without_paths
from .job_words import summary

if TYPE_CHECKING:
    from datasette.app import Datasette

#: Jobs of a collection that was embedded before.
_LATER = ("sync", "retry", "watch")


@dataclass(frozen=True)
class Facts:
    """What a collection's record does not say of it."""

    entries: int
    is_watched: bool
    unfinished: JobRecord | None
    newest: JobRecord | None

    @property
    def is_incomplete(self) -> bool:
        """Whether its first embedding has not come to its end."""
        job = self.unfinished or self.newest
        if job is None or job.status is JobStatus.FINISHED or job.action in _LATER:
            return False
        return self.entries < job.rows_total or not job.rows_total


def read_facts(conn: sqlite3.Connection, records: Sequence[CollectionRecord]) -> list[Facts]:
    """Return the facts of each collection."""
    store, jobs = Store(conn), JobRecords(conn)
    watches = Watches(conn)
    watched = {watch.collection_id: watch for watch in watches.list_watches()}
    return [
        Facts(
            store.count(record.id),
            # A watch that came with the file does nothing.
            record.id in watched and watches.is_signed(watched[record.id], record),
            jobs.find_unfinished(record.id),
            jobs.find_newest(record.id),
        )
        for record in records
    ]


# -- addresses ------------------------------------------------------------------------


def database_url(datasette: Datasette, database: str, path: str = "") -> str:
    """Return the path of a page of a database's, ``base_url`` included."""
    return f"{datasette.urls.database(database)}/-/embed{path}"


def collection_url(datasette: Datasette, database: str, name: str, path: str = "") -> str:
    """Return the path of a collection, without ``.json``."""
    return database_url(datasette, database, f"/c/{tilde_encode(name)}{path}")


def job_url(datasette: Datasette, database: str, job_id: int, path: str = "") -> str:
    """Return the path of a job, without ``.json``."""
    return database_url(datasette, database, f"/jobs/{job_id}{path}")


# -- collections ----------------------------------------------------------------------


def describe_collection(
    datasette: Datasette, database: str, record: CollectionRecord, facts: Facts
) -> dict[str, Any]:
    """Return what a list says of a collection."""
    url = collection_url(datasette, database, record.name)
    return {
        "name": record.name,
        "database": database,
        "model": record.model_id,
        "dimensions": record.dimensions,
        "metric": record.metric,
        "entries": facts.entries,
        "stores_content": record.store,
        "is_rebuilding": record.is_rebuilding,
        "is_incomplete": facts.is_incomplete,
        "is_watched": facts.is_watched,
        "created_at": record.created_at,
        "url": f"{url}.json",
        "similar_url": f"{url}/similar.json",
    }


def describe_source(record: CollectionRecord, *, shows_sql: bool) -> dict[str, Any] | None:
    """Return what a collection was made from; None where nobody wrote it down.

    Args:
        shows_sql: whether to show the query or condition, or only say that there is one.
    """
    if record.source is None:
        return None
    try:
        spec = SourceSpec.from_json(record.source)
    except SourceError as error:
        return {"problem": error.reason}
    return {
        "table": spec.table,
        "sql": spec.sql if shows_sql else None,
        "has_sql": spec.sql is not None,
        "columns": list(spec.columns),
        "template": spec.template,
        "image": spec.image,
        "where": spec.where if shows_sql else None,
        "has_where": spec.where is not None,
        "id_columns": list(spec.id_columns),
        "is_elsewhere": spec.is_elsewhere,
    }


# -- jobs -----------------------------------------------------------------------------


def describe_job(
    datasette: Datasette,
    database: str,
    job: JobRecord,
    model: EmbeddingModel | None = None,
    *,
    waits_for: str | None = None,
) -> dict[str, Any]:
    """Return what there is to say of a job.

    Args:
        model: its model, if it is registered: its price tells the cost.
        waits_for: why it does not go on, where somebody has looked.
    """
    rate, seconds_left = progress(job, datetime.now(UTC))
    price = model.price_per_million_tokens if model else None
    url = job_url(datasette, database, job.id)
    described = {
        "id": job.id,
        "database": database,
        "collection": job.collection,
        "model": job.model_id,
        "action": job.action,
        "options": job.options,
        "actor": job.actor,
        "status": job.status.value,
        "is_abandoned": job.is_abandoned,
        "request": job.request,
        "reason": job.reason and without_paths(datasette, job.reason),
        "waits_for": waits_for and without_paths(datasette, waits_for),
        "rows_total": job.rows_total,
        "counts": asdict(job.counts),
        "rows_per_second": rate,
        "seconds_left": seconds_left,
        "cost_usd": None if price is None else job.counts.tokens * price / 1e6,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "heartbeat_at": job.heartbeat_at,
        "finished_at": job.finished_at,
        "url": f"{url}.json",
        "collection_url": f"{collection_url(datasette, database, job.collection)}.json",
        "actions": {
            action: job_url(datasette, database, job.id, f"/{action}")
            for action in possible_actions(job)
        },
    }
    return {**described, "summary": summary(described)}


def possible_actions(job: JobRecord) -> list[str]:
    """Return what the state of a job allows to ask of it."""
    runs = job.status is JobStatus.RUNNING and not job.is_abandoned
    actions = []
    if runs or job.status is JobStatus.PENDING or job.is_abandoned:
        actions += [] if job.request else ["pause"]
    if not runs and job.status in UNFINISHED or runs and job.request is Request.PAUSE:
        actions.append("resume")
    if job.status in UNFINISHED:
        actions.append("cancel")
    if not runs and job.status is not JobStatus.PENDING and job.counts.failed:
        actions.append("retry")
    return actions


def progress(job: JobRecord, now: datetime) -> tuple[float | None, float | None]:
    """Return rows a second since a job was started, and seconds until it ends at that rate.

    Both are None where they cannot be told, the second for a job that is not running.
    """
    try:
        started = datetime.fromisoformat(job.started_at or "")
        ended = datetime.fromisoformat(job.finished_at or now.isoformat())
        seconds = (ended - started).total_seconds()
    except (ValueError, TypeError):
        return None, None  # not started, or not written by us
    done = job.counts.rows_done
    if seconds <= 0 or done <= 0:
        return None, None
    rate = done / seconds
    left = max(0, job.rows_total - done) / rate
    return round(rate, 2), round(left, 1) if job.status is JobStatus.RUNNING else None
