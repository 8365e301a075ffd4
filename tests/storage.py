"""Small databases and short ways to embed and read them, for the tests of the engine."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from datasette.cli import cli

from datasette_embed.collection_setup import ensure_collection
from datasette_embed.database import open_database, sqlite3
from datasette_embed.job_records import JobCounts, JobRecord, JobStatus
from datasette_embed.jobs import JobRun
from datasette_embed.models import EmbeddingModel
from datasette_embed.records import Row
from datasette_embed.sources import Source, SourceSpec
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


def blob_of(content: str | bytes, dimensions: int = 8) -> bytes:
    """Return what the counting model's vector of a content is stored as (struct, not our code)."""
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


@dataclass
class Said:
    """What a command printed, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of an error, without ``Error: ``."""
        lines = self.stderr.strip().splitlines()
        assert lines, "nothing was said"
        assert lines[-1].startswith("Error: "), self.stderr
        return lines[-1].removeprefix("Error: ")


def embed(*arguments: str | Path, expect: int = 0, input: str | None = None) -> Said:
    """Run ``datasette embed`` in this process; an exception is the test's failure."""
    # A standalone script would end in a traceback where this raises.
    result = CliRunner().invoke(cli, ["embed", *map(str, arguments)], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, (result.exit_code, result.stdout, result.stderr)
    return Said(result.exit_code, result.stdout, result.stderr)


def refused(*arguments: str | Path, files: Iterable[Path] = (), code: int = 1) -> str:
    """Run a command that must be refused; return its one line.

    Nothing on stdout, one line of error, and no byte of the files changed.
    """
    files = list(files)
    before = [file.read_bytes() for file in files]
    said = embed(*arguments, expect=code)
    assert said.stdout == ""
    assert [line[:7] for line in said.stderr.splitlines()].count("Error: ") == 1
    assert "Traceback" not in said.stderr
    assert [file.read_bytes() for file in files] == before
    return said.error


def make_half_written(path):
    """Make a database as a killed program leaves it: its table ``t`` was ``('before')``."""
    other = path.with_name("writing.db")
    with closing(sqlite3.connect(other, isolation_level=None)) as conn:
        conn.execute("pragma journal_mode = delete")
        conn.execute("pragma cache_size = 1")
        conn.execute("create table t (x)")
        conn.execute("insert into t values ('before')")
        conn.execute("begin")
        conn.execute("update t set x = 'half'")
        conn.executemany("insert into t values (?)", [("x" * 1_000,)] * 200)
        path.write_bytes(other.read_bytes())
        Path(f"{path}-journal").write_bytes(Path(f"{other}-journal").read_bytes())
