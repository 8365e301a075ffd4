"""``collections``: list, show, delete."""

from __future__ import annotations

import json

import pytest

from datasette_embed import database
from datasette_embed.cli import output
from tests.storage import embed, execute, make_docs, query, refused


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded; two texts are too long for the model."""
    counting_model.max_tokens = 4
    rows = [(1, "one two"), (2, "one two three"), (3, "one two three four")]
    path = make_docs(tmp_path / "a.db", rows)
    embed("create", path, "docs", "--model", "count")
    return path


def test_list_table_and_json(db):
    """One line a collection; JSON holds all that is known."""
    lines = embed("collections", "list", db).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["name", "entries", "dimensions", "model"],
        ["docs", "3", "8", "counting"],
    ]
    (found,) = json.loads(embed("collections", "list", db, "--json").stdout)
    assert found.pop("created_at")
    assert found == {
        "name": "docs",
        "entries": 3,
        "dimensions": 8,
        "model": "counting",
        "source": "table docs: body",
        "stores_text": False,
    }


def test_list_no_collections_says_how_to_make_one(tmp_path):
    """Data is empty, talk is on stderr, and what it says can be pasted."""
    path = make_docs(tmp_path / "a b.db", [])
    before = path.read_bytes()
    said = embed("collections", "list", path)
    assert said.stdout == ""
    assert said.stderr == (
        f"{path} has no collections. Make one: datasette embed create '{path}' TABLE\n"
    )
    assert json.loads(embed("collections", "list", path, "--json").stdout) == []
    assert path.read_bytes() == before


def test_list_damaged_source_still_lists(db):
    """One unreadable definition does not hide the collections."""
    execute(db, "update _embed_collections set source = 'damaged'")
    (found,) = json.loads(embed("collections", "list", db, "--json").stdout)
    assert found["source"].startswith("cannot be read")


def test_show_names_the_rows_that_lose_most(db):
    """Which rows to look at, the worst first."""
    said = embed("collections", "show", db, "docs", "-n", "1")
    assert "entries: 3" in said.stdout
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
    assert (found["entries"], found["dimensions"], found["source"]) == (3, 8, None)


def test_delete_removes_all_that_is_kept_for_it(db):
    """The vectors go, the rows of the table stay."""
    said = embed("collections", "delete", db, "docs", "-y")
    assert (said.stdout, said.stderr) == ("", "Deleted 'docs': 3 rows\n")
    tables = query(db, "select name from sqlite_master where type = 'table'")
    kept = {name for (name,) in tables if query(db, f"select 1 from {name}")}
    assert kept == {"docs", "_sqlite_migrations"}


def test_delete_asks_first(db, monkeypatch):
    """Without an answer nothing is deleted; without a terminal nobody is asked."""
    error = refused("collections", "delete", db, "docs", files=[db])
    assert error == (
        "collection 'docs': nothing was changed, for there is no terminal to ask on. With --yes "
        "it goes on without asking: Delete 'docs' and its 3 rows of vectors?"
    )
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    before = db.read_bytes()
    said = embed("collections", "delete", db, "docs", input="n\n", expect=1)
    assert "Delete 'docs' and its 3 rows of vectors?" in said.stderr
    assert db.read_bytes() == before
    embed("collections", "delete", db, "docs", input="y\n")
    assert query(db, "select * from collections") == []


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
