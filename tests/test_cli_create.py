"""``create`` and ``sync``: the words, the refusals, and Ctrl-C."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from datasette_embed import database
from datasette_embed.cli import output
from datasette_embed.database import sqlite3
from datasette_embed.errors import ProviderError, UnreadableTextError
from tests.conftest import ModelsPlugin
from tests.engine_fakes import FailingModel
from tests.storage import embed, execute, expected, make_docs, query, refused, stored

ROWS = [(n, f"text number {n}") for n in range(6)]


@pytest.fixture
def db(tmp_path):
    """A file whose table docs has six rows."""
    return make_docs(tmp_path / "a.db", ROWS)


class FailingPlugin(ModelsPlugin):
    """A second plugin, for tests that use two."""


@pytest.fixture
def model(add_plugin):
    """A failing model, registered as ``failing``."""
    model = FailingModel(model_id="failing")
    add_plugin(FailingPlugin((model, ())))
    return model


def test_create_table_embeds_and_says_what_it_does(db, counting_model):
    """Talk goes to stderr: what, how many, which model, and what to do next."""
    said = embed("create", db, "docs", "--model", "count")
    assert said.stdout == ""
    assert f"{db}: table docs: body" in said.stderr
    assert "6 rows: 6 to embed, 0 up to date" in said.stderr
    assert "Model: counting (on this machine, free)" in said.stderr
    assert "Embedded 6 rows in" in said.stderr
    assert f"Search it: datasette embed search {db} docs 'some words'" in said.stderr
    assert stored(db) == expected(ROWS)


def test_create_again_nothing_to_do(db, counting_model):
    """The second time costs nothing and changes nothing; the model is the collection's."""
    embed("create", db, "docs", "--model", "count")
    before = db.read_bytes()
    said = embed("create", db, "docs")
    assert "6 rows: 0 to embed, 6 up to date" in said.stderr
    assert db.read_bytes() == before
    assert len(counting_model.calls) == 1


def test_create_options_reach_the_source(db, counting_model):
    """Template, where, id, collection, store and into do what they say."""
    into = db.parent / "vectors.db"
    before = db.read_bytes()
    embed(
        *("create", db, "docs", "--template", "<{{ body }}>", "--where", "id < 2", "--id", "id"),
        *("--collection", "c", "--model", "count", "--store", "--into", into),
    )
    assert db.read_bytes() == before
    assert stored(into, "c") == expected([(0, "<text number 0>"), (1, "<text number 1>")])
    assert query(into, "select content from embeddings order by 1") == [
        ("<text number 0>",),
        ("<text number 1>",),
    ]
    error = refused("sync", into, files=[into])
    assert error == "collection 'c': its rows are in another file: name it with --from"
    execute(db, "update docs set body = 'new' where id = 0")
    embed("sync", into, "--from", db, "--yes")
    assert stored(into, "c") == expected([(0, "<new>"), (1, "<text number 1>")])


def test_create_query_embeds_its_columns(db, counting_model):
    """--sql instead of a table."""
    sql = "select 'n' || id, body from docs where id = 3;"
    embed("create", db, "--sql", sql, "--collection", "c", "--model", "count")
    assert stored(db, "c") == expected([("n3", "text number 3")])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("docs", "--columns", "body", "--template", "{{ body }}"), "--columns or --template, not"),
        ((), "Name a table or give --sql"),
        (("docs", "--sql", "select 1, 2"), "Name a table or give --sql"),
        (("--sql", "select 1, 2"), "Name the collection of the query: --collection"),
        (("docs", "--colums", "body"), "No such option"),
    ],
)
def test_create_wrong_usage_exit_code_2(db, arguments, words):
    """Usage is exit code 2, before the file is looked at."""
    assert words in refused("create", db, *arguments, files=[db], code=2)


