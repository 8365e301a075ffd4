"""What this plugin adds to the time of every ``datasette`` command.

Runs ``datasette --version`` with and without plugins, alternating, and compares the least
times. Run it where no other Datasette plugin is installed.

    python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.machine import describe


def milliseconds(environment: dict[str, str]) -> float:
    """Return how long one ``datasette --version`` takes."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "datasette", "--version"],
        env=environment,
        cwd=tempfile.gettempdir(),
        check=True,
        capture_output=True,
    )
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Run both, print the least times and the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=30)
    repeat = parser.parse_args().repeat
    # Datasette loads the plugins this variable names; empty, it loads none.
    settings = {"with": dict(os.environ), "without": {**os.environ, "DATASETTE_LOAD_PLUGINS": ""}}
    taken: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(repeat):
        for name, environment in settings.items():
            taken[name].append(milliseconds(environment))
    print(describe(["datasette"]), "\n")
    for name, values in taken.items():
        print(f"{name:8}{min(values):>8.1f} ms")
    print(f"{'added':8}{min(taken['with']) - min(taken['without']):>8.1f} ms")


if __name__ == "__main__":
    main()
