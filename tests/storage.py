"""Small databases and short ways to embed and read them, for the tests of the engine."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasette_embed.database import open_database, sqlite3
from datasette_embed.job_records import JobCounts, JobRecord, JobStatus
from datasette_embed.jobs import JobRun, ensure_collection
from datasette_embed.models import EmbeddingModel
from datasette_embed.sources import Row, Source, SourceSpec
from tests.fakes import vector_of


def execute(path: Path, *statements: str) -> None:
    """Run statements as any other program would: plain sqlite3, one commit at the end."""
    with closing(sqlite3.connect(path)) as conn, conn:
        for statement in statements:
            conn.execute(statement)


def query(path: Path, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a query, read as any other program would."""
    with closing(sqlite3.connect(path)) as conn:
        return conn.execute(sql, parameters).fetchall()


def make_docs(path: Path, rows: Iterable[tuple[Any, Any]], table: str = "docs") -> Path:
    """Make a file with a table ``docs(id integer primary key, body text)``."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(f"create table {table} (id integer primary key, body text)")
        conn.executemany(f"insert into {table} values (?, ?)", rows)
    return path


def blob_of(content: str, dimensions: int = 8) -> bytes:
    """Return what the counting model's vector of a text is stored as (struct, not our code)."""
    return struct.pack(f"<{dimensions}f", *vector_of(content, dimensions=dimensions))


def stored(path: Path, name: str = "docs") -> dict[str, bytes]:
    """Return ``entry id -> embedding`` of a collection."""
    return dict(
        query(
            path,
            "select e.id, e.embedding from embeddings as e join collections as c"
            " on c.id = e.collection_id where c.name = ?",
            (name,),
        )
    )


def expected(rows: Iterable[tuple[Any, str]]) -> dict[str, bytes]:
    """Return what a collection of these rows must hold."""
    return {str(entry_id): blob_of(content) for entry_id, content in rows}


@dataclass
class Outcome:
    """How a run ended."""

    status: JobStatus
    counts: JobCounts
    job: JobRecord
    reason: str | None


def run_job(
    path: Path,
    model: EmbeddingModel,
    *,
    spec: SourceSpec | None = None,
    name: str = "docs",
    store: bool = False,
    remove: bool = False,
    pause: threading.Event | None = None,
    report: Callable[[JobCounts], None] | None = None,
) -> Outcome:
    """Embed a table of the file as the command line does, without its words."""
    with (
        closing(open_database(path)) as source_conn,
        closing(open_database(path, writable=True)) as conn,
    ):
        source = Source(source_conn, spec or SourceSpec(table="docs", columns=("body",)), str(path))
        collection, job = ensure_collection(
            conn, str(path), name, model, source, store_content=store
        )
        run = JobRun(conn, str(path), collection, job, source, model, remove=remove, pause=pause)
        if report is not None:
            run.report = report
        status = run.run()
        return Outcome(status, run.counts, job, run.reason)


def read_source(path: Path, spec: SourceSpec, window: int = 1_000) -> list[Row]:
    """Return every row of a source."""
    with closing(open_database(path)) as conn:
        return [row for rows in Source(conn, spec, str(path)).iter_windows(window) for row in rows]