@pytest.mark.parametrize(("empty", "words"), [(1, "; 1 is empty\n"), (2, "; 2 are empty\n")])
def test_create_says_how_many_are_empty(db, counting_model, empty, words):
    """In the number that a person would use."""
    for _ in range(empty):
        execute(db, "insert into docs (body) values ('')")
    assert words in embed("create", db, "docs", "--columns", "body", "--model", "count").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("docs", "--model", "nope"), "Unknown model: nope. Known models: counting (count), "),
        (("nope",), "no table named 'nope'. Tables and views: docs, empty, nulls, numbers"),
        (("docs", "--columns", "body,nope"), "no column named 'nope'. Columns: id, body"),
        (("docs", "--id", "nope"), "no column named 'nope'"),
        (("docs", "--where", "nope"), "--where: no such column: nope"),
        (("docs", "--where", "1) or (1"), '--where: near ")": syntax error'),
        (("docs", "--template", "{{ 1+1 }}"), "no column named '1+1'"),
        (("docs", "--template", "plain"), "the template names no {{ column }}"),
        (("empty",), "'empty' has no rows to embed"),
        (("empty", "--columns", "body"), "'empty' has no rows to embed"),
        (("nulls",), "all 3 rows are empty or NULL"),
        (("nulls", "--columns", "body"), "all 3 rows are empty or NULL"),
        (("nulls", "--where", "body = ''"), "the only row is empty or NULL"),
        (("numbers",), "'numbers' has no column of text: name some with --columns"),
        (("pictures", "--columns", "body"), "no row of 'pictures' can be embedded: column 'body'"),
        (("--sql", "select 1", "--collection", "c"), "the query returns one column"),
        (("--sql", "selec", "--collection", "c"), "no such table: selec"),
        (("docs", "--into", "/nowhere/at/all.db"), "its folder does not exist"),
    ],
)
def test_create_bad_input_one_line_nothing_changed(db, counting_model, arguments, words):
    """What is wrong is said before anything is written or embedded."""
    execute(
        db,
        "create table empty (id integer primary key, body text)",
        "create table nulls (id integer primary key, body text)",
        "insert into nulls (body) values (null), (''), (' ')",
        "create table numbers (id integer primary key, n integer)",
        "insert into numbers (n) values (1)",
        "create table pictures (id integer primary key, body)",
        "insert into pictures (body) values (x'00ff')",
    )
    if "--model" not in arguments:
        arguments = (*arguments, "--model", "count")
    assert words in refused("create", db, *arguments, files=[db])
    assert counting_model.calls == []


def test_create_no_database_refused(tmp_path, counting_model):
    """A missing file is never made; a folder and another kind of file are named as such."""
    notes = tmp_path / "notes.txt"
    notes.write_text("not a database " * 100)
    gone = tmp_path / "gone.db"
    assert refused("create", gone, "docs") == f"{gone}: no such file"
    assert refused("sync", gone) == f"{gone}: no such file"
    assert not gone.exists()
    assert "is a directory" in refused("create", tmp_path, "docs")
    assert "is not a SQLite database" in refused("create", notes, "docs", files=[notes])
    db = make_docs(tmp_path / "a.db", ROWS)
    error = refused("create", db, "docs", "--into", notes, files=[db, notes])
    assert "is not a SQLite database" in error


def test_create_file_locked_refused(db, counting_model, monkeypatch):
    """Another program's transaction is named, and no model is called."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0)
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("begin immediate")
        error = refused("create", db, "docs", "--model", "count", files=[db])
    assert error == (f"{db}: is locked by another program: wait or close it, then run this again")
    assert counting_model.calls == []


def test_create_file_read_only_refused_before_work(db, counting_model, monkeypatch):
    """A file that cannot be written says so at once, with the way out."""
    connect = database._connect
    monkeypatch.setattr(
        database, "_connect", lambda path, options: connect(path, options.replace("=rw", "=ro"))
    )
    error = refused("create", db, "docs", "--model", "count", files=[db])
    assert "is read-only: make the file and its folder writable" in error
    assert "keep the vectors in another file" in error
    assert counting_model.calls == []
    assert counting_model.readings == 0


def test_create_foreign_collections_refused_into_works(db, counting_model):
    """Somebody else's table of that name is left alone."""
    execute(db, "create table collections (id integer primary key, title text)")
    error = refused("create", db, "docs", "--model", "count", files=[db])
    assert "already has a table named 'collections' of its own" in error
    assert "--into embeddings.db" in error
    embed("create", db, "docs", "--model", "count", "--into", db.parent / "embeddings.db")
    assert stored(db.parent / "embeddings.db") == expected(ROWS)


