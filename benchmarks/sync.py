"""``sync`` of 100,000 short rows of which nothing changed: how long, and how many model calls.

The model is a stand-in that counts its calls, because the question is what the engine
itself costs: the right number of calls is none.

    python -m benchmarks.sync
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from datasette import hookimpl
from datasette.plugins import pm

from benchmarks.machine import describe
from datasette_embed import EmbeddingModel
from datasette_embed.cli import embed

WORDS = "river law house cat news school budget train forest mayor bridge court".split()


class CountingModel(EmbeddingModel):
    """Return a small vector made of the length of each text, and count the texts."""

    model_id = "counting"
    is_local = True  # or the command would ask what it costs
    dimensions = 8
    items = 0

    def embed_batch(self, items: list[Any], *, kind: Any = None, key: Any = None) -> Any:
        """Return one vector per item."""
        self.items += len(items)
        return [[1.0 + len(item) % 7] * 8 for item in items]


class Plugin:
    """Registers the model, as a plugin does."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model

    @hookimpl
    def register_embedding_models(self, register: Any) -> None:
        """Add the model."""
        register(self.model)


def run(*arguments: str) -> float:
    """Run a command in this process and return its seconds."""
    started = time.perf_counter()
    with redirect_stderr(StringIO()):
        embed.main(args=list(arguments), standalone_mode=False)
    return time.perf_counter() - started


def main() -> None:
    """Create a collection, then sync it unchanged and with one change in a hundred."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    model = CountingModel()
    pm.register(Plugin(model))
    chooser = random.Random(0)
    print(describe(["datasette", "numpy"]), "\n")
    with tempfile.TemporaryDirectory() as folder:
        db = str(Path(folder) / "notes.db")
        conn = sqlite3.connect(db)
        conn.execute("create table notes (id integer primary key, body text)")
        conn.executemany(
            "insert into notes values (?, ?)",
            ((n, f"{n} " + " ".join(chooser.choices(WORDS, k=12))) for n in range(rows)),
        )
        conn.commit()
        print(f"{'command':36}{'seconds':>10}{'texts embedded':>18}")
        for label, change, command in (
            (f"create, {rows:,} rows", None, ("create", db, "notes", "--model", "counting")),
            ("sync, nothing changed", None, ("sync", db)),
            ("sync, one row in a hundred changed", "id % 100 = 0", ("sync", db)),
        ):
            if change:
                conn.execute(f"update notes set body = body || ' again' where {change}")
                conn.commit()
            model.items = 0
            seconds = run(*command)
            print(f"{label:36}{seconds:>10.2f}{model.items:>18,}")
        conn.close()


if __name__ == "__main__":
    sys.exit(main())
