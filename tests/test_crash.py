"""Kill the command at random moments: nothing is lost, and nothing is paid for twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.storage import blob_of, execute, make_docs, query, stored

pytestmark = pytest.mark.crash

ROWS = 1_000
KILLS = 20
BATCH = 8
# A model that appends every item it is called with to a file, before it answers.
RUNNER = """
import json, os, sys, time
from datasette import hookimpl
from datasette.cli import cli
from datasette.plugins import pm
from tests.fakes import CountingModel

log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
batch_size = int(sys.argv.pop(1))

class Logging(CountingModel):
    # Not local: a plan times a local model on a sample, which is not the engine's doing.
    is_local = False
    def embed_batch(self, items, *, kind="document", key=None):
        os.write(log, (json.dumps(items) + "\\n").encode())
        time.sleep(0.03)
        return super().embed_batch(items, kind=kind, key=key)

class Plugin:
    __name__ = "logging"
    @hookimpl
    def register_embedding_models(self, register):
        register(Logging(batch_size=batch_size))

pm.register(Plugin())
cli()
"""


def test_create_killed_20_times_every_row_once_and_nothing_paid_twice(tmp_path):
    """SIGKILL wherever it hits: at most the batch in flight is embedded again."""
    # Some contents come twice, so that reuse is killed as well.
    rows = [(n, f"text {n % 950}") for n in range(ROWS)]
    path, log = make_docs(tmp_path / "a.db", rows), tmp_path / "log.jsonl"
    command = [sys.executable, "-c", RUNNER, log, str(BATCH), "embed", "create", path, "docs", "-y"]
    command += ["--columns", "body", "--model", "counting"]
    chooser = random.Random(20)
    texts = {text for _, text in rows}
    kills = landed = 0
    while landed < KILLS:
        if kills > 3 * KILLS:
            pytest.fail("the command ends before it can be killed")
        if query(path, "select 1 from sqlite_master where name = '_embed_jobs'") and query(
            path, "select 1 from _embed_jobs where status = 'finished'"
        ):
            # It was faster than the kills: more work for the ones to come.
            rows = [(n, f"{text} again") for n, text in rows]
            texts |= {text for _, text in rows}
            execute(path, "update docs set body = body || ' again'", "delete from _embed_jobs")
        before = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kills % 4:
            # Most kills fall into the embedding, a quarter anywhere from the start on.
            while process.poll() is None and (log.stat().st_size if log.exists() else 0) == before:
                time.sleep(0.002)
            time.sleep(chooser.uniform(0, 0.08))
        else:
            time.sleep(chooser.uniform(0.2, 0.8))
        process.send_signal(signal.SIGKILL)
        landed += process.wait(30) == -signal.SIGKILL
        kills += 1
        found = stored_if_made(path)
        possible = {blob_of(text) for text in texts}
        assert set(found.values()) <= possible
        assert query(path, "pragma integrity_check") == [("ok",)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert stored(path) == {str(n): blob_of(text) for n, text in rows}
    assert query(path, "select status, count(*) from _embed_jobs") == [("finished", 1)]
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    items = Counter(item for call in calls for item in call)
    assert set(items) == texts
    assert items.total() - len(items) <= landed * BATCH
    assert len(calls) > landed


def stored_if_made(path):
    """Return what is stored, nothing when the kill came before the tables."""
    made = query(path, "select 1 from sqlite_master where name = 'embeddings'")
    return stored(path) if made else {}
