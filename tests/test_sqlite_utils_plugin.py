"""The sqlite-utils plugin, with the real command and ``Database``; ``register`` in scripts."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlite_utils
from sqlite_utils.plugins import get_plugins

import datasette_embed
from datasette_embed.registry import Registry
from datasette_embed.sql_functions import PAGE_CACHE_SIZE, SQLITE_CACHE_SIZE
from tests.fakes import CountingModel
from tests.storage import blob_of, execute

# sqlite-utils and Datasette have sqlite3 print what a function raises.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

COMMAND = Path(sys.executable).with_name("sqlite-utils")
NEAREST = """
with input as (select llm_embed('minilm', :q) as e)
select body, llm_embed_cosine(llm_embed('minilm', body, 'document'), e) as score
from docs, input order by score desc
"""


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def run_python(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A file with three texts."""
    path = tmp_path / "docs.db"
    execute(
        path,
        "create table docs (id integer primary key, body text)",
        "insert into docs (body) values ('The price of wheat fell'), ('A kitten asleep'), (null)",
    )
    return path


def test_query_with_bundled_model_orders_by_meaning(docs):
    """``sqlite-utils query`` embeds, compares and sorts what has no vector last."""
    done = run("query", docs, NEAREST, "-p", "q", "a young cat", cwd=docs.parent)
    rows = json.loads(done.stdout)
    assert [row["body"] for row in rows] == ["A kitten asleep", "The price of wheat fell", None]
    assert rows[0]["score"] > 0.4 > rows[1]["score"]
    assert rows[2]["score"] is None


def test_memory_command_has_vector_functions(tmp_path):
    """The functions are in the other commands too, here over a CSV file."""
    (tmp_path / "v.csv").write_text('id,vector\na,"[3, 4]"\nb,"[4, 3]"\n', "utf-8")
    sql = (
        "select a.id, llm_embed_cosine(a.vector, b.vector) as score from v a, v b where a.id < b.id"
    )
    done = run("memory", "v.csv", sql, cwd=tmp_path)
    [row] = json.loads(done.stdout)
    assert row["id"] == "a"
    assert math.isclose(row["score"], 24 / 25, rel_tol=1e-6)


def test_unknown_model_is_an_error_that_names_it(docs):
    """sqlite-utils has sqlite3 print what a function raised, and exits with 1."""
    done = run("query", docs, "select llm_embed('nope', 'a')", cwd=docs.parent)
    assert done.returncode == 1
    assert done.stdout.strip() in ("", "[")
    assert "Unknown model: nope. Known models: sentence-transformers/all-MiniLM" in done.stderr


def test_plugin_is_installed_under_its_name():
    """The entry point is there, and the module has the one hook."""
    plugins = {plugin["name"]: plugin for plugin in get_plugins()}
    assert plugins["datasette-embed"]["hooks"] == ["prepare_connection"]


def test_database_without_plugins_has_no_functions():
    """Who asks for no plugins gets none."""
    with closing(sqlite_utils.Database(memory=True, execute_plugins=False).conn) as conn:
        with pytest.raises(sqlite3.OperationalError, match="no such function: llm_embed_cosine"):
            conn.execute("select llm_embed_cosine('[1]', '[1]')")


def test_database_on_connection_of_datasette_keeps_its_functions():
    """Models and limits stay those of the connection, not those of a script."""
    registry = Registry()
    registry.register(CountingModel(), ["count"])
    with closing(sqlite3.connect(":memory:")) as conn:
        datasette_embed.register(conn, registry=registry)
        sqlite_utils.Database(conn)
        found = conn.execute("select llm_embed('count', 'a', 'document')").fetchone()[0]
        assert found == blob_of("a")
        with pytest.raises(sqlite3.OperationalError, match="user-defined function raised"):
            conn.execute("select llm_embed('minilm', 'a')").fetchone()


def test_database_leaves_page_cache_and_transaction_alone(docs):
    """A plugin of every Database adds functions and changes nothing else."""
    with closing(sqlite3.connect(docs)) as conn:
        sqlite_utils.Database(conn)
        assert not conn.in_transaction
        assert conn.execute("pragma cache_size").fetchone() == (SQLITE_CACHE_SIZE,)
        datasette_embed.register(conn)
        assert conn.execute("pragma cache_size").fetchone() == (PAGE_CACHE_SIZE,)


def test_database_of_locked_file_does_not_wait(docs):
    """Opening reads nothing, so that somebody else's exclusive lock is no matter."""
    with closing(sqlite3.connect(docs, isolation_level=None)) as other:
        other.execute("begin exclusive")
        with closing(sqlite3.connect(docs, timeout=0)) as conn:
            sqlite_utils.Database(conn)
            assert conn.execute("select llm_embed_dimensions('[1, 2]')").fetchone() == (2,)
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                conn.execute("select * from docs")


def test_plugin_import_loads_nothing_of_ours_but_itself(tmp_path):
    """What every sqlite-utils command pays: no functions, models or kernels."""
    code = """
import json, sqlite_utils, sys
import datasette_embed.sqlite_utils_plugin
print(json.dumps(sorted(sys.modules)))
"""
    loaded = json.loads(run_python(code, tmp_path))
    assert [name for name in loaded if name.startswith("datasette_embed")] == [
        "datasette_embed",
        "datasette_embed.hookspecs",
        "datasette_embed.plugin",
        "datasette_embed.sqlite_utils_plugin",
    ]
    # Not numpy, which sqlite-utils imports by itself where it is installed.
    assert not {"numkong", "onnxruntime", "openai", "tokenizers", "torch"} & set(loaded)


def test_database_needs_no_numpy_until_a_function_does(tmp_path):
    """A Database is made without numpy; a function that needs it would say so."""
    code = """
import sys
sys.modules["numpy"] = None
import sqlite_utils
db = sqlite_utils.Database(memory=True)
print(db.execute("select llm_embed_dimensions(null) is null").fetchone()[0])
print(sorted({"numkong", "onnxruntime", "openai", "datasette.app"} & set(sys.modules)))
"""
    assert run_python(code, tmp_path).split("\n")[:2] == ["1", "[]"]


def test_register_on_plain_connection_with_row_factory():
    """Rows keep the shape their owner asked for."""
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.row_factory = sqlite3.Row
        datasette_embed.register(conn)
        row = conn.execute("select llm_embed_dot('[1, 2]', '[3, 4]') as product").fetchone()
        assert dict(row) == {"product": 11.0}
        sqlite_utils.Database(conn)
        assert conn.row_factory is sqlite3.Row


def test_register_in_threads_each_connection_answers(counting_model):
    """Connections of several threads share the models of the process and nothing else."""
    texts = [f"text {number}" for number in range(40)]

    def embed(text: str) -> bytes:
        with closing(sqlite3.connect(":memory:")) as conn:
            sqlite_utils.Database(conn)
            sql = "select llm_embed('count', ?, 'document')"
            return conn.execute(sql, (text,)).fetchone()[0]

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(embed, texts)) == [blob_of(text) for text in texts]
    assert sorted(items[0] for items in counting_model.calls) == sorted(texts)
