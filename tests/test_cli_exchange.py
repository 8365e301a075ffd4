"""``collections export`` and ``collections import``: the words, the pipes and the options."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time

import pytest

from datasette_embed.cli import exchange
from datasette_embed.database import sqlite3
from tests.storage import embed, execute, make_docs, query, refused, stored

ROWS = [(1, "one"), (2, "two words"), (3, "three")]


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded, with the texts stored."""
    path = make_docs(tmp_path / "a.db", ROWS)
    embed("create", path, "docs", "--model", "count", "--store")
    return path


def lines_of(text: str) -> list[str]:
    """Return what was said, without the label of the progress bar."""
    return [line for line in text.splitlines() if line not in ("Exporting", "Importing")]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "npy"])
def test_export_import_words_and_vectors(db, tmp_path, suffix):
    """Both say what they did, and the copy can be searched at once."""
    file, other = tmp_path / f"docs.{suffix}", tmp_path / "b.db"
    said = embed("collections", "export", db, "docs", file)
    assert said.stdout == ""
    assert lines_of(said.stderr) == [f"Exported 3 rows of 'docs' to {file}"]
    said = embed("collections", "import", other, "copy", file)
    assert said.stdout == ""
    assert lines_of(said.stderr) == [
        "Imported 3 rows into 'copy'",
        f"Search it: datasette embed search {other} copy 'some words'",
    ]
    assert stored(other, "copy") == stored(db)
    assert query(other, "select name, model from collections") == [("copy", "counting")]
    assert embed("search", other, "copy", "one", "--json").stdout.count('"id"') == 3
    said = embed("collections", "import", other, "copy", file)
    assert lines_of(said.stderr)[0] == "Imported 0 rows into 'copy'; 3 were there already"


def test_import_then_create_embeds_nothing(db, tmp_path, counting_model):
    """The hash travels with the vector: the same rows cost nothing in the other file."""
    file = tmp_path / "docs.jsonl"
    embed("collections", "export", db, "docs", file)
    other = make_docs(tmp_path / "b.db", ROWS)
    embed("collections", "import", other, "docs", file)
    counting_model.calls.clear()
    said = embed("create", other, "docs", "--model", "count")
    assert "0 to embed, 3 up to date" in said.stderr
    assert counting_model.calls == []


def test_export_import_through_pipes(db, tmp_path):
    """``-`` is standard output and input; JSON Lines unless --format says CSV."""
    said = embed("collections", "export", db, "docs", "-")
    assert [json.loads(line)["id"] for line in said.stdout.splitlines()] == ["1", "2", "3"]
    assert said.stderr == "Exported 3 rows of 'docs'\n"
    embed("collections", "import", tmp_path / "b.db", "docs", "-", input=said.stdout)
    assert stored(tmp_path / "b.db") == stored(db)
    said = embed("collections", "export", db, "docs", "-", "--format", "csv")
    assert said.stdout.startswith("id,embedding,content,metadata,content_hash,model,")
    embed(
        "collections",
        "import",
        tmp_path / "c.db",
        "docs",
        "-",
        "--format",
        "csv",
        input=said.stdout,
    )
    assert stored(tmp_path / "c.db") == stored(db)
    error = refused("collections", "export", db, "docs", "-", "--format", "npy", files=[db])
    assert error == "-: npy cannot be written to a pipe: name a file"
    error = refused("collections", "import", tmp_path / "d.db", "x", "-", "--format", "npy")
    assert error == "stdin: npy cannot be read from a pipe"
    assert not (tmp_path / "d.db").exists()


def test_export_overwrite_and_format(db, tmp_path):
    """A file that is there stays; --format goes before the name."""
    file = tmp_path / "docs.txt"
    file.write_text("mine")
    error = refused("collections", "export", db, "docs", file, files=[db, file])
    assert error == f"{file}: its name does not say its format: --format jsonl, csv, npy, parquet"
    arguments = ("collections", "export", db, "docs", file, "--format", "csv")
    assert "is there already" in refused(*arguments, files=[db, file])
    embed(*arguments, "--overwrite")
    assert file.read_text("utf-8").startswith("id,")


