"""``collections``: list, path, show, rename, delete."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from datasette_embed import database
from datasette_embed.cli import collections, output
from tests.storage import embed, execute, make_docs, query, refused


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded; two texts are too long for the model."""
    counting_model.max_tokens = 4
    rows = [(1, "one two"), (2, "one two three"), (3, "one two three four")]
    path = make_docs(tmp_path / "a.db", rows)
    embed("create", path, "docs", "--model", "count")
    return path


def test_list_is_llms_text_and_json(db):
    """LLM's lines; JSON has LLM's keys first and all else that is known."""
    expected = "docs: counting\n  3 embeddings\n"
    for arguments in (["list", db], [db], ["list", "-d", db], ["-d", db]):
        said = embed("collections", *arguments)
        assert (said.stdout, said.stderr) == (expected, "")
    (found,) = json.loads(embed("collections", "list", db, "--json").stdout)
    assert list(found)[:3] == ["name", "model", "num_embeddings"]
    assert found.pop("created_at")
    assert found == {
        "name": "docs",
        "model": "counting",
        "num_embeddings": 3,
        "dimensions": 8,
        "source": "table docs: body",
        "stores_text": False,
    }
    execute(db, "delete from embeddings where id != '1'")
    assert embed("collections", "list", db).stdout == "docs: counting\n  1 embedding\n"


def test_list_no_tables_says_how_to_make_one(tmp_path):
    """LLM's words and exit code; the file stays as it is, and what it says can be pasted."""
    path = make_docs(tmp_path / "a b.db", [])
    for option in ([], ["--json"]):
        assert refused("collections", "list", path, *option, files=[path]) == (
            f"No collections table found in {path}. "
            f"Make a collection: datasette embed create '{path}' TABLE"
        )


def test_list_no_collections_is_empty(db):
    """The tables are there: that is no error."""
    execute(db, "delete from collections")
    said = embed("collections", "list", db)
    assert said.stdout == ""
    assert said.stderr == (
        f"{db} has no collections. Make one: datasette embed create {db} TABLE\n"
    )
    assert json.loads(embed("collections", "list", db, "--json").stdout) == []


def test_path_is_the_database_nobody_names(tmp_path, monkeypatch):
    """LLM's, unless the environment names another; asking makes nothing."""
    path = tmp_path / "llm" / "embeddings.db"
    assert embed("collections", "path").stdout == f"{path}\n"
    assert refused("collections").startswith(f"{path}: no such file. It is the database of")
    assert not path.parent.exists()
    monkeypatch.setenv("LLM_EMBEDDINGS_DB", "other.db")
    assert embed("collections", "path").stdout == "other.db\n"


def test_collections_in_llms_database_need_no_name(db, tmp_path, monkeypatch):
    """As LLM's own commands, and with the variable too."""
    (tmp_path / "llm").mkdir()
    db.rename(tmp_path / "llm" / "embeddings.db")
    assert embed("collections").stdout.startswith("docs: counting")
    monkeypatch.setenv("LLM_EMBEDDINGS_DB", str(tmp_path / "llm" / "embeddings.db"))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "elsewhere"))
    assert "model: counting" in embed("collections", "show", "docs").stdout
    embed("collections", "rename", "docs", "texts")
    embed("collections", "delete", "texts")
    assert embed("collections", "list").stdout == ""


def test_list_damaged_source_still_lists(db):
    """One unreadable definition does not hide the collections."""
    execute(db, "update _embed_collections set source = 'damaged'")
    (found,) = json.loads(embed("collections", "list", db, "--json").stdout)
    assert found["source"].startswith("cannot be read")


def test_show_names_the_rows_that_lose_most(db):
    """Which rows to look at, the worst first."""
    said = embed("collections", "show", db, "docs", "-n", "1")
    assert "num_embeddings: 3" in said.stdout
    assert "2 rows longer than the model reads: only their beginning counts" in said.stdout
    assert said.stdout.splitlines()[-1].split() == ["6", "2", "3"]
    assert "… and 1 more: -n 2" in said.stderr
    found = json.loads(embed("collections", "show", db, "docs", "--json").stdout)
    assert found["warnings"] == {
        "truncated": {
            "count": 2,
            "entries": [
                {"id": "3", "tokens": 6, "tokens_lost": 2},
                {"id": "2", "tokens": 5, "tokens_lost": 1},
            ],
        }
    }
    assert found["unfinished_job"] is None


