"""Layers: a module imports only lower ones, and importing the package loads little."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "datasette_embed"
#: First part of a module's path inside the package -> its layer.
LAYERS = {
    "amounts": 0,
    "errors": 0,
    "kernels": 0,
    "presets": 0,
    "redaction": 0,
    "rollbacks": 0,
    "batch_sizes": 1,
    "compat": 1,
    "database": 1,
    "entry_id_parts": 1,
    "executor": 1,
    "hookspecs": 1,
    "image_pixels": 1,
    "image_types": 1,
    "keys": 1,
    "prompts": 1,
    "schema_sql": 1,
    "settings_values": 1,
    "stdlib_rows": 1,
    "strict_json": 1,
    "threads": 1,
    "user_files": 1,
    "vectors": 1,
    "encoding": 2,
    "model_entries": 2,
    "workers": 2,
    "calls_in_flight": 2,
    "chunkers": 2,
    "models": 2,
    "image_values": 2,
    "input_files": 2,
    "schema": 2,
    "watch_triggers": 3,
    "settings": 3,
    "lasting_writes": 2,
    "indexes": 3,
    "job_rows": 3,
    "llm_files": 3,
    "model_calls": 3,
    "model_checks": 4,
    "models_file": 4,
    "providers": 3,
    "records": 3,
    "signing": 4,
    "entries": 4,
    "input_rows": 4,
    "source_specs": 4,
    "registry": 5,
    "model_names": 6,
    "query_embeddings": 5,
    "store": 5,
    "failure_records": 6,
    "heartbeat": 7,
    "holdings": 6,
    "job_records": 6,
    "missing": 6,
    "watches": 6,
    "image_rows": 6,
    "searching": 6,
    "batches": 7,
    "budgets": 7,
    "chosen_rows": 7,
    "entry_writer": 7,
    "exchange": 8,
    "inputs": 7,
    "explore": 7,
    "sources": 7,
    "visibility": 7,
    "access": 8,
    "collection": 8,
    "collection_setup": 8,
    "health": 8,
    "jobs": 8,
    "opened_sources": 8,
    "planning": 8,
    "changed_rows": 8,
    "watching": 8,
    "adapters": 9,
    "draining": 9,
    "one_entry": 9,
    "runs": 9,
    "server": 9,
    "sql_vectors": 9,
    "runner": 10,
    "cli": 11,
    "sql_functions": 11,
    "web": 11,
    "plugin": 12,
    "sqlite_utils_plugin": 12,
    "": 13,  # the package itself
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """Return the first part of a module's path inside the package."""
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if inside == ("__init__",) else inside[0]


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Return (line, part of the package) of each import of ours, function-level included."""
    folder = ("datasette_embed", *path.relative_to(PACKAGE).parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = list(folder[: len(folder) - node.level + 1]) if node.level else []
            start += node.module.split(".") if node.module else []
            # "from . import x" names a module, "from .x import y" is inside one.
            names = [[*start, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "datasette_embed":
                found.append((node.lineno, name[1] if len(name) > 1 else ""))
    return found


def find_violations(path: Path) -> list[str]:
    part = part_of(path)
    return [
        f"{path.name}:{line} ({part}, layer {LAYERS[part]}) imports {other or 'the package'}"
        f" (layer {LAYERS.get(other, 'unknown')})"
        for line, other in imports_of(path)
        if other != part and LAYERS.get(other, 99) >= LAYERS[part]
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_imports_only_lower_layers(path):
    """A module belongs to a layer and looks down only."""
    assert part_of(path) in LAYERS, "give this module a layer"
    assert find_violations(path) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_docstring_says_its_own_layer(path):
    """Where it says one at all; inside a folder the folder's docstring may do."""
    said = re.search(r"[Ll]ayer (\d+)", ast.get_docstring(ast.parse(path.read_text("utf-8"))))
    assert said is None or int(said.group(1)) == LAYERS[part_of(path)]


def test_find_violations_sees_every_way_of_importing(tmp_path, monkeypatch):
    """The check itself can fail: upward, sideways, in a function, absolute, whole package."""
    module = tmp_path / "store.py"
    module.write_text(
        "import datasette_embed.jobs\n"
        "from datasette_embed.jobs import x\n"
        "from . import query_embeddings, errors\n"
        "from .models import Kind\n"
        "def f():\n"
        "    from .web.page import y\n"
        "    import datasette_embed\n"
        "    from .new import z\n",
        "utf-8",
    )
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    lines = sorted(int(found.split(":")[1].split(" ")[0]) for found in find_violations(module))
    assert lines == [1, 2, 3, 6, 7, 8]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_and_functions_within_budget(path):
    """At most 400 lines a module and 50 a function; over that, split by concept."""
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 50, node.name


def test_hooks_are_at_most_five_lines():
    """A hook calls the rest; its docstring is not counted."""
    tree = ast.parse((PACKAGE / "plugin.py").read_text("utf-8"))
    hooks = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert hooks
    for hook in hooks:
        body = hook.body[1:]
        assert body[-1].end_lineno - body[0].lineno + 1 <= 5, hook.name


def test_import_package_loads_nothing_heavy():
    """Importing the package must cost next to nothing."""
    script = "import datasette_embed, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = json.loads(done.stdout)
    heavy = {"numpy", "onnxruntime", "openai", "torch", "sqlite_utils", "tokenizers", "simsimd"}
    assert heavy & set(loaded) == set()
    ours = [name for name in loaded if name.startswith("datasette_embed")]
    assert ours == ["datasette_embed", "datasette_embed.hookspecs", "datasette_embed.plugin"]
