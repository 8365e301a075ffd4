"""Kill and suspend servers: jobs go on, nothing is lost, written twice or paid for twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager

import pytest

from datasette_embed.database import sqlite3
from datasette_embed.runner import get_runner
from datasette_embed.sources import SourceSpec
from tests.storage import blob_of, execute, make_docs, query, stored

pytestmark = pytest.mark.crash

ROWS = 2_000
#: Raise it to look longer than CI can.
KILLS = int(os.environ.get("DATASETTE_EMBED_KILLS", "10"))
BATCH = 8
# A model that appends every item it is called with to a file, before it answers.
SCRIPT = """
import json, os, sys, time
from datasette import hookimpl
from datasette.cli import cli
from datasette.plugins import pm
from tests.fakes import CountingModel

log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
seconds = float(sys.argv.pop(1))
batch_size = int(sys.argv.pop(1))

class Logging(CountingModel):
    # Not local: a plan times a local model on a sample, which is not the engine's doing.
    is_local = False
    def embed_batch(self, items, *, kind="document", key=None):
        os.write(log, (json.dumps(items) + "\\n").encode())
        time.sleep(seconds)
        return super().embed_batch(items, kind=kind, key=key)

class Plugin:
    __name__ = "logging"
    @hookimpl
    def register_embedding_models(self, register):
        register(Logging(batch_size=batch_size))

