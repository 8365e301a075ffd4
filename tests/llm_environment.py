"""Virtual environments with the real LLM and the model ``demo``, and nothing of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What LLM calls its plugin: the model of ``demo_model.py`` with LLM's base class.
PLUGIN = """
import llm
from demo_model import Demo


class DemoModel(Demo, llm.EmbeddingModel):
    pass


@llm.hookimpl
def register_embedding_models(register):
    register(DemoModel(), aliases=("dm",))
"""


@dataclass
class Llm:
    """One version of LLM.

    Attributes:
        version: which.
        folder: its virtual environment.
        user: the folder of its keys and databases.
    """

    version: str
    folder: Path
    user: Path

    def __str__(self) -> str:
        return self.version

    def _run(self, command: list[str], cwd: Path | None = None) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["LLM_USER_PATH"] = str(self.user)
        done = subprocess.run(
            command,
            cwd=cwd or self.user,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{self.version}: {done.stderr}"
        return done.stdout

    def run(self, *arguments: str | Path) -> str:
        """Run an ``llm`` command; return its stdout."""
        return self._run([str(self.folder / "bin" / "llm"), *map(str, arguments)])

    def python(self, code: str, *arguments: str | Path) -> str:
        """Run Python code in the environment; return its stdout."""
        return self._run([str(self.folder / "bin" / "python"), "-c", code, *map(str, arguments)])

    def embed(self, path: Path, collection: str, entry_id: str, content: str, *options: str):
        """Run ``llm embed`` with the model ``demo``."""
        self.run("embed", collection, entry_id, "-m", "dm", "-c", content, "-d", path, *options)

    def multi(self, path: Path, collection: str, rows: dict[str, str], *options: str) -> None:
        """Run ``llm embed-multi`` with the model ``demo``."""
        file = self.user / "rows.json"
        file.write_text(json.dumps([{"id": k, "text": v} for k, v in rows.items()]), "utf-8")
        self.run("embed-multi", collection, file, "-m", "dm", "-d", path, *options)

    def similar(self, path: Path, collection: str, *options: str) -> list[tuple[str, float]]:
        """Return what ``llm similar`` finds, as (id, score)."""
        lines = self.run("similar", collection, "-d", path, *options).splitlines()
        return [(found["id"], found["score"]) for found in map(json.loads, lines)]

    def collections(self, path: Path) -> dict[str, Any]:
        """Return what ``llm collections list`` shows: name -> number of entries."""
        listed = json.loads(self.run("collections", "list", "--json", "-d", path))
        return {found["name"]: found["num_embeddings"] for found in listed}


def make_llm(folder: Path, version: str, *requirements: str) -> Llm:
    """Make a virtual environment with this LLM and the model ``demo``."""
    venv.create(folder, with_pip=True)
    done = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "-q", f"llm=={version}", *requirements],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    packages = next(folder.glob("lib/python*/site-packages"))
    shutil.copy(Path(__file__).with_name("demo_model.py"), packages)
    (packages / "llm_demo.py").write_text(PLUGIN, "utf-8")
    metadata = packages / "llm_demo-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-demo\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[llm]\ndemo = llm_demo\n")
    user = folder / "user"
    user.mkdir()
    return Llm(version, folder, user)
