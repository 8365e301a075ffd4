"""Compare ``order by llm_embed_cosine(embedding, :query) desc limit 10`` with other tools.

    pip install 'datasette-embed[test]'
    python -m venv peers
    peers/bin/pip install datasette-llm-embed==0.2 llm==0.36 sqlite-vec==0.1.9 \
        pysqlite3-binary numpy numkong
    python -m benchmarks.sql_cosine --peers peers/bin/python

One run makes the files, asks every tool in turn, again and again, and prints the least
and the median time and the ratios. Each tool is a process of its own:

* ``ours``: this package, on the standard library's sqlite3
* ``sqlite-vec``: the C extension's vec_distance_cosine, on pysqlite3, since many builds of
  Python cannot load extensions
* ``ours, pysqlite3``: ours on the SQLite that sqlite-vec has; it separates the function
  from the library below it (shown if the peers' Python has numkong)
* ``datasette-llm-embed``: the pure Python function of the same name
* ``llm``: Collection.similar_by_vector

The run fails (exit code 1) if a tool names other rows than ours, or in another order.
A tool that is not installed is left out and named. Timings of a busy machine are worth
little; the ratios of one run are worth more, for the tools take turns.

Ours is registered as the plugin does it, which also raises SQLite's page cache from its
default of 2 MB to 4; the others run with the default. Before SQLite 3.45 the blobs of 472
vectors of 1,536 dimensions push the rest of the table out of 2 MB at every scan.
``--pragma cache_size=-8000`` (any pragma, for all tools but ``llm``) gives it to all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SEED = 20240117
K = 10
SIZES = ((472, 1536), (100_000, 384), (20_000, 1536))
OURS, OURS_PEER, VEC = "ours", "ours, pysqlite3", "sqlite-vec"
PURE, LLM = "datasette-llm-embed", "llm"
#: What ours may take at most, in multiples of sqlite-vec's time, and how much faster than
#: the pure Python function it must be.
LIMITS = {472: (1.05, 50), 100_000: (1.35, 25), 20_000: (1.05, 50)}

PARAMETER = "select id from embeddings order by {} {} limit 10"
CTE = (
    "with query(vector) as (select embedding from queries) "
    "select id from embeddings, query order by {} {} limit 10"
)

Run = Callable[[], list[str]]


@dataclass(frozen=True)
class Query:
    """How the tools are asked: the vector as ``parameter`` or ``cte``, and a pragma or ""."""

    sql: str
    pragma: str


# The data


def write_database(path: Path, rows: int, dimensions: int) -> None:
    """Write clustered unit vectors and a query to a new file in LLM's schema."""
    import sqlite3

    import numpy as np

    random = np.random.default_rng(SEED + rows + dimensions)
    centres = random.standard_normal((max(8, rows // 500), dimensions))
    of_row = random.integers(0, len(centres), rows)
    vectors = centres[of_row] + 0.6 * random.standard_normal((rows, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[rows // 2] + 0.02 * random.standard_normal(dimensions)
    db = sqlite3.connect(path)
    db.executescript(
        """
        CREATE TABLE "_sqlite_migrations" ("id" INTEGER PRIMARY KEY, "migration_set" TEXT,
            "name" TEXT, "applied_at" TEXT);
        CREATE TABLE "collections" ("id" INTEGER PRIMARY KEY, "name" TEXT, "model" TEXT);
        CREATE UNIQUE INDEX "idx_collections_name" ON "collections" ("name");
        CREATE TABLE "embeddings" ("collection_id" INTEGER REFERENCES "collections"("id"),
            "id" TEXT, "embedding" BLOB, "content" TEXT, "content_blob" BLOB,
            "content_hash" BLOB, "metadata" TEXT, "updated" INTEGER,
            PRIMARY KEY ("collection_id", "id"));
        CREATE TABLE "queries" ("embedding" BLOB);
        INSERT INTO collections VALUES (1, 'bench', 'none');
        """
    )
    for name in ("m001_create_tables", "m002_foreign_key", "m003_add_updated"):
        _record_migration(db, name)
    for name in ("m004_store_content_hash", "m005_add_content_blob"):
        _record_migration(db, name)
    db.executemany(
        "INSERT INTO embeddings (collection_id, id, embedding) VALUES (1, ?, ?)",
        ((str(number), vector.astype("<f4").tobytes()) for number, vector in enumerate(vectors)),
    )
    db.execute("INSERT INTO queries VALUES (?)", [query.astype("<f4").tobytes()])
    db.commit()
    db.close()


def _record_migration(db: Any, name: str) -> None:
    db.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, '')",
        ["llm.embeddings", name],
    )


# A worker: one tool in one process


def open_ours(path: str, query: Query, module: str = "sqlite3") -> tuple[Run, str]:
    """Return a run of our function, registered as the plugin registers it."""
    sys.path.insert(0, str(ROOT))
    sqlite3 = __import__(module)
    from datasette_embed import register, vectors

    db = sqlite3.connect(path)
    register(db)
    name = f"SQLite {sqlite3.sqlite_version}, {vectors.kernels().name}"
    return _sql_run(db, query, "llm_embed_cosine", "desc"), name


def open_ours_on_pysqlite3(path: str, query: Query) -> tuple[Run, str]:
    """Return a run of our function on the SQLite inside pysqlite3."""
    import numkong  # noqa: F401 - numpy's kernels would say nothing here

    return open_ours(path, query, "pysqlite3")


def open_sqlite_vec(path: str, query: Query) -> tuple[Run, str]:
    """Return a run of sqlite-vec's scalar function."""
    import pysqlite3
    import sqlite_vec

    db = pysqlite3.connect(path)
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    version = db.execute("select vec_version()").fetchone()[0]
    name = f"SQLite {pysqlite3.sqlite_version}, sqlite-vec {version}"
    return _sql_run(db, query, "vec_distance_cosine", "asc"), name


def open_datasette_llm_embed(path: str, query: Query) -> tuple[Run, str]:
    """Return a run of datasette-llm-embed's function."""
    import importlib.metadata
    import sqlite3

    import datasette_llm_embed

    db = sqlite3.connect(path)
    db.create_function("llm_embed_cosine", 2, datasette_llm_embed.llm_embed_cosine)
    name = f"datasette-llm-embed {importlib.metadata.version('datasette-llm-embed')}"
    return _sql_run(db, query, "llm_embed_cosine", "desc"), name


def open_llm(path: str, _query: Query) -> tuple[Run, str]:
    """Return a run of LLM's Python API, which is what ``llm similar`` calls."""
    import importlib.metadata

    import llm
    import sqlite_utils

    db = sqlite_utils.Database(path)
    collection = llm.Collection("bench", db, create=False)
    vector = llm.decode(next(iter(db["queries"].rows))["embedding"])

    def run() -> list[str]:
        return [entry.id for entry in collection.similar_by_vector(vector, number=K)]

    return run, f"llm {importlib.metadata.version('llm')}"


def _sql_run(db: Any, query: Query, function: str, order: str) -> Run:
    if query.pragma:
        db.execute(f"pragma {query.pragma}")
    vector = db.execute("select embedding from queries").fetchone()[0]
    if query.sql == "cte":
        statement, values = CTE.format(f"{function}(embedding, vector)", order), {}
    else:
        statement = PARAMETER.format(f"{function}(embedding, :query)", order)
        values = {"query": vector}
    return lambda: [row[0] for row in db.execute(statement, values).fetchall()]


WORKERS: dict[str, Callable[[str, Query], tuple[Run, str]]] = {
    OURS: open_ours,
    VEC: open_sqlite_vec,
    OURS_PEER: open_ours_on_pysqlite3,
    PURE: open_datasette_llm_embed,
    LLM: open_llm,
}


def serve(tool: str, path: str, query: Query) -> None:
    """Answer each line on stdin with a line of JSON: the seconds and the ids of one run."""
    try:
        run, description = WORKERS[tool](path, query)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"description": description}), flush=True)
    for _line in sys.stdin:
        started = time.perf_counter()
        ids = run()
        print(json.dumps({"seconds": time.perf_counter() - started, "ids": ids}), flush=True)


# The comparison


@dataclass
class Tool:
    """One worker process and what it has measured, in seconds."""

    name: str
    process: subprocess.Popen[str]
    description: str
    seconds: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Run the query once; the first run warms up and is not counted."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} died, exit code {self.process.wait()}")
        answer = json.loads(line)
        if self.ids:
            self.seconds.append(answer["seconds"])
        self.ids = answer["ids"]