def test_create_other_source_or_model_refused(db, counting_model, model):
    """A collection is made of one thing with one model."""
    embed("create", db, "docs", "--model", "count")
    error = refused("create", db, "docs", "--where", "id > 1", files=[db])
    assert "was made from something else (table docs: body)" in error
    error = refused("create", db, "docs", "--model", "failing", files=[db])
    assert "Collection 'docs' was made with counting, not failing" in error


def test_create_bad_rows_counted_and_named(db, model):
    """The rest is embedded; the bad one has a reason."""
    model.bad = {"text number 2"}
    execute(db, "insert into docs values (9, x'00')")
    said = embed("create", db, "docs", "--model", "failing")
    assert "1 unusable (column 'body' holds binary content, not text)" in said.stderr
    assert f"2 rows could not be embedded. Which, and why: datasette embed jobs show {db} 1" in (
        said.stderr
    )
    assert stored(db) == expected([row for row in ROWS if row[0] != 2])
    shown = embed("collections", "show", db, "docs").stderr
    assert f"2 rows could not be embedded. Which, and why: datasette embed jobs show {db} 1" in (
        shown
    )
    assert json.loads(embed("collections", "show", db, "docs", "--json").stdout)["failed"] == 2
    execute(db, "insert into docs values (10, x'0000')")
    assert "2 unusable (for example: column 'body'" in embed("create", db, "docs").stderr


def test_create_bad_row_in_the_timed_sample_goes_on(tmp_path, model):
    """Timing a local model on a text that fails does not stop the run."""
    rows = [(n, f"text {n}") for n in range(120)]
    path = make_docs(tmp_path / "a.db", rows)
    model.bad = {text for n, text in rows if n % 9 == 0}
    model.error = lambda: RuntimeError("bad text")
    embed("create", path, "docs", "--model", "failing")
    assert stored(path) == expected([row for row in rows if row[0] % 9])


def test_create_model_down_paused_exit_code_1(db, model):
    """A model that keeps failing pauses the job with the reason; later it goes on."""
    execute(db, *(f"insert into docs values ({n}, 'more {n}')" for n in range(10, 50)))
    model.error = lambda: ProviderError("failing", "out of order")
    model.bad = {body for (body,) in query(db, "select body from docs")}
    said = embed("create", db, "docs", "--model", "failing", expect=1)
    assert "Paused: 25 texts failed one after the other" in said.stderr
    assert "out of order. Run the same command to go on." in said.stderr
    assert "Search it" not in said.stderr
    model.bad = set()
    embed("create", db, "docs")
    assert len(stored(db)) == 46
    assert query(db, "select status from _embed_jobs") == [("finished",)]


def test_create_killed_after_last_batch_job_is_finished_next_time(db, counting_model):
    """Nothing is left to embed, but the job still says running."""
    embed("create", db, "docs", "--model", "count")
    execute(db, "update _embed_jobs set status = 'running', owner = 'gone:1:x', heartbeat_at = ''")
    embed("create", db, "docs")
    assert query(db, "select status from _embed_jobs") == [("finished",)]
    assert len(counting_model.calls) == 1


def test_sync_embeds_new_and_removes_gone(db, counting_model):
    """The collection becomes what the table is."""
    embed("create", db, "docs", "--model", "count")
    execute(db, "delete from docs where id < 2", "insert into docs values (9, 'nine')")
    said = embed("sync", db, "--keep-removed")
    assert len(stored(db)) == 7
    assert "to remove" not in said.stderr
    said = embed("sync", db)
    assert "5 rows: 0 to embed, 5 up to date, 2 to remove" in said.stderr
    assert "2 removed" in said.stderr
    assert stored(db) == expected([*ROWS[2:], (9, "nine")])


def test_sync_finishes_a_rebuild_whose_job_was_cancelled_at_the_end(db, counting_model):
    """Else search would send people to a sync that finds nothing to do, for ever."""
    embed("create", db, "docs", "--model", "count")
    execute(db, "update _embed_collections set rebuilding = 1")
    assert "partly embedded" in refused("search", db, "docs", "words")
    embed("sync", db)
    embed("search", db, "docs", "words")
    assert stored(db) == expected(ROWS)


