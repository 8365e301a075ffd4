"""``create``, ``sync`` and ``search`` for Python programs: what the commands do, unasked."""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
from contextlib import closing

import pytest

import datasette_embed
from datasette_embed.database import sqlite3
from datasette_embed.errors import (
    CollectionNotFoundError,
    ConfigError,
    MissingKeyError,
    ModelMismatchError,
    ProviderError,
    SourceError,
    UnknownModelError,
)
from datasette_embed.job_records import JobStatus
from datasette_embed.llm_files import write_default_model
from datasette_embed.models import Kind
from datasette_embed.one_entry import embed_entry
from datasette_embed.opened_sources import opened_source
from datasette_embed.records import Row
from datasette_embed.registry import forget_registries
from datasette_embed.runs import Run, RunOptions, create, search, sync
from datasette_embed.sources import SourceSpec
from tests.conftest import ModelsPlugin
from tests.engine_fakes import FailingModel
from tests.fakes import CountingModel, vector_of
from tests.storage import embed, execute, expected, make_docs, query, stored

ROWS = [(n, f"text number {n}") for n in range(6)]


class SecondPlugin(ModelsPlugin):
    """A plugin beside that of ``counting_model``: two of one class would have one name."""


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs has six rows; the model ``counting`` is known."""
    return make_docs(tmp_path / "a.db", ROWS)


@pytest.fixture
def made(db, counting_model):
    """The same, embedded; the model has forgotten its calls."""
    create(db, "docs", model_id="count")
    counting_model.calls.clear()
    return db


def counted(outcome):
    """Return the counts of a run that are not zero."""
    return {name: value for name, value in vars(outcome.counts).items() if value}


def refusal(error, match, path, call, *arguments, **options):
    """Check that a call is refused and leaves the file as it is."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(error, match=match):
        call(*arguments, **options)
    assert (path.read_bytes() if path.exists() else None) == before


def test_runs_are_public():
    """All that the commands can do is imported from the package."""
    assert (datasette_embed.create, datasette_embed.sync, datasette_embed.search) == (
        create,
        sync,
        search,
    )


# create


@pytest.mark.parametrize("store", [False, True])
def test_create_same_rows_as_the_command(db, tmp_path, store, capfd):
    """Vectors, hashes, contents and the stored definition; nothing is printed."""
    other = tmp_path / "b.db"
    shutil.copy(db, other)
    outcome = create(db, "docs", model_id="count", store=store)
    assert capfd.readouterr() == ("", "")
    embed("create", other, "docs", "--model", "count", *(["--store"] if store else []))
    rows = "select id, embedding, content, content_hash, metadata from embeddings order by id"
    kept = "select name, model, fingerprint, dimensions, source, store from _embed_collections"
    assert query(db, rows) == query(other, rows)
    assert query(db, kept) == query(other, kept)
    assert stored(db) == expected(ROWS)
    assert (outcome.collection, outcome.status, outcome.job_id) == ("docs", JobStatus.FINISHED, 1)
    assert outcome.reason is None
    assert counted(outcome) == {"rows_done": 6, "embedded": 6}


def test_create_options_are_the_commands(db, tmp_path, counting_model):
    """Columns, template, condition, ids, name and file."""
    into = tmp_path / "vectors.db"
    before = db.read_bytes()
    outcome = create(
        str(db),
        "docs",
        template="{{ id }}: {{ body }}",
        where="id < 2",
        id_columns=["body"],
        collection="some",
        model_id="counting",
        into=into,
    )
    assert outcome.collection == "some"
    assert stored(into, "some") == {
        key: blob
        for (_, key), blob in zip(
            ROWS[:2], expected([(n, f"{n}: {t}") for n, t in ROWS[:2]]).values(), strict=True
        )
    }
    assert db.read_bytes() == before
    source = json.loads(query(into, "select source from _embed_collections")[0][0])
    assert source["is_elsewhere"] is True
    create(db, sql="select id, body from docs where id > 4", collection="query", columns=())
    assert set(stored(db, "query")) == {"5"}


def test_create_columns_any_sequence(db):
    """A list or a tuple, in the order given."""
    for name, columns in (("a", ["body", "id"]), ("b", ("body", "id"))):
        create(db, "docs", columns=columns, collection=name, model_id="count")
        assert stored(db, name) == expected([(n, f"{t} {n}") for n, t in ROWS])