@contextmanager
def started(name: str, python: str, path: Path, query: Query) -> Iterator[Tool | None]:
    """Start a tool's process, and end it; None, and a line, if it is not installed."""
    command = [python, str(Path(__file__).resolve()), "--worker", name, str(path)]
    command += ["--sql", query.sql, "--pragma", query.pragma]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        answer = json.loads(line) if line else {"missing": "the process ended"}
        if "missing" in answer:
            print(f"left out: {name} ({answer['missing']})")
            yield None
        else:
            yield Tool(name, process, answer["description"])


def compare(path: Path, peers: str, options: argparse.Namespace) -> list[Tool]:
    """Run every tool on one file, taking turns, and return them with their times."""
    with ExitStack() as stack:
        tools = []
        for name in WORKERS:
            if name in options.skip:
                continue
            python = sys.executable if name == OURS else peers
            query = Query(options.sql, options.pragma)
            tool = stack.enter_context(started(name, python, path, query))
            if tool:
                tools.append(tool)
        for turn in range(options.repeat + 1):
            for tool in tools:
                if turn <= options.slow_repeat or tool.name not in (PURE, LLM):
                    tool.run()
        return tools


def report(rows: int, dimensions: int, tools: list[Tool]) -> bool:
    """Print the table of one size; return whether all tools agree with ours."""
    ours = min(tools[0].seconds)
    print(f"\n{rows:,} x {dimensions}")
    print(f"{'tool':<22}{'least ms':>11}{'median ms':>11}{'/ ours':>9}{'runs':>6}  top {K}")
    agree = True
    for tool in tools:
        least, median = min(tool.seconds), statistics.median(tool.seconds)
        same = tool.ids == tools[0].ids
        agree = agree and same
        print(
            f"{tool.name:<22}{least * 1e3:>11.2f}{median * 1e3:>11.2f}{least / ours:>9.2f}"
            f"{len(tool.seconds):>6}  {'same' if same else 'DIFFERENT'}   {tool.description}"
        )
    most, least_gain = LIMITS.get(rows, (1.35, 25))
    for tool in tools:
        ratio = min(tool.seconds) / ours
        if tool.name == VEC:
            verdict = "within" if 1 / ratio <= most else "OVER"
            print(f"  ours / sqlite-vec: {1 / ratio:.2f} ({verdict} {most})")
        elif tool.name == PURE:
            verdict = "within" if ratio >= least_gain else "BELOW"
            print(f"  faster than datasette-llm-embed: {ratio:.0f} times ({verdict} {least_gain})")
    return agree


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--repeat", type=int, default=9, help="counted runs of the fast tools")
    parser.add_argument("--slow-repeat", type=int, default=2, help="of the pure Python ones")
    parser.add_argument("--sql", choices=("parameter", "cte"), default="parameter")
    parser.add_argument("--pragma", default="", help="for every connection: cache_size=-8000")
    parser.add_argument("--skip", action="append", default=[], choices=list(WORKERS))
    parser.add_argument("--rows", type=int, action="append", help="only the sizes with these rows")
    parser.add_argument("--worker", nargs=2, metavar=("TOOL", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the comparison; return the exit code."""
    options = read_options()
    if options.worker:
        tool, path = options.worker
        serve(tool, path, Query(options.sql, options.pragma))
        return 0
    sys.path.insert(0, str(ROOT))
    from benchmarks import machine

    print(machine.describe(["datasette-embed", "numpy", "numkong"]))
    form = "a CTE" if options.sql == "cte" else "a parameter"
    print(f"query    the vector as {form}, pragma {options.pragma or 'none'}")
    agree = True
    with tempfile.TemporaryDirectory() as folder:
        for rows, dimensions in SIZES:
            if options.rows and rows not in options.rows:
                continue
            file = Path(folder) / f"{rows}x{dimensions}.db"
            write_database(file, rows, dimensions)
            agree = report(rows, dimensions, compare(file, options.peers, options)) and agree
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