def test_sync_table_emptied_everything_is_removed(db, counting_model):
    """What is gone is gone: deleted rows must not be found any more."""
    embed("create", db, "docs", "--model", "count")
    execute(db, "delete from docs")
    embed("sync", db, "--keep-removed")
    assert len(stored(db)) == 6
    embed("sync", db, "--yes")
    assert stored(db) == {}
    embed("sync", db)


def test_sync_from_only_for_collections_made_elsewhere(db, counting_model):
    """--from must not make a collection of this file look emptied."""
    other = make_docs(db.parent / "other.db", [(77, "another")], table="docs")
    embed("create", db, "docs", "--model", "count")
    embed("create", other, "docs", "--model", "count", "--collection", "far", "--into", db)
    embed("sync", db, "--from", other, "-y")
    assert stored(db) == expected(ROWS)
    assert stored(db, "far") == expected([(77, "another")])


def test_sync_without_collections_refused(db, counting_model):
    """There must be something to bring up to date."""
    assert "create one first" in refused("sync", db, files=[db])
    embed("create", db, "docs", "--model", "count")
    error = refused("sync", db, "nope", files=[db])
    assert error == "Collection 'nope' does not exist. Collections in this file: docs"
    execute(db, "update _embed_collections set source = null")
    assert "does not say what it was made from" in refused("sync", db, "docs", files=[db])
    assert "create one first" in refused("sync", db, files=[db])


@pytest.mark.parametrize("definition", ["not json", "[1]", '{"table": 5}', '{"later": 1}'])
def test_sync_definition_damaged_one_line(db, counting_model, definition):
    """A file may say anything about where its rows come from."""
    embed("create", db, "docs", "--model", "count")
    execute(db, f"update _embed_collections set source = '{definition}'")
    assert "the collection's source: cannot be read" in refused("sync", db, files=[db])
    assert "cannot be read" in refused("create", db, "docs", files=[db])


def test_sync_source_table_gone_refused_nothing_removed(db, counting_model):
    """A missing table is an error, not an empty one."""
    embed("create", db, "docs", "--model", "count")
    execute(db, "alter table docs rename to renamed")
    assert "no table named 'docs'" in refused("sync", db, files=[db])


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(
            (("create", "DB", "docs"), option)
            for option in ("--columns", "--template", "--where", "--id", "--collection", "--model")
        ),
        (("create", "DB", "docs"), "--into"),
        (("create", "DB", "--collection", "c"), "--sql"),
        (("sync", "DB"), "--from"),
    ],
)
@pytest.mark.parametrize("value", ["", " ", ","])
def test_empty_option_exit_code_2(db, counting_model, command, option, value):
    """An unset variable of the shell must not mean everything."""
    arguments = [db if word == "DB" else word for word in command]
    error = refused(*arguments, option, value, files=[db], code=2)
    named = "'-m' / '--model'" if option == "--model" else f"'{option}'"
    assert error == f"Invalid value for {named}: is empty"


def test_create_hints_can_be_pasted(tmp_path, model):
    """Names with spaces and quotes, or a dash in front, come out as they went in."""
    path = make_docs(tmp_path / "it's mine.db", ROWS)
    execute(path, "insert into docs values (9, x'00')")
    said = embed("create", path, "docs", "--collection", "-c", "--model", "failing")
    hints = [line for line in said.stderr.splitlines() if "datasette embed" in line]
    assert len(hints) == 2
    for hint in hints:
        words = shlex.split(hint[hint.index("datasette embed") :])
        assert embed(*words[2:]).stdout


def test_create_again_takes_the_columns_of_the_collection(db, counting_model):
    """The same command goes on, even if the rows now suggest other columns."""
    embed("create", db, "docs", "--model", "count")
    execute(db, "alter table docs add column title text", "update docs set title = 'a b c'")
    assert "6 rows: 0 to embed" in embed("create", db, "docs").stderr
    embed(
        "create", db, "docs", "--template", "<{{ body }}>", "--collection", "t", "--model", "count"
    )
    assert "6 rows: 0 to embed" in embed("create", db, "docs", "--collection", "t").stderr
    error = refused("create", db, "docs", "--columns", "title", files=[db])
    assert "was made from something else (table docs: body)" in error


