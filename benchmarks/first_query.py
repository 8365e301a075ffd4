"""The first and the following ``llm_embed`` of a fresh Datasette, beside datasette-llm-embed.

Starts a server, waits until it accepts connections, and times SQL over HTTP: the very
first embed, texts not seen before, and one seen before. Datasette's SQL time limit is its
default of one second: the first query must be answered, not refused.

    python -m benchmarks.first_query --peers peers/bin/python

``benchmarks/peers.py`` says how to make the other environment.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.peers import MODEL_ALIAS, Peers

SQL = "with input as (select llm_embed(:model, :text) as e) select length(e) as bytes from input"


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A Datasette with no database but its memory, for as long as the block runs."""

    def __init__(self, python: str, environment: dict[str, str], model: str) -> None:
        self.port = free_port()
        self.model = model
        self._process = subprocess.Popen(
            [python, "-m", "datasette", "serve", "--memory", "--port", str(self.port)],
            env=environment,
            # Not the current folder: from a checkout Python would find this plugin in it.
            cwd=tempfile.gettempdir(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Server:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError("the server did not start")
            time.sleep(0.005)

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait()

    def milliseconds(self, text: str) -> float:
        """Return how long one query takes; it must answer with a vector of 384 numbers."""
        query = {"sql": SQL, "model": self.model, "text": text, "_shape": "array"}
        url = f"http://127.0.0.1:{self.port}/_memory.json?{urllib.parse.urlencode(query)}"
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(url) as response:
                rows = json.loads(response.read())
        except urllib.error.HTTPError as error:
            rows = json.loads(error.read())
        taken = (time.perf_counter() - started) * 1000
        if rows != [{"bytes": 4 * 384}]:
            raise RuntimeError(f"wrong answer: {rows}")
        return taken


def measure(python: str, environment: dict[str, str], model: str, repeat: int) -> list[float]:
    """Return the medians in ms of a first embed, of new texts, and of a text seen before."""
    first, new, seen = [], [], []
    for _ in range(repeat):
        with Server(python, environment, model) as server:
            first.append(server.milliseconds("how do I find a needle in a haystack"))
            new += [server.milliseconds(f"a short question number {n}") for n in range(20)]
            seen += [server.milliseconds("a short question number 7") for _ in range(20)]
    return [statistics.median(values) for values in (first, new, seen)]


def main() -> None:
    """Run both, print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="Python with LLM installed")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(options.peers, Path(folder))
        ours = measure(sys.executable, dict(os.environ), "minilm", options.repeat)
        theirs = measure(options.peers, peers.environment, MODEL_ALIAS, options.repeat)
        print(describe(["datasette", "numpy", "onnxruntime", "tokenizers"]))
        print(f"peers    {peers.versions()}\n")
    print(f"{'tool':24}{'first':>12}{'new text':>12}{'seen text':>12}")
    for name, values in (("datasette-embed", ours), ("datasette-llm-embed", theirs)):
        print(f"{name:24}" + "".join(f"{value:>9.1f} ms" for value in values))
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    print(f"{'times as fast':24}" + "".join(f"{ratio:>12.1f}" for ratio in ratios))


if __name__ == "__main__":
    main()
