"""A job with a service that is slow and often fails: how near it comes to the ideal time.

20,000 rows are embedded over HTTP by a server in a process of its own, which takes 50 ms for
each request and answers one in twenty with an error 500. The ideal is what its requests take
when as many as the model allows are always under way: requests x latency / concurrency. It
holds the failed ones, which have to be made again. Every row must be there in the end, and no
text may have been billed twice.

    python -m benchmarks.service_job [--rows 20000] [--concurrency 8]
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sqlite3
import tempfile
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from datasette_embed.opened_sources import opened_source
from datasette_embed.providers.openai import OpenAIModel
from datasette_embed.registry import get_registry
from datasette_embed.runs import Run
from datasette_embed.sources import SourceSpec
from tests.embedding_server import EmbeddingServer

LATENCY_SECONDS = 0.05
FAILURE_RATE = 0.05
DIMENSIONS = 384
WORDS = "river law house cat news school budget train forest mayor bridge court".split()


def serve(connection: Connection) -> None:
    """Serve until something comes over the connection, then send what was counted."""
    with EmbeddingServer(
        latency_seconds=LATENCY_SECONDS, failure_rate=FAILURE_RATE, dimensions=DIMENSIONS
    ) as server:
        connection.send(server.base_url)
        connection.recv()
        connection.send(
            {
                "requests": len(server.requests),
                "failed": server.failed,
                "tokens": server.tokens_billed,
                "at once": server.most_at_once,
                "texts": len(server.texts),
            }
        )


def make_rows(path: Path, rows: int) -> int:
    """Make a table of short texts, no two alike; return how many tokens they have."""
    texts = [
        f"row {n} about {' '.join(WORDS[(n + i) % len(WORDS)] for i in range(n % 30 + 5))}"
        for n in range(rows)
    ]
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("create table docs (id integer primary key, body text)")
        conn.executemany("insert into docs (body) values (?)", [(text,) for text in texts])
    return sum(len(text.split()) for text in texts)


def main() -> None:
    """Run the job and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=8)
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # one line an error is what the log would hold
    print(describe(["datasette-embed", "openai"]))
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    model = OpenAIModel(
        "served",
        model_id="served",
        base_url=ours.recv(),
        dimensions=DIMENSIONS,
        encoding_format="base64",
        concurrency=arguments.concurrency,
    )
    model.is_local = False  # or a sample of the texts would be sent to estimate the time
    model.warm()
    get_registry().register(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.db"
        tokens = make_rows(path, arguments.rows)
        spec = SourceSpec(table="docs", columns=("body",))
        started = time.perf_counter()
        with opened_source(str(path), spec, str(path), "docs") as source:
            run = Run(str(path), "docs", source, "served")
            planned = time.perf_counter()
            outcome = run.complete()
            ended = time.perf_counter()
    seconds = ended - planned
    ours.send("end")
    counted: dict[str, Any] = ours.recv()
    process.join()
    ideal = counted["requests"] * LATENCY_SECONDS / arguments.concurrency
    print(
        f"status    {outcome.status.value}, {outcome.counts.embedded:,} of {arguments.rows:,} rows"
    )
    requests, failed, at_once = (counted[name] for name in ("requests", "failed", "at once"))
    print(f"requests  {requests:,}, {failed} failed, {at_once} at once")
    print(f"tokens    {counted['tokens']:,} billed, {tokens:,} needed")
    print(f"plan      {planned - started:.2f} s: what is to be done, before it starts")
    print(f"job       {seconds:.2f} s, ideal {ideal:.2f} s, ratio {seconds / ideal:.2f}")


if __name__ == "__main__":
    main()
