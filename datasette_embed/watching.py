"""Watching: collections that follow their table by themselves.

Layer 8: imports ``budgets``, ``database``, ``errors``, ``job_records``, ``records``, ``schema``,
``sources``, ``store``, ``watch_triggers`` and ``watches``. Here is decided what may be
watched, and what is due. Embedding what changed is ``draining``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import schema
from .budgets import is_free
from .database import sqlite3, translated, write_transaction
from .errors import JobStateError, PaidModelError, SourceError
from .image_values import not_followed
from .job_records import (
    CANCELLED_BY_REQUEST,
    PAUSED_BY_REQUEST,
    WATCH,
    JobRecord,
    JobRecords,
    JobStatus,
)
from .models import EmbeddingModel
from .records import CollectionRecord
from .sources import Source, SourceSpec
from .store import Store
from .watch_triggers import (
    create_triggers,
    drop_failing_triggers,
    has_triggers,
    has_wanted_triggers,
    has_watch_tables,
    list_triggers,
)
from .watches import Changes, Watches, WatchRecord

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


@dataclass
class Survey:
    """What there is to do for the watches of a file, by the names of collections.

    Attributes:
        due: those whose rows changed, or whose triggers are not what they should be.
        held: those whose changes wait for a person.
        strangers: those whose watch comes from elsewhere, and starts nothing here.
        is_broken: whether triggers make writes fail, for the tables they write are gone.
    """

    due: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    is_broken: bool = False


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
        _release_job(conn, current, watch)
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


def survey(conn: sqlite3.Connection, path: str, *, compares_triggers: bool = True) -> Survey:
    """Return what there is to do for the watches of a file; a look costs a few reads.

    Args:
        path: named in errors.
        compares_triggers: look whether the triggers are those that the tables need: they are
            others only after the schema has changed.
    """
    found = Survey()
    if not has_watch_tables(conn):
        found.is_broken = compares_triggers and bool(list_triggers(conn))
        return found
    watches = Watches(conn)
    for record, watch in watches.list_watched():
        if not watches.is_signed(watch, record):
            found.strangers.append(record.name)
        elif _is_held(_find_job(conn, record), watch):
            found.held.append(record.name)
        elif (
            watches.has_changes(record.id)
            or not has_triggers(conn, record.id, watch.table)
            or (compares_triggers and not _may_have_wanted_triggers(conn, path, record, watch))
        ):
            found.due.append(record.name)
    return found


def mend(conn: sqlite3.Connection, path: str) -> int:
    """Free tables whose triggers fail, for another program dropped the tables they write.

    Where the watches themselves are left, the tables are made again, and the next look puts
    the triggers back. Returns how many triggers were dropped.
    """
    with translated(path):
        with write_transaction(conn):
            dropped = drop_failing_triggers(conn)
        if dropped and schema.has_table(conn, "_embed_watches"):
            schema.ensure_schema(conn, path)
    return dropped


def check_watched(conn: sqlite3.Connection, record: CollectionRecord, job: JobRecord) -> None:
    """Refuse to let a watch's job go on where nobody would do it.

    Raises:
        JobStateError: the collection is not watched on this machine.
    """
    watch = Watches(conn).find_watch(record.id)
    if watch is None or not Watches(conn).is_signed(watch, record):
        raise JobStateError(
            job.id,
            job.status.value,
            f"'{record.name}' is not watched on this machine. Run sync instead, or watch",
        )


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
        if not has_wanted_triggers(conn, *_triggers(watch, source)):
            _make_triggers(conn, watch, source)
            Watches(conn).note_everything(record.id)
        changes = Watches(conn).read_changes(record.id)
        if not changes:
            return None
        return DueWork(record, _ready_job(conn, record, watch), changes)


def _watchable_table(
    conn: sqlite3.Connection, path: str, collection: CollectionRecord, source: Source
) -> str:
    """Return the table to watch.

    Raises:
        SourceError: triggers would not see all that changes the rows.
    """
    subject = f"collection '{collection.name}'"
    spec = source.spec
    if spec.image_from:
        raise SourceError(subject, not_followed(spec.image_from))
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
    create_triggers(conn, *_triggers(watch, source))


def _triggers(
    watch: WatchRecord, source: Source
) -> tuple[int, str, str | None, Sequence[str] | None]:
    """Return what the triggers of a watch are made of."""
    # What a condition looks at is not known, so with one any column counts.
    columns = None if source.spec.where else [*source.id_columns, *source.columns]
    return watch.collection_id, watch.table, watch.key_column, columns


def _may_have_wanted_triggers(
    conn: sqlite3.Connection, path: str, record: CollectionRecord, watch: WatchRecord
) -> bool:
    """Say whether the triggers are those that the table needs, as far as that can be told."""
    before = conn.text_factory
    try:
        source = Source(conn, SourceSpec.from_json(record.source or {}), path)
        return has_wanted_triggers(conn, *_triggers(watch, source))
    except SourceError:
        return False  # whoever takes it up says why
    finally:
        conn.text_factory = before


def _find_job(conn: sqlite3.Connection, record: CollectionRecord) -> JobRecord | None:
    """Return the job that keeps a collection up to date, or None before the first change."""
    jobs = JobRecords(conn).list_jobs(record.id)
    return next((job for job in jobs if job.action == WATCH), None)


def _is_held(job: JobRecord | None, watch: WatchRecord) -> bool:
    """Say whether a watch rests until a person says otherwise.

    One who paused or cancelled its job means the changes to come too. And where texts cost
    money, so many that failed one after the other are not followed by the next as many.
    """
    if job is None:
        return False
    reason = job.reason or ""
    if job.status is JobStatus.CANCELLED:
        return reason.startswith(CANCELLED_BY_REQUEST)
    return job.status is JobStatus.PAUSED and (
        reason == PAUSED_BY_REQUEST or (watch.allows_paid and job.counts.failed > 0)
    )


def _release_job(conn: sqlite3.Connection, record: CollectionRecord, watch: WatchRecord) -> None:
    """Let the changes of a collection be embedded again that somebody watches anew."""
    job = _find_job(conn, record)
    if job is None or not _is_held(job, watch):
        return
    if job.status is JobStatus.PAUSED:
        JobRecords(conn).resume(job.id)
    else:  # cancelled is for good
        JobRecords(conn).create(record.id, record.name, record.model_id, action=WATCH)


def _ready_job(conn: sqlite3.Connection, record: CollectionRecord, watch: WatchRecord) -> JobRecord:
    """Return the collection's job of this kind, ready to be run.

    One for all changes to come, or a busy table would fill the list of jobs.

    Raises:
        JobStateError: a person is to say when it goes on; or another job of the collection is
            waiting or running: the two could write an older text over a newer one.
    """
    records = JobRecords(conn)
    mine = _find_job(conn, record)
    if mine and _is_held(mine, watch):
        how = "watch" if mine.status is JobStatus.CANCELLED else "jobs resume, or watch"
        reason = f"the changes of '{record.name}' wait until you run {how}"
        raise JobStateError(mine.id, mine.status.value, reason)
    for job in records.list_jobs(record.id):
        is_busy = job.status is JobStatus.RUNNING and not job.is_abandoned
        if job.action != WATCH:
            is_busy = job.status in (JobStatus.PENDING, JobStatus.RUNNING)
        if is_busy:
            raise JobStateError(
                job.id,
                job.status.value,
                f"the changes of '{record.name}' wait until it has ended",
            )
    if mine is None or mine.status is JobStatus.CANCELLED:
        return records.create(record.id, record.name, record.model_id, action=WATCH)
    if mine.status is not JobStatus.RUNNING:
        conn.execute(
            "update _embed_jobs set status = ?, collection = ?, request = null where id = ?",
            (JobStatus.PENDING.value, record.name, mine.id),
        )
    return records.get_job(mine.id)