def test_show_unfinished_job_is_named(db):
    """A paused job is said on stderr."""
    execute(db, "update _embed_jobs set status = 'paused'")
    said = embed("collections", "show", db, "docs")
    assert f"Job 1 is paused: datasette embed jobs show {db} 1" in said.stderr
    found = json.loads(embed("collections", "show", db, "docs", "--json").stdout)
    assert found["unfinished_job"] == {"id": 1, "status": "paused"}


def test_show_warning_of_a_later_version_is_passed_over(db):
    """A kind of warning that this version does not know is no crash."""
    execute(db, "insert into _embed_warnings values (1, '1', 'haunted', 1, 1)")
    found = json.loads(embed("collections", "show", db, "docs", "--json").stdout)
    assert list(found["warnings"]) == ["truncated"]


def test_show_file_of_llm_shows_what_is_known(db):
    """Without our tables the columns of LLM answer."""
    for (name,) in query(
        db,
        "select name from sqlite_master where type = 'table' and name like '#_embed#_%' escape '#'",
    ):
        execute(db, f"drop table {name}")
    found = json.loads(embed("collections", "show", db, "docs", "--json").stdout)
    assert (found["num_embeddings"], found["dimensions"], found["source"]) == (3, 8, None)


def test_delete_removes_all_that_is_kept_for_it(db):
    """The vectors go, the rows of the table stay, and which job numbers were given."""
    said = embed("collections", "delete", db, "docs", "-y")
    assert (said.stdout, said.stderr) == ("", "Deleted 'docs': 3 rows\n")
    tables = query(db, "select name from sqlite_master where type = 'table'")
    kept = {name for (name,) in tables if query(db, f"select 1 from {name}")}
    assert kept == {"docs", "_sqlite_migrations", "sqlite_sequence"}


def test_delete_asks_first(db, monkeypatch):
    """On a terminal: without an answer nothing is deleted."""
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(collections, "is_terminal", lambda: True)
    before = db.read_bytes()
    said = embed("collections", "delete", db, "docs", input="n\n", expect=1)
    assert "Delete 'docs' and its 3 rows of vectors?" in said.stderr
    assert db.read_bytes() == before
    embed("collections", "delete", db, "docs", input="y\n")
    assert query(db, "select * from collections") == []


def test_delete_without_a_terminal_deletes(db):
    """As the scripts expect that were written for LLM."""
    said = embed("collections", "delete", "docs", "-d", db)
    assert said.stderr == "Deleted 'docs': 3 rows\n"
    assert query(db, "select * from embeddings") == []


@pytest.mark.parametrize("stdin", ["<&-", "</dev/null"])
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_delete_stdin_closed_or_empty_no_traceback(db, stdin):
    """Under a timer there is nobody to ask."""
    script = "from datasette.cli import cli; cli()"
    command = shlex.join([sys.executable, "-c", script, "embed", "collections", "delete"])
    command += f" {shlex.quote(str(db))} docs {stdin}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "Deleted 'docs': 3 rows\n"
    assert query(db, "select * from embeddings") == []


def test_delete_yes_does_not_ask(db, monkeypatch):
    """On a terminal neither."""
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(collections, "is_terminal", lambda: True)
    assert embed("collections", "delete", db, "docs", "-y").stderr == "Deleted 'docs': 3 rows\n"