def test_create_compound_key_can_be_joined_in_sql(db, counting_model):
    """The README says how, for parts of letters, digits, dashes and underscores."""
    execute(
        db,
        "create table two (a text, b integer, body text, primary key (a, b))",
        "insert into two values ('x-y', 1, 'one text'), ('x_y', 2, 'two text'), ('é z', 3, 'text')",
    )
    embed("create", db, "two", "--columns", "body", "--model", "count")
    join = "select a from two join embeddings on embeddings.id = a || ',' || b order by b"
    assert query(db, join) == [("x-y",), ("x_y",)]


def test_create_names_are_case_sensitive(db, counting_model):
    """One name, one thing, whatever the system."""
    embed("create", db, "docs", "--model", "count")
    assert "no table named 'DOCS'" in refused("create", db, "DOCS", "--model", "count")
    assert "no column named 'BODY'" in refused("create", db, "docs", "--columns", "BODY")
    assert "Unknown model: COUNT" in refused("create", db, "docs", "--model", "COUNT")
    assert "Collection 'Docs' does not exist" in refused("search", db, "Docs", "x")


@pytest.mark.parametrize("table", ["collections", "Embeddings", "_embed_jobs"])
def test_create_our_own_tables_refused(db, counting_model, table):
    """The vectors are no texts."""
    embed("create", db, "docs", "--model", "count")
    error = refused("create", db, table, "--model", "count", files=[db])
    assert f"'{table}' is where the vectors are kept" in error


