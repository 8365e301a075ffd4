"""What a benchmark ran on: the processor, and the versions that matter.

Imports nothing but the standard library, so that a worker in any environment can use it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
from collections.abc import Iterable
from pathlib import Path


def processor() -> str:
    """Return the name of the processor and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return f"{name}, {cores} cores"


def version(package: str) -> str:
    """Return the version of an installed package, or ``not installed``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe(packages: Iterable[str] = ()) -> str:
    """Return the lines a benchmark prints first: machine, Python, SQLite, packages."""
    lines = [
        f"machine  {processor()}, {platform.system()}",
        f"python   {platform.python_version()}, sqlite3 with SQLite {sqlite3.sqlite_version}",
    ]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return "\n".join([*lines, f"packages {versions}"] if versions else lines)


if __name__ == "__main__":
    print(describe(["datasette-embed", "datasette", "numpy", "numkong", "onnxruntime"]))
