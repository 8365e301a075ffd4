"""What visitors of a server notice while it embeds: the time of plain queries, over HTTP.

Four clients ask for 100 rows of a table again and again: first of a server that does
nothing else, then while a job embeds the table's articles with the bundled model, then
while slow texts are embedded in SQL. A person should not notice: the 95th percentile is to
stay below twice that of the idle server.

    python -m benchmarks.server
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from contextlib import closing, suppress
from pathlib import Path

import datasette

from benchmarks.first_query import free_port
from benchmarks.machine import describe

DATA = Path(__file__).parent / "data" / "til.db"
CLIENTS = 4
#: Embedded in each round, whole articles of which a core reads some thirty a second.
ARTICLES = 300
SLOW_SECONDS = 3
PLAIN = "select path, title, topic from til limit 100"
SLOW_PLUGIN = f'''
import time
from datasette import hookimpl
from datasette_embed import EmbeddingModel

class Slow(EmbeddingModel):
    """Takes three seconds for every text."""
    model_id = "slow"
    dimensions = 4
    is_local = True

    def embed_batch(self, items, *, kind=None, key=None):
        time.sleep({SLOW_SECONDS})
        return [[1.0, 2.0, 3.0, 4.0] for _ in items]

@hookimpl
def register_embedding_models(register):
    register(Slow())
'''


class Server:
    """A Datasette that serves one file, for as long as the block runs."""

    def __init__(self, folder: Path, file: Path) -> None:
        plugins = folder / "plugins"
        plugins.mkdir()
        (plugins / "slow.py").write_text(SLOW_PLUGIN, "utf-8")
        config = {
            "plugins": {
                "datasette-embed": {
                    "watch_seconds": 0.2,
                    "allow": {"slow": True},
                    "warm_models": ["default"],
                }
            }
        }
        path = folder / "config.json"
        path.write_text(json.dumps(config), "utf-8")
        self.is_one = not datasette.__version__.startswith("0.")
        option = "--config" if self.is_one else "--metadata"
        self.port = free_port()
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "datasette", "serve", str(file), option, str(path)]
                + ["--plugins-dir", str(plugins), "--port", str(self.port)],
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Server:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                self.ask(PLAIN)
                return self
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the server did not start: {self.log.read_text()}")
            time.sleep(0.05)

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, sql: str, conn: http.client.HTTPConnection | None = None, **values: str) -> int:
        """Ask for rows as JSON; return the HTTP status."""
        page = "/til/-/query.json" if self.is_one else "/til.json"
        query = urllib.parse.urlencode({"sql": sql, "_shape": "array", **values})
        conn = conn or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        conn.request("GET", f"{page}?{query}")
        with closing(conn.getresponse()) as response:
            response.read()
            return response.status


def latencies(server: Server, seconds: float, pause_seconds: float) -> list[float]:
    """Return the milliseconds of every plain query that four clients asked meanwhile."""
    found: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            status = server.ask(PLAIN)
            found.append((time.perf_counter() - started) * 1000)
            if status != 200:
                raise RuntimeError(f"a plain query was answered with {status}")
            time.sleep(pause_seconds)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def prepare(file: Path) -> None:
    """Make a collection of ten articles, and let it follow the table."""
    shutil.copy(DATA, file)
    command = [sys.executable, "-m", "datasette", "embed"]
    options = ["--columns", "title,body", "--where", "length(body) > 0"]
    with closing(sqlite3.connect(file)) as conn, conn:
        conn.execute("create table articles as select * from til limit 10")
    subprocess.run([*command, "create", file, "articles", *options], check=True, **QUIET)
    subprocess.run([*command, "watch", file, "articles"], check=True, **QUIET)


QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def start_job(file: Path, copy: int, articles: int) -> None:
    """Add articles, which the server then embeds by itself."""
    with closing(sqlite3.connect(file, timeout=30)) as conn, conn:
        conn.execute(
            "insert into articles (path, topic, title, url, body)"
            " select path, topic, title, url, ? || body from til limit ?",
            (f"{copy} ", articles),
        )


def embedded(file: Path) -> int:
    """Return how many articles have a vector."""
    with closing(sqlite3.connect(file, timeout=30)) as conn:
        return int(conn.execute("select count(*) from embeddings").fetchone()[0])


def slow_embeds(server: Server, number: int) -> list[threading.Thread]:
    """Start three queries that each embed a text that takes seconds."""
    sql = "select length(llm_embed('slow', :text)) as bytes"
    started = [
        threading.Thread(target=server.ask, args=(sql,), kwargs={"text": f"text {number} {n}"})
        for n in range(3)
    ]
    for thread in started:
        thread.start()
    return started


def line(label: str, values: list[float], idle: list[float]) -> str:
    """Return one line of the table."""
    p50, p95 = statistics.median(values), statistics.quantiles(values, n=20)[18]
    ratio = p95 / statistics.quantiles(idle, n=20)[18]
    return f"{label:28}{len(values):>10}{p50:>10.1f}{p95:>10.1f}{max(values):>10.1f}{ratio:>10.2f}"


def with_job(
    server: Server, file: Path, rounds: int, seconds: float, pause: float
) -> tuple[list[float], list[float], int]:
    """Return the milliseconds without a job, those with one, and the articles embedded.

    In turns, because a machine is not equally fast all the time.
    """
    idle: list[float] = []
    busy: list[float] = []
    total = 0
    latencies(server, 2.0, pause)
    for number in range(rounds):
        idle += latencies(server, seconds, pause)
        before = embedded(file)
        start_job(file, number, ARTICLES)
        while embedded(file) == before:  # the first batch is stored
            time.sleep(0.05)
        begun = embedded(file)
        busy += latencies(server, seconds, pause)
        ended = embedded(file)
        if ended == before + ARTICLES:
            raise RuntimeError("the job did not run all the time: measure for fewer seconds")
        total += ended - begun
        while embedded(file) < before + ARTICLES:
            time.sleep(0.1)
        time.sleep(0.5)
    return idle, busy, total


def with_slow_embeds(server: Server, rounds: int, pause: float) -> list[float]:
    """Return the milliseconds of plain queries while three slow texts are embedded."""
    found: list[float] = []
    for number in range(rounds):
        threads = slow_embeds(server, number)
        time.sleep(0.2)
        found += latencies(server, SLOW_SECONDS - 0.5, pause)
        for thread in threads:
            thread.join()
    return found


def main() -> None:
    """Measure an idle server, one with a job, and one with slow embeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each half of a round")
    parser.add_argument("--pause-ms", type=float, default=20.0, help="between two questions")
    options = parser.parse_args()
    pause = options.pause_ms / 1000
    print(describe(["datasette", "onnxruntime"]), "\n")
    with tempfile.TemporaryDirectory() as name:
        os.environ["DATASETTE_EMBED_USER_PATH"] = str(Path(name) / "user")
        file = Path(name) / "til.db"
        prepare(file)
        with Server(Path(name), file) as server:
            idle, busy, count = with_job(server, file, options.rounds, options.seconds, pause)
            slow = with_slow_embeds(server, options.rounds, pause)
    speed = count / options.rounds / options.seconds
    columns = ("queries", "p50 ms", "p95 ms", "max ms", "p95 ratio")
    print(f"{'a server that':28}" + "".join(f"{column:>10}" for column in columns))
    print(line("is idle", idle, idle))
    print(line(f"embeds {speed:.0f} articles a second", busy, idle))
    print(line("has three slow embeds", slow, idle))


if __name__ == "__main__":
    main()