def test_sync_one_of_several_cannot_be_done_the_others_are(db, counting_model, model):
    """Each says what is wrong with it, and the exit code is 1 in the end."""
    other = make_docs(db.parent / "other.db", [(77, "another")])
    execute(db, "create table gone (id integer primary key, body text)")
    execute(db, "insert into gone values (1, 'text')")
    embed("create", db, "gone", "--model", "count")
    embed("create", db, "docs", "--model", "count")
    embed("create", db, "docs", "--model", "failing", "--collection", "a")
    embed("create", other, "docs", "--model", "count", "--collection", "b", "--into", db)
    execute(
        db,
        "drop table gone",
        "update collections set model = 'no' where name = 'a'",
        "update _embed_collections set model = 'no' where name = 'a'",
        "insert into docs values (9, 'nine')",
    )
    said = embed("sync", db, expect=1)
    errors = [line for line in said.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 3
    assert errors[0].startswith("Error: Unknown model: no.")
    assert errors[1] == "Error: collection 'b': its rows are in another file: name it with --from"
    assert "no table named 'gone'" in errors[2]
    assert stored(db) == expected([*ROWS, (9, "nine")])


def test_sync_from_another_file_asks_with_the_definition(db, counting_model, monkeypatch):
    """A file from somebody else could name any table of yours."""
    into = db.parent / "vectors.db"
    embed("create", db, "docs", "--model", "count", "--where", "id < 2", "--into", into)
    execute(db, "insert into docs values (-1, 'new')")
    error = refused("sync", into, "--from", db, files=[into])
    assert "there is no terminal to ask on. With --yes it goes on" in error
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    before = into.read_bytes()
    said = embed("sync", into, "--from", db, input="n\n", expect=1)
    assert f"'docs' asks to read this from {db}: table docs where id < 2: body. Read it?" in (
        said.stderr
    )
    assert into.read_bytes() == before
    embed("sync", into, "--from", db, input="y\n")
    assert "-1" in stored(into)


@pytest.mark.parametrize(("key", "price"), [("a-key", None), (None, 3.0)])
def test_sync_model_that_costs_asks(db, counting_model, monkeypatch, key, price):
    """What costs money is not done by a timer that nobody has told to."""
    embed("create", db, "docs", "--model", "count")
    monkeypatch.setattr(counting_model, "needs_key", key)
    monkeypatch.setattr(counting_model, "key", key)
    monkeypatch.setattr(counting_model, "price_per_million_tokens", price)
    embed("sync", db)  # nothing to embed, nothing to ask
    execute(db, "insert into docs values (9, 'nine')")
    calls = len(counting_model.calls)
    assert "Embed 1 row with counting" in refused("sync", db, files=[db])
    assert len(counting_model.calls) == calls
    embed("sync", db, "--yes")
    assert stored(db) == expected([*ROWS, (9, "nine")])


def test_sync_that_would_empty_a_collection_asks(db, counting_model, monkeypatch):
    """An emptied table may be a mistake."""
    embed("create", db, "docs", "--model", "count")
    execute(db, "delete from docs")
    error = refused("sync", db, files=[db])
    assert "Remove all 6 entries of 'docs', whose rows are gone?" in error
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    embed("sync", db, input="n\n", expect=1)
    assert stored(db) == expected(ROWS)
    embed("sync", db, input="y\n")
    assert stored(db) == {}


SLOW = """
import sys, time
from datasette import hookimpl
from datasette.cli import cli
from datasette.plugins import pm
from tests.fakes import CountingModel

class Slow(CountingModel):
    def embed_batch(self, items, *, kind="document", key=None):
        print("batch", len(items), flush=True)
        time.sleep(0.3)
        return super().embed_batch(items, kind=kind, key=key)

class Plugin:
    __name__ = "slow"
    @hookimpl
    def register_embedding_models(self, register):
        register(Slow(batch_size=10))

pm.register(Plugin())
cli()
"""


def test_create_ctrl_c_pauses_and_the_same_command_completes_it(tmp_path):
    """One Ctrl-C: the batch in flight is kept, exit code 1, and nothing is paid for twice."""
    rows = [(n, f"text {n}") for n in range(60)]
    path = make_docs(tmp_path / "a.db", rows)
    command = [sys.executable, "-c", SLOW, "embed", "create", path, "docs", "--model", "counting"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "batch 10\n"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "Pausing after this batch" in stderr
    assert "Paused. Run the same command to go on." in stderr
    assert "Traceback" not in stderr
    first = 1 + stdout.count("batch")
    assert len(stored(path)) == 10 * first < 60
    assert query(path, "select status from _embed_jobs") == [("paused",)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("batch 10\n") == 6 - first
    assert stored(path) == expected(rows)
    assert query(path, "select status from _embed_jobs") == [("finished",)]


@pytest.mark.parametrize(
    ("price", "is_local", "words"),
    [
        (None, False, "Model: failing"),
        (None, True, "Model: failing (on this machine, free)"),
        (1.0, False, "Model: failing (over the network)"),
    ],
)
def test_create_says_where_a_model_computes_as_far_as_it_is_known(
    db, model, price, is_local, words
):
    """Of a plugin's model that says nothing about itself nothing is said."""
    model.is_local = is_local
    model.price_per_million_tokens = price
    said = embed("create", db, "docs", "--model", "failing", "--yes")
    assert words in said.stderr.splitlines()


def test_create_asks_before_it_costs_money(db, model, monkeypatch):
    """With its cost; a no changes nothing, and where nobody can be asked --yes says it."""
    model.price_per_million_tokens = 1.0
    refused = embed("create", db, "docs", "--model", "failing", expect=1).stderr
    assert "With --yes it goes on without asking: Embed 6 rows with failing for under $0.01?" in (
        refused
    )
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    embed("create", db, "docs", "--model", "failing", input="n\n", expect=1)
    assert query(db, "select name from sqlite_master") == [("docs",)]
    said = embed("create", db, "docs", "--model", "failing", input="y\n").stderr
    assert "Embed 6 rows with failing for under $0.01? [y/N]" in said
    assert "Embedded 6 rows" in said


def test_create_with_other_options_of_its_model_says_that_all_is_embedded_again(db, model):
    """Not in silence: it may cost money."""
    embed("create", db, "docs", "--model", "failing")
    assert "embedded again" not in embed("create", db, "docs").stderr
    model.revision = "2"
    said = embed("create", db, "docs").stderr
    assert "made with another version of this model, or with other options of it" in said
    assert "6 to embed" in said


@pytest.mark.parametrize("is_ours", [True, False])
def test_jobs_show_says_where_the_log_is(db, model, is_ours):
    """What a model's code said is told where the job ran, and only there."""
    model.bad = {"text number 2"}
    model.error = (
        (lambda: UnreadableTextError("failing", "no")) if is_ours else (lambda: OSError("secret"))
    )
    embed("create", db, "docs", "-m", "failing")
    said = embed("jobs", "show", db, "1")
    hint = f"To see it here: datasette embed jobs retry {db} 1"
    assert (hint in said.stderr) is not is_ours
    assert "secret" not in said.stdout + said.stderr
