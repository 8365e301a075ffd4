"""``Collection.similar`` beside LLM's, on one file of 100,000 vectors of 384 numbers.

Both open the same file and answer the same queries, one after the other, each in a process
of its own; the model is a table of query vectors, so that only the search is measured. Ours
scans the file for the first query, which also pays for what it imports, reads the vectors
into memory for the second, and looks before every further one whether the file has changed.

    python -m benchmarks.similar --peers peers/bin/python

where ``peers`` is an environment with ``pip install llm``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CENTRES = 1_000
NUMBER = 10


def query_vectors(count: int, dimensions: int) -> list[list[float]]:
    """Return the queries: they are the same in every process."""
    chooser = random.Random(7)
    return [[chooser.gauss(0, 1) for _ in range(dimensions)] for _ in range(count)]


def make_file(path: Path, entries: int, dimensions: int) -> None:
    """Write a collection of vectors around ``CENTRES`` random points, of length 1."""
    import numpy as np

    from datasette_embed import Collection

    chooser = np.random.default_rng(1)
    centres = chooser.standard_normal((CENTRES, dimensions))
    with Collection("c", path, model=table_of([], "datasette_embed")) as collection:
        collection.db.conn.execute("begin")
        for first in range(0, entries, 1_000):
            which = chooser.integers(0, CENTRES, min(1_000, entries - first))
            rows = centres[which] + chooser.standard_normal((len(which), dimensions)) * 0.7
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            collection.db.conn.executemany(
                "insert into embeddings (collection_id, id, embedding) values (?, ?, ?)",
                [
                    (collection.id, str(first + at), row.astype("<f4").tobytes())
                    for at, row in enumerate(rows)
                ],
            )
        collection.db.conn.execute("commit")


def table_of(vectors: list[list[float]], package: str) -> Any:
    """Return a model whose vector of ``"3"`` is the fourth of these."""

    class Table(importlib.import_module(package).EmbeddingModel):  # type: ignore[misc]
        model_id = "table"

        def embed_batch(self, items: Any, **options: Any) -> list[list[float]]:
            return [vectors[int(item)] for item in items]

    return Table()


def answer(package: str, path: str, queries: int, dimensions: int) -> None:
    """Search in this process; print the seconds and the ids of each answer as JSON."""
    model = table_of(query_vectors(queries, dimensions), package)
    if package == "llm":
        from sqlite_utils import Database

        database: Any = Database(path)
    else:
        database = path
    collection = importlib.import_module(package).Collection("c", database, model=model)
    results = []
    for query in range(queries):
        started = time.perf_counter()
        found = collection.similar(str(query), NUMBER)
        results.append([time.perf_counter() - started, [entry.id for entry in found]])
    print(json.dumps(results))


def measure(python: str, package: str, path: Path, options: argparse.Namespace) -> list[Any]:
    """Run ``answer`` in another process, away from this checkout's files."""
    done = subprocess.run(
        [python, __file__, "--worker", package, str(path)]
        + ["--queries", str(options.queries), "--dimensions", str(options.dimensions)],
        cwd=tempfile.gettempdir(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    results: list[Any] = json.loads(done.stdout)
    return results


def main() -> None:
    """Make the file, let both answer, print times, the ratio and whether they agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="Python with LLM installed")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(*options.worker, options.queries, options.dimensions)
        return
    from benchmarks.machine import describe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.db"
        make_file(path, options.entries, options.dimensions)
        ours = measure(sys.executable, "datasette_embed", path, options)
        theirs = measure(options.peers, "llm", path, options)
        size = path.stat().st_size
    print(describe(["datasette-embed", "numpy", "sqlite-utils"]))
    print(f"file     {options.entries:,} x {options.dimensions}, {size / 1e6:.0f} MB\n")
    later = sorted(taken for taken, _ in ours[2:])[len(ours[2:]) // 2]
    llm = sorted(taken for taken, _ in theirs)[len(theirs) // 2]
    print(f"llm, each query                 {llm * 1000:10.1f} ms")
    print(f"datasette-embed, first query    {ours[0][0] * 1000:10.1f} ms {llm / ours[0][0]:8.0f} x")
    print(f"datasette-embed, second query   {ours[1][0] * 1000:10.1f} ms {llm / ours[1][0]:8.0f} x")
    print(f"datasette-embed, further ones   {later * 1000:10.1f} ms {llm / later:8.0f} x")
    same = [mine[1] == other[1] for mine, other in zip(ours, theirs, strict=True)]
    print(f"same ids in the same order: {sum(same)} of {len(same)} queries")


if __name__ == "__main__":
    main()