pm.register(Plugin())
cli()
"""
SPEC = SourceSpec(table="docs", columns=("body",))


class Machine:
    """A file, the log of its model, and the processes that were started on it."""

    def __init__(self, path, log, seconds):
        self.path, self.log = path, log
        options = [str(log), str(seconds), str(BATCH)]
        self.start_of_command = [sys.executable, "-c", SCRIPT, *options]
        self.processes = []

    def start(self, *arguments):
        """Start a process; what it says goes to a file."""
        with open(f"{self.path}.said", "a") as said:
            process = subprocess.Popen(
                [*self.start_of_command, *map(str, arguments)], stdout=said, stderr=said
            )
        self.processes.append(process)
        return process

    def serve(self):
        """Start a server on a free port of this machine."""
        return self.start("serve", self.path, "--port", "0", "--nolock")

    def create(self):
        """Start the command that makes the same collection, or goes on with it."""
        create = ("embed", "create", self.path, "docs", "--columns", "body", "--yes")
        return self.start(*create, "--model", "counting")

    def said(self):
        """Return what all of them have said."""
        with open(f"{self.path}.said") as said:
            return said.read()

    def calls(self):
        """Return the items of every call of the model."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_for(self, condition, seconds=120):
        """Wait until this is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.005)


@contextmanager
def machine(tmp_path, make_datasette, rows, seconds):
    """Make a file with a job that a person asked a server for; end what was started."""
    path = make_docs(tmp_path / "a.db", rows)
    runner = get_runner(make_datasette([str(path)]))
    runner._workers.stop()
    runner.create("a", "docs", SPEC, "count")
    made = Machine(path, tmp_path / "log.jsonl", seconds)
    made.log.write_text("")
    try:
        yield made
    finally:
        for process in made.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(30)


def status(path):
    """Return the state of the only job."""
    ((found,),) = query(path, "select status from _embed_jobs")
    return found


def test_server_and_command_killed_at_random_every_row_once_and_nothing_paid_twice(
    tmp_path, make_datasette, counting_model
):
    """A server, the command line, or both on one file: SIGKILL wherever it hits."""
    rows = [(n, f"text {n}") for n in range(ROWS)]
    texts = {text for _, text in rows}
    chooser = random.Random(os.environ.get("DATASETTE_EMBED_SEED", "7"))
    landed = attempts = 0
    with machine(tmp_path, make_datasette, rows, 0.01) as here:
        while landed < KILLS:
            attempts += 1
            assert attempts <= 3 * KILLS, here.said()
            if status(here.path) == "finished":
                rows = [(n, f"{text} again") for n, text in rows]
                texts |= {text for _, text in rows}
                execute(
                    here.path,
                    "update docs set body = body || ' again'",
                    "update _embed_jobs set status = 'pending'",
                )
            kind = attempts % 3
            started = [here.serve()] if kind != 1 else []
            started += [here.create()] if kind != 0 else []
            before = here.log.stat().st_size
            # Most kills fall into the embedding, some anywhere from the start on.
            if attempts % 5:
                here.wait_for(lambda size=before: here.log.stat().st_size > size)
                time.sleep(chooser.uniform(0, 0.15))
            else:
                time.sleep(chooser.uniform(0.2, 1.5))
            for process in chooser.sample(started, len(started)):
                process.kill()
            landed += sum(process.wait(30) == -signal.SIGKILL for process in started) > 0
            assert query(here.path, "pragma integrity_check") == [("ok",)]
            assert set(stored(here.path).values()) <= {blob_of(text) for text in texts}
        if status(here.path) != "finished":
            server = here.serve()
            here.wait_for(lambda: status(here.path) == "finished")
            server.terminate()
            assert server.wait(30) in (0, -signal.SIGTERM)
        assert stored(here.path) == {str(n): blob_of(text) for n, text in rows}
        assert query(here.path, "select id, status from _embed_jobs") == [(1, "finished")]
        calls = here.calls()
        items = Counter(item for call in calls for item in call)
        assert set(items) == texts
        assert items.total() - len(items) <= landed * BATCH
        print(f"{landed} kills, {len(calls)} calls, {items.total() - len(items)} items twice")


def test_suspended_server_loses_its_job_and_woken_writes_nothing(
    tmp_path, make_datasette, counting_model, monkeypatch
):
    """Two servers on one file, the first one stopped by SIGSTOP past its lease."""
    monkeypatch.setenv("DATASETTE_EMBED_LEASE_SECONDS", "4")
    rows = [(n, f"text {n}") for n in range(240)]
    with machine(tmp_path, make_datasette, rows, 0.1) as here:
        execute(
            here.path,
            "create table writes (id text)",
            "create trigger note_write after insert on embeddings begin"
            " insert into writes values (new.id); end",
            "create trigger note_change after update of embedding on embeddings begin"
            " insert into writes values (new.id); end",
        )
        first = here.serve()
        here.wait_for(lambda: len(here.calls()) >= 3)
        suspend_in_a_call(here, first)
        written = query(here.path, "select count(*) from writes")[0][0]
        ((owner, epoch),) = query(here.path, "select owner, epoch from _embed_jobs")
        assert (owner.split(":")[1], epoch) == (str(first.pid), 1)
        second = here.serve()
        here.wait_for(
            lambda: (
                query(here.path, "select epoch from _embed_jobs where owner is not null") == [(2,)]
            )
        )
        ((owner,),) = query(here.path, "select owner from _embed_jobs")
        assert owner.split(":")[1] == str(second.pid)
        first.send_signal(signal.SIGCONT)  # while the second one is at work
        here.wait_for(lambda: status(here.path) == "finished")
        assert first.poll() is None and second.poll() is None
        # It ends with the batch in flight, so it has tried to write by then.
        first.terminate()
        assert first.wait(30) in (0, -signal.SIGTERM), here.said()
        assert query(here.path, "select epoch from _embed_jobs") == [(2,)]
        assert written < 240
        assert query(here.path, "select count(*), count(distinct id) from writes") == [(240, 240)]
        assert stored(here.path) == {str(n): blob_of(text) for n, text in rows}
        items = Counter(item for call in here.calls() for item in call)
        assert items.total() - len(items) <= BATCH


def suspend_in_a_call(here, process):
    """Stop a process inside a call of its model, and not while it holds the file's lock."""
    for _ in range(50):
        calls = len(here.calls())
        here.wait_for(lambda calls=calls: len(here.calls()) > calls)
        process.send_signal(signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(here.path, timeout=0.2)) as conn:
                conn.execute("begin immediate")
                conn.rollback()
            return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
    raise AssertionError("the process cannot be suspended outside a transaction")