def test_create_again_nothing_to_do_no_job_no_byte(made, counting_model):
    """What is up to date costs nothing; the outcome says how many there are."""
    before = made.read_bytes()
    outcome = create(made, "docs")
    assert made.read_bytes() == before
    assert counting_model.calls == []
    assert (outcome.status, outcome.job_id) == (JobStatus.FINISHED, None)
    assert counted(outcome) == {"rows_done": 6, "unchanged": 6}


def test_create_again_nothing_to_do_blank_rows_counted(db):
    """A run with work to do counts them; one without should not lose them."""
    execute(db, "insert into docs values (7, ''), (8, null)")
    assert create(db, "docs", model_id="count").counts.blank == 2
    outcome = create(db, "docs")
    assert outcome.job_id is None
    assert counted(outcome) == {"rows_done": 8, "unchanged": 6, "blank": 2}


def test_create_again_only_what_is_missing(made, counting_model):
    """New and changed rows; what is gone stays, as with the command."""
    execute(
        made,
        "insert into docs values (7, 'new'), (8, 'text number 0')",
        "update docs set body = 'changed' where id = 1",
        "delete from docs where id = 2",
    )
    outcome = create(made, "docs")
    assert sorted(counting_model.calls[-1]) == ["changed", "new"]
    assert counted(outcome) == {"rows_done": 7, "embedded": 2, "reused": 1, "unchanged": 4}
    rows = [*ROWS, (7, "new"), (8, "text number 0"), (1, "changed")]
    assert stored(made) == expected(rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "name a table or give sql=, one of them"),
        ({"table": "docs", "sql": "select 1", "collection": "x"}, "name a table or give sql=, one"),
        ({"table": "docs", "columns": ["body"], "template": "{{ body }}"}, "not both"),
        ({"sql": "select 1, 'a'"}, "name the collection of the query: collection="),
        ({"table": ""}, "name a table or give sql=, one of them"),
    ],
)
def test_create_contradiction_refused(db, options, words):
    """A ValueError about the arguments, before any file is opened."""
    refusal(ValueError, words, db, create, db, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"table": "gone"}, SourceError, "no table named 'gone'"),
        ({"table": "docs", "columns": ["gone"]}, SourceError, "gone"),
        ({"table": "docs", "where": "gone = 1"}, SourceError, "gone"),
        ({"table": "docs", "where": "id > 99"}, SourceError, "has no rows to embed"),
        ({"table": "docs", "model_id": "nope"}, UnknownModelError, "nope"),
    ],
)
def test_create_that_cannot_be_done_changes_nothing(db, tmp_path, options, error, words):
    """Neither the file nor a new one for the vectors."""
    options = {"model_id": "count", **options}
    refusal(error, words, db, create, db, **options)
    into = tmp_path / "new.db"
    refusal(error, words, into, create, db, **options, into=into)


def test_create_missing_file_refused_and_not_made(tmp_path, counting_model):
    """A mistyped path never becomes an empty file."""
    path = tmp_path / "gone.db"
    refusal(SourceError, "no such file", path, create, path, "docs", model_id="count")


def test_create_other_model_refused(made, add_plugin):
    """A collection has one model."""
    add_plugin(SecondPlugin((CountingModel("other"), ())))
    forget_registries()
    words = "'docs' was made with counting, not other"
    refusal(ModelMismatchError, words, made, create, made, "docs", model_id="other")


def test_create_default_model_is_llms(db):
    """Where LLM's user has set one, it is taken; one that is not registered is said."""
    write_default_model("counting")
    assert create(db, "docs").status is JobStatus.FINISHED
    assert query(db, "select model from collections") == [("counting",)]
    write_default_model("gone")
    words = "sets the default to gone, which is not registered here"
    refusal(ConfigError, words, db, create, db, "docs", collection="other")
    assert create(db, "docs").counts.unchanged == 6  # the collection's own model


@pytest.fixture
def failing(add_plugin):
    """A model that can fail, registered as ``failing``."""
    model = FailingModel(model_id="failing")
    add_plugin(SecondPlugin((model, ())))
    return model


