"""Watching: collections that follow their table by themselves.

Layer 8: imports ``budgets``, ``database``, ``errors``, ``job_records``, ``records``, ``schema``,
``sources``, ``store``, ``watch_triggers`` and ``watches``. Here is decided what may be
watched, and what is due. Embedding what changed is ``draining``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import schema
from .budgets import is_free
from .database import sqlite3, translated, write_transaction
from .errors import JobStateError, PaidModelError, SourceError
from .job_records import PAUSED_BY_REQUEST, JobRecord, JobRecords, JobStatus
from .models import EmbeddingModel
from .records import CollectionRecord
from .sources import Source
from .store import Store
from .watch_triggers import create_triggers, has_triggers
from .watches import Changes, Watches, WatchRecord

#: What the jobs that bring watched collections up to date are called.
ACTION = "watch"
_READS_OTHER_TABLES = re.compile(r"\bselect\b", re.IGNORECASE)


@dataclass(frozen=True)
class DueWork:
    """What there is to do for one collection.

    Attributes:
        job: the job that does it; a collection keeps one for all its changes.
        changes: what was noted up to now.
    """

    collection: CollectionRecord
    job: JobRecord
    changes: Changes


def start_watching(
    conn: sqlite3.Connection,
    path: str,
    collection: CollectionRecord,
    source: Source,
    model: EmbeddingModel,
    *,
    allows_paid: bool = False,
) -> WatchRecord:
    """Have changes of a collection's table noted from now on, and every row compared once.

    Raises:
        SourceError: its rows cannot be watched, or the file cannot be written.
        PaidModelError: the model may cost money and ``allows_paid`` does not allow it.
    """
    if not is_free(model) and not allows_paid:
        raise PaidModelError(model.model_id, collection.name)
    refuse_elsewhere(collection)
    table = _watchable_table(conn, path, collection, source)
    schema.ensure_schema(conn, path)
    ids = source.id_columns
    watch = WatchRecord(
        collection.id,
        table,
        ids[0] if len(ids) == 1 else None,
        allows_paid,
        None,
        schema.now(),
    )
    with translated(path), write_transaction(conn):
        current = Store(conn).get_collection(collection.name)
        if not current.is_same(collection) or current.source != collection.source:
            raise SourceError(
                f"collection '{collection.name}'", "was made anew meanwhile: run this again"
            )
        _make_triggers(conn, watch, source)
        Watches(conn).write_watch(watch, current)
        Watches(conn).note_everything(current.id)
    return watch


def refuse_elsewhere(collection: CollectionRecord) -> None:
    """Refuse to watch a collection whose rows are in another file.

    Raises:
        SourceError: they are.
    """
    if (collection.source or {}).get("is_elsewhere"):
        raise SourceError(
            f"collection '{collection.name}'",
            "its rows are in another file, whose changes cannot be noted in this one: "
            "run sync with --from instead",
        )


def due(conn: sqlite3.Connection) -> list[CollectionRecord]:
    """Return the watched collections whose rows changed, or whose triggers are gone.

    Only those whose watch was set up on this machine: a look costs a few reads.
    """
    found = []
    for record, watch in _watched(conn):
        if not Watches(conn).is_signed(watch, record):
            continue
        if Watches(conn).has_changes(record.id) or not _has_triggers(conn, watch):
            found.append(record)
    return found


def unsigned(conn: sqlite3.Connection) -> list[CollectionRecord]:
    """Return the collections whose watch comes from elsewhere, and starts nothing here."""
    return [
        record for record, watch in _watched(conn) if not Watches(conn).is_signed(watch, record)
    ]


def take_up(
    conn: sqlite3.Connection, path: str, name: str, source: Source, model: EmbeddingModel
) -> DueWork | None:
    """Return what there is to do for a watched collection; None when there is nothing.

    Puts triggers back that are gone, and readies the collection's job.

    Raises:
        CollectionNotFoundError: it is gone.
        PaidModelError: the model may cost money, and the watch does not allow it.
        OutdatedCollectionError: the model changed, so that every row would be embedded anew.
        JobStateError: another job of the collection is waiting or running.
    """
    with translated(path), write_transaction(conn):
        record = Store(conn).get_collection(name)
        watch = Watches(conn).find_watch(record.id)
        if watch is None or not Watches(conn).is_signed(watch, record):
            return None
        if not is_free(model) and not watch.allows_paid:
            raise PaidModelError(model.model_id, name)
        record.check_current(model)
        if not _has_triggers(conn, watch):
            _make_triggers(conn, watch, source)
            Watches(conn).note_everything(record.id)
        changes = Watches(conn).read_changes(record.id)
        if not changes:
            return None
        return DueWork(record, _ready_job(conn, record), changes)


def _watched(conn: sqlite3.Connection) -> list[tuple[CollectionRecord, WatchRecord]]:
    watches = {watch.collection_id: watch for watch in Watches(conn).list_watches()}
    if not watches:
        return []
    return [
        (record, watches[record.id])
        for record in Store(conn).list_collections()
        if record.id in watches
    ]


def _watchable_table(
    conn: sqlite3.Connection, path: str, collection: CollectionRecord, source: Source
) -> str:
    """Return the table to watch.

    Raises:
        SourceError: triggers would not see all that changes the rows.
    """
    subject = f"collection '{collection.name}'"
    spec = source.spec
    if not spec.table:
        raise SourceError(
            subject, "is made from a query, whose changes cannot be noted: run sync instead"
        )
    with translated(path):
        name, kind, sql = conn.execute(
            "select name, type, sql from sqlite_master where type in ('table', 'view')"
            " and lower(name) = lower(?)",
            (spec.table,),
        ).fetchone()
    if kind == "view":
        raise SourceError(
            subject,
            f"is made from a view, '{name}', whose changes cannot be noted: run sync instead",
        )
    if str(sql).lower().lstrip().startswith("create virtual"):
        raise SourceError(
            subject,
            f"is made from a virtual table, '{name}', whose changes cannot be noted: "
            "run sync instead",
        )
    if spec.where and _READS_OTHER_TABLES.search(spec.where):
        raise SourceError(
            subject,
            "its condition looks into other rows, whose changes would be missed: run sync instead",
        )
    return str(name)


def _make_triggers(conn: sqlite3.Connection, watch: WatchRecord, source: Source) -> None:
    # What a condition looks at is not known, so with one any column counts.
    columns = None if source.spec.where else [*source.id_columns, *source.columns]
    create_triggers(conn, watch.collection_id, watch.table, watch.key_column, columns)


def _has_triggers(conn: sqlite3.Connection, watch: WatchRecord) -> bool:
    return has_triggers(conn, watch.collection_id, watch.table)


def _ready_job(conn: sqlite3.Connection, record: CollectionRecord) -> JobRecord:
    """Return the collection's job of this kind, ready to be run.

    One for all changes to come, or a busy table would fill the list of jobs.

    Raises:
        JobStateError: another job of the collection is waiting or running: the two could
            write an older text over a newer one.
    """
    records = JobRecords(conn)
    jobs = records.list_jobs(record.id)
    mine = next((job for job in jobs if job.action == ACTION), None)
    if mine and mine.status is JobStatus.PAUSED and mine.reason == PAUSED_BY_REQUEST:
        raise JobStateError(
            mine.id, mine.status.value, f"the changes of '{record.name}' wait until it is resumed"
        )
    for job in jobs:
        is_busy = job.status in (JobStatus.PENDING, JobStatus.RUNNING)
        if job.id == (mine and mine.id):
            is_busy = job.status is JobStatus.RUNNING and not job.is_abandoned
        if is_busy:
            raise JobStateError(
                job.id,
                job.status.value,
                f"the changes of '{record.name}' wait until it has ended",
            )
    if mine is None:
        return records.create(record.id, record.name, record.model_id, action=ACTION)
    if mine.status is not JobStatus.RUNNING:
        conn.execute(
            "update _embed_jobs set status = ?, collection = ?, request = null where id = ?",
            (JobStatus.PENDING.value, record.name, mine.id),
        )
    return records.get_job(mine.id)
