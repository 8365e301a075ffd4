"""Embedding throughput beside ``llm embed-multi`` with llm-sentence-transformers.

The same model, the same 577 articles (benchmarks/data/til.db, title and body), whole
commands as a user types them, alternating. The time of a command over one row is taken
off, so that a slow start does not look like slow embedding; both are printed.

    python -m benchmarks.throughput --peers peers/bin/python

``benchmarks/peers.py`` says how to make the other environment.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.peers import MODEL_ALIAS, Peers

CORPUS = Path(__file__).parent / "data" / "til.db"


def seconds(action: Callable[[Path, int], None], rows: int) -> float:
    """Return how long a command takes over the first ``rows`` articles, on a fresh copy."""
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "til.db"
        shutil.copy(CORPUS, db)
        db.chmod(0o644)
        started = time.perf_counter()
        action(db, rows)
        return time.perf_counter() - started


def run_ours(db: Path, rows: int) -> None:
    """Embed with this package."""
    subprocess.run(
        [sys.executable, "-m", "datasette", "embed", "create", str(db), "til"]
        + ["--columns", "title,body", "--where", f"rowid <= {rows}"],
        check=True,
        capture_output=True,
    )


def main() -> None:
    """Run both, print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="Python with LLM installed")
    parser.add_argument("--rows", type=int, default=577)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(options.peers, Path(folder))

        def run_llm(db: Path, rows: int) -> None:
            sql = f"select path, title, body from til where rowid <= {rows}"
            peers.run("llm", "embed-multi", "til", "-m", MODEL_ALIAS, "-d", str(db), "--sql", sql)

        tools = {"datasette embed create": run_ours, "llm embed-multi": run_llm}
        best: dict[tuple[str, int], float] = {}
        for _ in range(options.repeat):
            for rows in (1, options.rows):
                for name, action in tools.items():
                    taken = seconds(action, rows)
                    best[name, rows] = min(taken, best.get((name, rows), taken))
        print(describe(["datasette", "numpy", "onnxruntime", "tokenizers"]))
        print(f"peers    {peers.versions()}\n")
    rates = {}
    print(f"{'command':24}{'1 row':>10}{f'{options.rows} rows':>12}{'rows a second':>16}")
    for name in tools:
        one, all_rows = best[name, 1], best[name, options.rows]
        rates[name] = (options.rows - 1) / (all_rows - one)
        print(f"{name:24}{one:>8.2f} s{all_rows:>10.2f} s{rates[name]:>16.1f}")
    ours, theirs = tools
    print(f"\nembedding: {rates[ours] / rates[theirs]:.2f} times the rows a second")
    print(
        f"whole command: {best[theirs, options.rows] / best[ours, options.rows]:.2f} times as fast "
        f"over {options.rows} rows, {best[theirs, 1] / best[ours, 1]:.1f} over one"
    )


if __name__ == "__main__":
    main()