def test_create_bad_rows_counted_and_recorded(tmp_path, failing):
    """They stop nobody else's; the job's row tells more."""
    db = make_docs(tmp_path / "a.db", [*ROWS, (6, ""), (7, None)])
    failing.bad = {"text number 3"}
    outcome = create(db, "docs", model_id="failing")
    assert outcome.status is JobStatus.FINISHED
    assert counted(outcome) == {"rows_done": 8, "embedded": 5, "failed": 1, "blank": 2}
    assert query(db, "select job_id, entry_id from _embed_failures") == [(outcome.job_id, "3")]


def test_create_key_reaches_the_model(db, add_plugin):
    """The key of a call; without one the model's error comes through."""
    seen = []

    class Paid(CountingModel):
        needs_key = "paid"
        key_env_var = "PAID_KEY_OF_A_TEST"

        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            seen.append(self.get_key(key))
            return super().embed_batch(items, kind=kind, key=key)

    add_plugin(SecondPlugin((Paid("paid"), ())))
    create(db, "docs", model_id="paid", key="k1")
    assert len(search(db, "docs", "x", 3, key="k2")) == 3
    assert set(seen) == {"k1", "k2"}


# Run


def opened_run(db, **options):
    spec = SourceSpec(table="docs", columns=("body",))
    return opened_source(str(db), spec, str(db), "docs")


def test_run_prepared_has_written_nothing(db, counting_model):
    """Plan, model and questions come before the first byte."""
    before = db.read_bytes()
    with opened_run(db) as source:
        run = Run(str(db), "docs", source, "count")
        assert (run.model, run.entries, run.is_done) == (counting_model, 0, False)
        assert (run.plan.rows, run.plan.missing) == (6, 6)
        assert list(run.questions()) == []
    assert db.read_bytes() == before


def test_run_paused_goes_on_where_it_was(db, counting_model):
    """The outcome says so; the next run does the rest, in the same job."""
    pause = threading.Event()
    pause.set()
    with opened_run(db) as source:
        outcome = Run(str(db), "docs", source, "count").complete(pause=pause)
    assert (outcome.status, counted(outcome)) == (JobStatus.PAUSED, {})
    assert stored(db) == {}
    again = create(db, "docs")
    assert (again.status, again.job_id) == (JobStatus.FINISHED, outcome.job_id)
    assert stored(db) == expected(ROWS)


def test_run_model_that_keeps_failing_pauses_with_the_reason(tmp_path, failing):
    """A run that gives up is no exception; what was embedded is kept."""
    db = make_docs(tmp_path / "a.db", [(n, f"text {n}") for n in range(60)])
    failing.bad = {f"text {n}" for n in range(60)}
    outcome = create(db, "docs", model_id="failing")
    assert outcome.status is JobStatus.PAUSED
    assert "texts failed one after the other" in outcome.reason
    assert query(db, "select status, reason from _embed_jobs") == [("paused", outcome.reason)]


def test_run_batch_size_is_the_most_of_one_call(db, counting_model):
    """The option reaches the engine."""
    with opened_run(db) as source:
        Run(str(db), "docs", source, "count", RunOptions(batch_size=2)).complete()
    assert max(counting_model.batch_sizes[-3:]) == 2


# sync


def test_sync_embeds_what_changed_and_removes_what_is_gone(made, counting_model, capfd):
    """One outcome for each collection, in the order of names."""
    create(made, "docs", collection="b", where="id < 3", model_id="count")
    execute(
        made,
        "insert into docs values (7, 'new')",
        "update docs set body = 'changed' where id = 1",
        "delete from docs where id = 2",
    )
    outcomes = sync(made)
    assert [outcome.collection for outcome in outcomes] == ["b", "docs"]
    assert counted(outcomes[0]) == {"rows_done": 2, "embedded": 1, "unchanged": 1, "removed": 1}
    assert counted(outcomes[1])["removed"] == 1
    now = [(0, ROWS[0][1]), (1, "changed"), *ROWS[3:], (7, "new")]
    assert stored(made) == expected(now)
    assert stored(made, "b") == expected(now[:2])
    assert capfd.readouterr() == ("", "")
    assert [counted(o) for o in sync(made)] == [
        {"rows_done": 2, "unchanged": 2},
        {"rows_done": 6, "unchanged": 6},
    ]


def test_sync_named_collections_only_and_keep_removed(made):
    """The others stay as they are; what is gone stays when asked."""
    create(made, "docs", collection="b", model_id="count")
    execute(made, "delete from docs where id = 2", "insert into docs values (7, 'new')")
    (outcome,) = sync(made, "b", keep_removed=True)
    assert (outcome.collection, outcome.counts.removed) == ("b", 0)
    assert stored(made, "b") == expected([*ROWS, (7, "new")])
    assert stored(made) == expected(ROWS)
    refusal(CollectionNotFoundError, "'gone' does not exist", made, sync, made, "gone")