def test_rename_everything_follows(db, counting_model):
    """Its rows, its warnings, its jobs and its source stay with it; no model is called."""
    counting_model.calls.clear()
    before = query(db, "select * from embeddings")
    triggers = query(db, "select name, sql from sqlite_master where type = 'trigger'")
    said = embed("collections", "rename", db, "docs", "my texts")
    assert (said.stdout, said.stderr) == ("", "Renamed 'docs' to 'my texts'\n")
    assert query(db, "select * from embeddings") == before
    assert query(db, "select name, sql from sqlite_master where type = 'trigger'") == triggers
    assert query(db, "select collection from _embed_jobs") == [("my texts",)]
    found = json.loads(embed("collections", "show", db, "my texts", "--json").stdout)
    assert (found["source"], found["dimensions"]) == ("table docs: body", 8)
    assert found["warnings"]["truncated"]["count"] == 2
    assert "3 rows: 0 to embed, 3 up to date" in embed("sync", db).stderr
    assert counting_model.calls == []


def test_rename_collection_of_another_tool(db):
    """A file without our tables gets none."""
    for (name,) in query(db, "select name from sqlite_master where type = 'trigger'"):
        execute(db, f"drop trigger {name}")
    ours = "select name from sqlite_master where type = 'table' and name glob '_embed*'"
    for (name,) in query(db, ours):
        execute(db, f"drop table {name}")
    embed("collections", "rename", db, "docs", "texts")
    assert query(db, "select name from collections") == [("texts",)]
    assert query(db, ours) == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("docs", "docs"), "collection 'docs': is there already: choose another name"),
        (("docs", "other"), "collection 'other': is there already: choose another name"),
        (("docs", " "), "the new name: is blank"),
        (("nope", "x"), "Collection 'nope' does not exist. Collections in this file: docs, other"),
    ],
)
def test_rename_refused_nothing_changed(db, names, words):
    """Names that are taken, blank or unknown."""
    execute(db, "insert into collections (name, model) values ('other', 'counting')")
    assert refused("collections", "rename", db, *names, files=[db]) == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show",), "Missing argument 'NAME'."),
        (("rename", "a"), "Missing argument 'NEW'."),
        (("rename", "a", "b", "c", "d"), "Got unexpected extra arguments (c d)"),
        (("delete", "a", "b", "-d", "x.db"), "Got unexpected extra argument (b)"),
        (("show", "a", "-d", " "), "Invalid value for '-d' / '--database': is empty"),
    ],
)
def test_collections_wrong_number_of_arguments_exit_code_2(arguments, words):
    """In click's words."""
    assert words in refused("collections", *arguments, code=2)


def test_collections_bad_input_one_line(db, tmp_path, monkeypatch):
    """Unknown names list the known ones; what cannot be written says so."""
    for command in (("show",), ("delete", "-y")):
        error = refused("collections", *command, db, "nope", files=[db])
        assert error == "Collection 'nope' does not exist. Collections in this file: docs"
    gone = tmp_path / "gone.db"
    for command in (("list", gone), ("show", gone, "x"), ("delete", gone, "x")):
        assert refused("collections", *command) == f"{gone}: no such file"
    assert not gone.exists()
    refused("collections", "show", db, "docs", "-n", "0", code=2)
    connect = database._connect
    monkeypatch.setattr(
        database, "_connect", lambda path, options: connect(path, options.replace("=rw", "=ro"))
    )
    assert "is read-only" in refused("collections", "delete", db, "docs", "-y", files=[db])


def test_collections_foreign_tables_refused(tmp_path):
    """Somebody else's tables are not taken for a file without collections."""
    path = make_docs(tmp_path / "a.db", [])
    execute(path, "create table collections (id, title)", "create table embeddings (x)")
    for command in (("list",), ("show", "x"), ("delete", "x", "-y")):
        name, *rest = command
        error = refused("collections", name, path, *rest, files=[path])
        assert "already has a table named 'collections' of its own" in error


def test_show_id_with_escape_sequence_is_written_out(db):
    """What a file says cannot send the terminal a command, or forge a line."""
    execute(
        db,
        "update _embed_warnings set entry_id = char(27) || '[2J' || char(10) || 'x'"
        " where entry_id = '2'",
    )
    said = embed("collections", "show", db, "docs")
    assert "\x1b" not in said.stdout
    assert said.stdout.splitlines()[-1].endswith("\\x1b[2J x")