def test_export_says_what_it_left_out(db, tmp_path):
    """Vectors that cannot be used and metadata that is no JSON have their count."""
    execute(
        db,
        "update embeddings set embedding = null where id = '1'",
        "update embeddings set metadata = 'none' where id = '2'",
        "insert into embeddings (collection_id, id) values (1, null)",
    )
    said = embed("collections", "export", db, "docs", tmp_path / "a.jsonl")
    assert lines_of(said.stderr)[1:] == [
        "1 row without a vector that can be used: written without one",
        "1 row written without metadata, which is no JSON",
        "1 row without an id that is text: left out",
    ]
    said = embed("collections", "export", db, "docs", tmp_path / "a.npy")
    assert "1 row without a vector that can be used: left out" in said.stderr


def test_export_says_what_it_removed(db, tmp_path):
    """Only then: an unfinished file of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = tmp_path / f".a.csv.{process.pid}.part"
    left.write_text("half")
    said = embed("collections", "export", db, "docs", tmp_path / "a.csv")
    assert f"Removed {left}, which an export that was killed left" in said.stderr
    assert not left.exists()
    said = embed("collections", "export", db, "docs", tmp_path / "a.csv", "--overwrite")
    assert "Removed" not in said.stderr


def test_import_bad_rows_are_named_and_counted(tmp_path):
    """Twenty by name, all by number, and what they hold cannot move the cursor."""
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"id": f"{n}"}) for n in range(25)]
    lines += [json.dumps({"id": "good", "embedding": [1, 2], "\x1b[2J": 1})] * 2
    file.write_text("\n".join([lines[-1], *lines]))
    said = embed("collections", "import", tmp_path / "b.db", "docs", file, "--model", "new\x1bm")
    assert lines_of(said.stderr) == [
        "Not imported: \\x1b[2J",
        *(f"Left out: line {n}: has no embedding" for n in range(2, 22)),
        "… and more, counted at the end",
        "Imported 1 row into 'docs'; 2 had an id that came before: the last one counts; "
        "25 left out",
        "The model new\\x1bm is not registered here: similar works, search by text needs it",
    ]


def test_import_into_collection_with_a_source_says_what_sync_does(db, tmp_path):
    """Rows of a file are no rows of the table."""
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"id": "9", "embedding": [1] * 8, "model": "counting"}))
    said = embed("collections", "import", db, "docs", file)
    assert "'docs' has a source: the next sync removes what is no row of it" in said.stderr
    assert len(stored(db)) == 4


def test_import_table_in_place_and_from_another_file(tmp_path, counting_model):
    """The two ways of taking over what openai-to-sqlite and its like have made."""
    blob = struct.pack("<8f", *range(8))
    source = tmp_path / "s.db"
    execute(
        source,
        "create table vectors (name text, v blob, body text)",
        f"insert into vectors values ('a', x'{blob.hex()}', 'hello')",
        "create table embeddings (id text primary key, embedding blob)",
        f"insert into embeddings values ('b', x'{blob.hex()}')",
    )
    before = source.read_bytes()
    other = tmp_path / "b.db"
    options = ("--id", "name", "--vector", "v", "--content", "body", "--model", "count")
    embed("collections", "import", other, "one", "--table", "vectors", "--from", source, *options)
    embed("collections", "import", other, "two", "--table", "embeddings", "--from", source,
          "--model", "count")  # fmt: skip
    assert stored(other, "one") == {"a": blob}
    assert stored(other, "two") == {"b": blob}
    assert query(other, "select content from embeddings where id = 'a'") == [("hello",)]
    assert source.read_bytes() == before
    error = refused(
        "collections", "import", source, "x", "--table", "embeddings", "--model", "m",
        files=[source],
    )  # fmt: skip
    assert error == (
        f"{source}: already has a table named 'embeddings' of its own, which is left alone: import "
        "into another file (vectors in a table of this one are copied there with --from and "
        "--table)"
    )
    execute(source, "drop table embeddings")
    embed("collections", "import", source, "here", "--table", "vectors", *options)
    assert stored(source, "here") == {"a": blob}


def test_import_wrong_usage(db, tmp_path):
    """Options that contradict each other, or say nothing."""
    file = tmp_path / "a.csv"
    for arguments, message in (
        ((), "Name a FILE or give --table, one of them"),
        ((file, "--table", "t"), "Name a FILE or give --table, one of them"),
        ((file, "--from", "x.db"), "--from goes with --table"),
        ((file, "--id", "x"), "--id goes with --table"),
        ((file, "--vector", "x"), "--vector goes with --table"),
        ((file, "--content", "x"), "--content goes with --table"),
        (("--table", "t", "--format", "csv"), "--format goes with FILE"),
        ((file, "--model", ""), "is empty"),
    ):
        error = refused("collections", "import", db, "docs", *arguments, files=[db], code=2)
        assert message in error
    gone = tmp_path / "gone.db"
    error = refused("collections", "import", gone, "x", "--table", "t", "--model", "m")
    assert error == f"{gone}: no such file"
    error = refused("collections", "import", gone, "x", file)
    assert error == f"{file}: no such file"
    error = refused("collections", "export", gone, "x", file)
    assert error == f"{gone}: no such file"
    assert not gone.exists()


def test_import_id_of_several_lines_forges_none(tmp_path):
    """What a table says of itself stays on the line that quotes it."""
    db = tmp_path / "a.db"
    execute(
        db,
        "create table t (id text primary key, embedding blob)",
        "insert into t values ('x' || char(10) || 'Deleted everything' || char(27), x'00')",
        "insert into t values ('y', x'0000803f')",
    )
    said = embed("collections", "import", db, "docs", "--table", "t", "--model", "m")
    assert lines_of(said.stderr)[0].startswith("Left out: id x Deleted everything\\x1b: its ")


def test_import_interrupted_says_how_to_go_on(tmp_path, monkeypatch):
    """Ctrl-C keeps what was written."""
    (tmp_path / "a.jsonl").write_text('{"id": "a", "embedding": [1]}')

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(exchange, "import_rows", stop)
    said = embed("collections", "import", tmp_path / "b.db", "docs", tmp_path / "a.jsonl", expect=1)
    assert "what was imported is kept. Run the same command to go on." in said.stderr


def test_import_default_database_of_llm(tmp_path, monkeypatch):
    """Without DB the vectors go where LLM keeps them, whose folder is made if need be."""
    monkeypatch.delenv("LLM_EMBEDDINGS_DB", raising=False)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "a"}')
    refused("collections", "import", "docs", file, "--model", "m")
    assert not (tmp_path / "llm").exists()
    file.write_text('{"id": "a", "embedding": [1]}')
    embed("collections", "import", "docs", file, "--model", "m")
    assert stored(tmp_path / "llm" / "embeddings.db") == {"a": struct.pack("<f", 1)}


@pytest.mark.crash
def test_killed_import_and_export_lose_nothing(tmp_path):
    """SIGKILL in the middle: no half file, and the import goes on where it was."""
    file, db = tmp_path / "a.jsonl", tmp_path / "b.db"
    numbers = [0.5] * 64
    file.write_text(
        "".join(json.dumps({"id": f"{n}", "embedding": numbers}) + "\n" for n in range(30_000))
    )
    datasette = [sys.executable, "-m", "datasette", "embed", "collections"]
    arguments = ["import", str(db), "docs", str(file), "--model", "m"]

    def count() -> int:
        try:
            return query(db, "select count(*) from embeddings")[0][0]
        except sqlite3.Error:
            return 0

    process = subprocess.Popen([*datasette, *arguments], stderr=subprocess.PIPE)
    while process.poll() is None and not count():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    landed = count()
    assert landed and landed % 1_000 == 0
    done = subprocess.run([*datasette, *arguments], capture_output=True, text=True, check=True)
    assert f"Imported {30_000 - landed:,} rows into 'docs'; {landed:,} were" in done.stderr
    target = tmp_path / "out.csv"
    process = subprocess.Popen(
        [*datasette, "export", str(db), "docs", str(target)], stderr=subprocess.PIPE
    )
    part = tmp_path / f".out.csv.{process.pid}.part"
    while process.poll() is None and not part.exists():
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert part.exists() and not target.exists()
    done = subprocess.run(
        [*datasette, "export", str(db), "docs", str(target)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"Removed {part}, which an export that was killed left" in done.stderr
    assert target.exists() and not part.exists()


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_export_onto_a_database_refused(db, options):
    """With --overwrite the rows, and every other collection, would be gone."""
    error = refused(
        "collections", "export", db, "docs", db, "--format", "jsonl", *options, files=[db]
    )
    assert "is a SQLite database, which no export replaces" in error


def test_import_vectors_the_model_cannot_have_made_refused(tmp_path):
    """The search that follows would have nothing to compare with."""
    file, db = tmp_path / "v.jsonl", tmp_path / "new.db"
    file.write_text('{"id": "a", "embedding": [1, 2]}\n', "utf-8")
    error = refused("collections", "import", db, "c", file, "--model", "minilm")
    assert "384" in error
    assert not db.exists()