def test_sync_without_source_says_how(db):
    """One that another tool made does not say what it was made from."""
    refusal(SourceError, "no collection made from a table", db, sync, db)
    create(db, "docs", model_id="count")
    execute(db, "update _embed_collections set source = null")
    refusal(SourceError, "no collection made from a table", db, sync, db)
    words = "does not say what it was made from. Run this once: datasette embed create"
    refusal(SourceError, words, db, sync, db, "docs")


@pytest.fixture
def apart(db, tmp_path):
    """Vectors in another file than their rows."""
    into = tmp_path / "vectors.db"
    create(db, "docs", model_id="count", into=into)
    execute(db, "insert into docs values (7, 'new')")
    return into


def test_sync_rows_elsewhere_refused_unless_agreed(db, apart, counting_model):
    """The file says what to read of another one, and may be a stranger's."""
    counting_model.calls.clear()
    refusal(SourceError, "its rows are in another file: name it with", apart, sync, apart)
    words = "nothing was changed, for the answer was no: 'docs' asks to read this from"
    refusal(SourceError, words, apart, sync, apart, rows_from=db)
    assert counting_model.calls == []
    asked = []
    (outcome,) = sync(apart, rows_from=db, confirm=lambda question: asked.append(question) or True)
    assert asked == [f"'docs' asks to read this from {db}: table docs: body. Read it?"]
    assert counted(outcome) == {"rows_done": 7, "embedded": 1, "unchanged": 6}
    assert stored(apart) == expected([*ROWS, (7, "new")])


def test_sync_rows_of_the_same_file_need_no_leave(made):
    """``rows_from`` is for those whose rows are elsewhere."""
    execute(made, "insert into docs values (7, 'new')")
    (outcome,) = sync(made, rows_from=made.parent / "gone.db")
    assert outcome.counts.embedded == 1


@pytest.mark.parametrize("how", ["price", "key"])
def test_sync_paid_model_refused_unless_agreed(made, counting_model, how, monkeypatch):
    """The default answers no; what is up to date needs no answer."""
    if how == "price":
        counting_model.price_per_million_tokens = 1e6
    else:
        counting_model.needs_key, counting_model.key = "paid", "k"
    assert sync(made)[0].counts.unchanged == 6
    execute(made, "insert into docs values (7, 'new')")
    words = "answer was no: Embed 1 row with counting"
    refusal(SourceError, words, made, sync, made)
    assert counting_model.calls == []
    (outcome,) = sync(made, confirm=lambda question: True)
    assert outcome.counts.embedded == 1


def test_sync_that_empties_a_collection_refused_unless_agreed(made):
    """Rows that are all gone are more often a mistake."""
    execute(made, "delete from docs")
    refusal(SourceError, "no: Remove all 6 entries of 'docs'", made, sync, made)
    assert sync(made, keep_removed=True)[0].counts.removed == 0
    (outcome,) = sync(made, confirm=lambda question: True)
    assert outcome.counts.removed == 6
    assert stored(made) == {}


def test_sync_failure_those_before_are_done(made):
    """In the order of names; the error is that of the first that fails."""
    create(made, "docs", collection="a", model_id="count")
    execute(
        made,
        "insert into docs values (7, 'new')",
        "update _embed_collections set source = '{\"table\": \"gone\"}' where name = 'docs'",
    )
    with pytest.raises(SourceError, match="no table named 'gone'"):
        sync(made)
    assert "7" in stored(made, "a")
    assert "7" not in stored(made)


# search


def test_search_same_hits_as_the_command(made, counting_model):
    """Ids and scores; the text is embedded as a query; nothing is written."""
    before = made.read_bytes()
    found = search(made, "docs", "some words", 4)
    said = json.loads(embed("search", made, "docs", "some words", "-n", "4", "--json").stdout)
    assert [(entry.id, entry.score) for entry in found] == [
        (hit["id"], pytest.approx(hit["score"], abs=1e-9)) for hit in said
    ]
    assert len(search(made, "docs", "some words")) == 6
    assert len(search(made, "docs", "some words", None)) == 6
    assert [entry.id for entry in search(made, "docs", "some words", prefix="5")] == ["5"]
    assert made.read_bytes() == before


