"""The demo's rows: Python's own library, read and never run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from datasette_embed import stdlib_rows
from datasette_embed.stdlib_rows import StdlibRow, iter_stdlib_rows

SCRIPT = """
import json, sys
from datasette_embed.stdlib_rows import iter_stdlib_rows
before = set(sys.modules)
rows = list(iter_stdlib_rows())
print(json.dumps([rows, sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def found():
    """The rows of this Python, and the modules that reading them imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, check=True
    )
    rows, imported = json.loads(done.stdout)
    return [StdlibRow(*row) for row in rows], imported


def test_iter_stdlib_rows_this_python_thousands_with_unique_ids(found):
    """There is enough to search, and every row can be named."""
    rows, _ = found
    assert len(rows) > 3_000
    assert len({row.id for row in rows}) == len(rows)
    assert all(row.doc.strip() and row.summary and row.signature for row in rows)
    assert {row.kind for row in rows} == {"class", "function", "method"}


def test_iter_stdlib_rows_imports_nothing_of_what_it_reads(found):
    """Reading turtle or antigravity does not run them."""
    rows, imported = found
    assert not {name.partition(".")[0] for name in imported} & {"turtle", "antigravity", "this"}
    assert not set(imported) & {row.module for row in rows} - {"ast", "contextlib"}


def test_iter_stdlib_rows_known_function_described(found):
    """A function that every Python has is there as one would look it up."""
    row = next(row for row in found[0] if row.id == "shutil.rmtree")
    assert (row.module, row.name, row.kind) == ("shutil", "rmtree", "function")
    assert row.signature.startswith("rmtree(path, ignore_errors=False")
    assert row.summary == "Recursively delete a directory tree."


def test_iter_stdlib_rows_private_and_tests_left_out(found):
    """What a user never calls is no answer."""
    for row in found[0]:
        parts = row.id.split(".")
        assert not any(part.startswith("_") for part in parts), row.id
        assert parts[0] not in {"test", "idlelib", "lib2to3"}, row.id


def test_iter_stdlib_rows_odd_sources_skipped(tmp_path, monkeypatch):
    """A file that cannot be parsed costs itself; both branches of an if are read once."""
    (tmp_path / "broken.py").write_text("def f(:\n", "utf-8")
    (tmp_path / "nul.py").write_bytes(b"x = 1\0")
    (tmp_path / "_private.py").write_text('def f():\n    "Doc."\n', "utf-8")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text(
        '''
import sys
if sys.platform == "win32":
    def where(a, *, b=1):
        """where(a) -> text

        Say where.
        """
else:
    def where(a):
        """Another."""
def undocumented():
    pass
async def later():
    """Wait.
    A second line."""
class Thing(dict, metaclass=type):
    """A thing."""
    def _hidden(self):
        """Hidden."""
    def use(self):
        """Use it."""
''',
        "utf-8",
    )
    monkeypatch.setattr(stdlib_rows.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    rows = {row.id: row for row in iter_stdlib_rows()}
    assert list(rows) == ["package.where", "package.later", "package.Thing", "package.Thing.use"]
    assert rows["package.where"].signature == "where(a, *, b=1)"
    assert rows["package.where"].summary == "Say where."
    assert rows["package.later"].summary == "Wait. A second line."
    assert rows["package.Thing"].signature == "class Thing(dict)"
    assert [row.kind for row in rows.values()] == ["function", "function", "class", "method"]


def test_iter_stdlib_rows_no_sources_nothing(tmp_path, monkeypatch):
    """A Python without the sources of its library has no rows."""
    monkeypatch.setattr(stdlib_rows.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert list(iter_stdlib_rows()) == []
