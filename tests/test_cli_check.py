"""``check``: problems on stdout, exit code 1 when there is one."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.storage import embed, execute, expected, make_docs, query, refused, stored


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded."""
    path = make_docs(tmp_path / "a.db", [(n, f"text {n}") for n in range(8)])
    embed("create", path, "docs", "--model", "count")
    return path


def test_check_sound_file_exit_code_0(db):
    """Nothing on stdout, the good news on stderr, no byte changed."""
    before = db.read_bytes()
    said = embed("check", db)
    assert (said.stdout, said.stderr) == ("", f"{db}: 1 collection(s), no problems\n")
    assert json.loads(embed("check", db, "--json").stdout) == []
    assert db.read_bytes() == before


def test_check_problems_listed_exit_code_1(db):
    """Where, how many, what, which."""
    execute(db, "update embeddings set embedding = null where id in ('1', '2')")
    before = db.read_bytes()
    said = embed("check", db, expect=1)
    assert said.stdout == "docs: 2 rows: no vector (NULL) (1, 2)\n"
    assert said.stderr == f"To mend vectors: datasette embed check --repair {db}\n"
    assert json.loads(embed("check", db, "--json", expect=1).stdout) == [
        {
            "collection": "docs",
            "message": "no vector (NULL)",
            "entries": 2,
            "examples": ["1", "2"],
        }
    ]
    assert db.read_bytes() == before


def test_check_file_without_collections_says_so(tmp_path):
    """Nothing to check is no problem; no file is one."""
    path = make_docs(tmp_path / "a.db", [])
    assert embed("check", path).stderr == f"{path} has no collections\n"
    gone = tmp_path / "gone.db"
    assert refused("check", gone) == f"{gone}: no such file"
    assert not gone.exists()


def test_check_repair_then_sync_embeds_again(db):
    """Marked, embedded by the next sync, and sound after it."""
    execute(db, "update embeddings set embedding = zeroblob(32) where id in ('1', '2')")
    said = embed("check", db, "--repair")
    assert said.stderr == (
        f"docs: 2 rows marked. To embed them again: datasette embed sync {db} docs\n"
    )
    assert "2 to embed" in embed("sync", db).stderr
    assert stored(db) == expected([(n, f"text {n}") for n in range(8)])
    assert "no problems" in embed("check", db, "--repair").stderr


def test_check_repair_without_source_says_where_to_go(db):
    """What another tool made cannot be made again from here."""
    execute(
        db,
        "update embeddings set embedding = null where id = '1'",
        "update _embed_collections set source = null",
    )
    said = embed("check", db, "--repair", expect=1)
    assert said.stderr == "docs: embed these again with the tool that made them\n"


def test_check_each_problem_names_what_to_run(db):
    """The last lines say what helps, ready to be pasted."""
    execute(
        db,
        "insert into embeddings (collection_id, id, embedding) values (77, 'x', x'0000803f')",
        "update collections set model = 'gone'",
        "update _embed_collections set model = 'gone'",
        "alter table docs rename to renamed",
    )
    said = embed("check", db, expect=1)
    lines = said.stderr.splitlines()
    assert (
        "To add its model: datasette embed models register --id gone PROVIDER NAME,"
        " or install the plugin that has it" in lines
    )
    assert (
        "docs: bring its rows back, or delete its vectors: "
        f"datasette embed collections delete {db} docs" in lines
    )
    (delete,) = [line for line in lines if line.startswith("To delete them: sqlite3 ")]
    execute(db, shlex.split(delete)[-1])
    assert query(db, "select count(*) from embeddings") == [(8,)]


@pytest.mark.parametrize(
    ("model_id", "command"),
    [
        ("onnx/intfloat/e5", "onnx intfloat/e5"),
        ("sentence-transformers/a/b", "sentence-transformers a/b"),
        ("ollama/nomic-embed-text", "ollama nomic-embed-text"),
        # The name of a folder, of which the id does not say where it is.
        ("onnx/mine", "--id onnx/mine onnx NAME"),
        ("langchain/Chain", "--id langchain/Chain langchain NAME"),
        (
            "somebody/embedding 1",
            "--id 'somebody/embedding 1' PROVIDER NAME, or install the plugin that has it",
        ),
        # Never OpenAI's own service in place of somebody's server.
        ("openai/toy", "openai toy -o base_url URL"),
    ],
)
def test_check_model_that_was_removed_names_its_own_provider(db, model_id, command):
    """As far as its id tells, and never another one's."""
    execute(db, f"update _embed_collections set model = '{model_id}'")
    execute(db, f"update collections set model = '{model_id}'")
    said = embed("check", db, expect=1)
    assert f"To add its model: datasette embed models register {command}\n" in said.stderr
    assert f"Unknown model: {model_id}. Known models: " in refused("search", db, "docs", "x")


def test_check_other_version_of_the_model_names_sync(db, counting_model):
    """Vectors of two versions cannot be compared."""
    counting_model.revision = "2"
    said = embed("check", db, expect=1)
    assert f"To embed it again: datasette embed sync {db} docs" in said.stderr
    error = refused("search", db, "docs", "x", files=[db])
    assert "was embedded with another version of its model" in error


def test_check_foreign_tables_refused(tmp_path):
    """Somebody else's tables are not ours to judge."""
    path = make_docs(tmp_path / "a.db", [])
    execute(path, "create table embeddings (x)")
    assert "already has a table named 'embeddings'" in refused("check", path, files=[path])