def test_search_any_database(made):
    """A path as text, an open connection, which stays open."""
    wanted = search(made, "docs", "x")
    assert search(str(made), "docs", "x") == wanted
    with closing(sqlite3.connect(made)) as conn:
        assert search(conn, "docs", "x") == wanted
        assert conn.execute("select count(*) from docs").fetchone() == (6,)


def test_search_refusals_change_nothing(made, tmp_path):
    """No collection, no file, a negative number, a text of no known word."""
    refusal(CollectionNotFoundError, "'gone' does not exist", made, search, made, "gone", "x")
    refusal(ValueError, "number must be 0 or more", made, search, made, "docs", "x", -1)
    refusal(ProviderError, "single word", made, search, made, "docs", "ลองดู")
    gone = tmp_path / "gone.db"
    refusal(SourceError, "no such file", gone, search, gone, "docs", "x")
    assert os.listdir(tmp_path) == ["a.db"]


def test_create_over_a_collection_of_an_older_model_embeds_all_of_it_again(tmp_path, add_plugin):
    """What a program made with revision 1 does not pass for revision 2's."""
    path = make_docs(tmp_path / "b.db", ROWS)
    first, second = FailingModel(), FailingModel()
    first.revision, second.revision = "1", "2"
    second.change = lambda items, vectors: [[-number for number in v] for v in vectors]
    with datasette_embed.Collection("docs", path, model=first) as collection:
        collection.embed_multi(ROWS)
    add_plugin(ModelsPlugin((second, ())))
    outcome = create(path, "docs", model_id="counting")
    assert sorted(second.items) == sorted(text for _, text in ROWS)
    assert counted(outcome) == {"rows_done": 6, "embedded": 6}
    negated = {str(n): struct.pack("<8f", *(-x for x in vector_of(text))) for n, text in ROWS}
    assert stored(path) == negated
    assert query(path, "select fingerprint, rebuilding from _embed_collections") == [
        ("counting@2", 0)
    ]


def test_embed_entry_collection_made_from_a_table_meanwhile_stays_as_made(db, counting_model):
    """A run that ends during the model's call keeps its source, its contents and its entries."""
    model = FailingModel()
    model.after_call = lambda calls: create(db, "docs", model_id="count", store=True)
    kept = "select fingerprint, dimensions, metric, source, store from _embed_collections"
    with pytest.raises(SourceError, match="was made from something else"):
        embed_entry(str(db), "docs", Row("x", "hello"), model)
    assert stored(db) == expected(ROWS)
    [(fingerprint, dimensions, metric, source, store)] = query(db, kept)
    assert (fingerprint, dimensions, metric, store) == ("counting", 8, "cosine", 1)
    assert json.loads(source)["table"] == "docs"


def test_create_without_the_api_key_makes_nothing(db, counting_model, monkeypatch):
    """Neither collection nor job; what is up to date needs none."""
    monkeypatch.delenv("COUNTING_KEY", raising=False)
    counting_model.needs_key, counting_model.key_env_var = "counting", "COUNTING_KEY"
    refusal(
        MissingKeyError, "COUNTING_KEY", db, create, db, "docs", columns=["body"], model_id="count"
    )
    monkeypatch.setenv("COUNTING_KEY", "sk-0123456789")
    assert create(db, "docs", columns=["body"], model_id="count").status is JobStatus.FINISHED
    monkeypatch.delenv("COUNTING_KEY")
    assert create(db, "docs", columns=["body"], model_id="count").counts.embedded == 0


def test_sync_asks_before_a_model_that_does_not_say_that_it_is_free(db, counting_model):
    """A service whose key we do not know of costs money too; the file names the model."""
    create(db, "docs", columns=["body"], model_id="count")
    counting_model.is_local = False
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("insert into docs (body) values ('something new')")
    calls, asked = len(counting_model.calls), []

    def refuse(question):
        asked.append(question)
        return False

    with pytest.raises(SourceError, match="nothing was changed|Embed 1 row"):
        sync(db, confirm=refuse)
    assert asked == ["Embed 1 row with counting?"]
    assert len(counting_model.calls) == calls
    counting_model.is_local = True
    assert [done.counts.embedded for done in sync(db, confirm=refuse)] == [1]
