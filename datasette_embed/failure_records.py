"""Failures as rows of the database: what a job could not embed, and why.

Layer 6: imports ``database``, ``job_rows`` and ``schema``. A failure stays until its row has been
embedded, has changed or is gone, so that only failures can be tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from . import schema
from .database import sqlite3
from .job_rows import Failure, JobRecord


class FailureRecords:
    """The failures of one file. Writing methods run inside the caller's transaction."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

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
        if not schema.has_table(self.conn, "_embed_failures"):
            return set()  # LLM has made the file
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

    def forget_failures(
        self,
        job: JobRecord,
        still_failing: Iterable[str],
        *,
        among: Iterable[str] | None = None,
    ) -> None:
        """Drop every recorded failure of the job's collection that this job did not meet.

        Args:
            among: only those of these entries; None for all.
        """
        limit, parameters = "", []
        if among is not None:
            limit = " and entry_id in (select value from json_each(?))"
            parameters = [json.dumps(sorted(among))]
        self.conn.execute(
            "delete from _embed_failures where job_id != ? and job_id in"
            f" (select id from _embed_jobs where collection_id = ?){limit}",
            (job.id, job.collection_id, *parameters),
        )
        self.conn.execute(
            "delete from _embed_failures where job_id = ?"
            f" and entry_id not in (select value from json_each(?)){limit}",
            (job.id, json.dumps(sorted(still_failing)), *parameters),
        )

    def keep_failures(self, job: JobRecord, entry_ids: Iterable[str]) -> None:
        """Make failures of the job's collection those of this job, as it would meet them again."""
        self.conn.execute(
            "update or replace _embed_failures set job_id = ? where job_id != ?"
            " and job_id in (select id from _embed_jobs where collection_id = ?)"
            " and entry_id in (select value from json_each(?))",
            (job.id, job.id, job.collection_id, json.dumps(sorted(entry_ids))),
        )

    def failing_ids(self, collection_id: int) -> frozenset[str]:
        """Return the ids of the entries of a collection that could not be embedded."""
        rows = self.conn.execute(
            "select entry_id from _embed_failures where job_id in"
            " (select id from _embed_jobs where collection_id = ?)",
            (collection_id,),
        )
        return frozenset(entry_id for (entry_id,) in rows)

    def find_reason(self, collection_id: int, entry_id: str) -> str | None:
        """Return why an entry of a collection could not be embedded; None of any other."""
        if not schema.has_table(self.conn, "_embed_failures"):
            return None
        row = self.conn.execute(
            "select message from _embed_failures where entry_id = ? and typeof(message) = 'text'"
            " and job_id in (select id from _embed_jobs where collection_id = ?)"
            " order by job_id desc limit 1",
            (entry_id, collection_id),
        ).fetchone()
        return str(row[0]) if row else None

    def count_failing(self, collection_id: int) -> dict[int, int]:
        """Return ``job id -> how many entries`` of a collection could not be embedded."""
        if not schema.has_table(self.conn, "_embed_failures"):
            return {}
        # Of several jobs that met the same one, the last is asked.
        rows = self.conn.execute(
            "select job_id, count(*) from (select max(job_id) as job_id from _embed_failures"
            " where job_id in (select id from _embed_jobs where collection_id = ?)"
            " group by entry_id) group by 1",
            (collection_id,),
        )
        return dict(rows.fetchall())

    def list_failures(
        self, job_id: int, *, after: str | None = None, limit: int | None = None
    ) -> list[tuple[str, str, int]]:
        """Return (entry id, message, attempts) of a job's failures, by id.

        Args:
            after: only those behind this id.
            limit: at most so many.
        """
        if not schema.has_table(self.conn, "_embed_failures"):
            return []
        # A file may hold anything, and these are shown.
        rows = self.conn.execute(
            "select entry_id, case typeof(message) when 'text' then message else '' end,"
            " case typeof(attempts) when 'integer' then attempts else 0 end"
            " from _embed_failures where job_id = ? and typeof(entry_id) = 'text'"
            " and (? is null or entry_id > ?) order by entry_id limit ?",
            (job_id, after, after, -1 if limit is None else limit),
        )
        return [(entry_id, message, attempts) for entry_id, message, attempts in rows]


def _storable(text: str) -> str:
    """Return a text that SQLite takes; a file's name may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
