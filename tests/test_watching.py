"""Watching: what a change of a table notes, what draining makes of it, whose watch counts."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from datasette_embed import draining
from datasette_embed import watches as watches_module
from datasette_embed.changed_rows import ChangedRows
from datasette_embed.database import open_database
from datasette_embed.draining import drain
from datasette_embed.errors import (
    JobStateError,
    OutdatedCollectionError,
    PaidModelError,
    SourceError,
)
from datasette_embed.job_records import JobRecords, JobStatus
from datasette_embed.opened_sources import synced_source
from datasette_embed.registry import get_registry
from datasette_embed.runs import create, sync
from datasette_embed.sources import SourceSpec
from datasette_embed.store import Store
from datasette_embed.watches import Watches
from datasette_embed.watching import mend, start_watching, survey
from tests.engine_fakes import FailingModel
from tests.fakes import CountingModel
from tests.storage import blob_of, execute, expected, make_docs, query, run_job, stored

DOCS = [(n, f"text {n}") for n in range(1, 6)]


@pytest.fixture
def db(tmp_path: Path, counting_model: CountingModel) -> Path:
    """A file whose table docs is embedded, watched, and compared once already."""
    path = make_docs(tmp_path / "a.db", DOCS)
    create(path, "docs", model_id="count")
    watch(path)
    assert drain(str(path), "docs", get_registry()) is JobStatus.FINISHED
    counting_model.calls.clear()
    return path


def watch(path: Path, name: str = "docs", **options: bool) -> None:
    """Watch a collection, as the command does."""
    with closing(open_database(path, writable=True)) as conn:
        record = Store(conn).get_collection(name)
        with synced_source(str(path), record, None, None) as source:
            model = get_registry().get(record.model_id)
            start_watching(conn, str(path), record, source, model, **options)


def noted(path: Path) -> list[str]:
    """Return the keys that are noted, in order."""
    return [key for (key,) in query(path, "select key from _embed_changes order by key")]


def due_names(path: Path) -> list[str]:
    """Return the names of the collections that are due."""
    with closing(open_database(path)) as conn:
        return survey(conn, str(path)).due


def items(model: CountingModel) -> list[object]:
    """Return every text the model was called with."""
    return [item for call in model.calls for item in call]


@pytest.mark.parametrize(
    ("sql", "keys"),
    [
        ("insert into docs values (9, 'new')", ["9"]),
        ("insert into docs (body) values ('new')", ["6"]),
        ("update docs set body = 'other' where id = 2", ["2"]),
        ("update docs set body = body", []),
        ("update docs set id = 20 where id = 2", ["2", "20"]),
        ("delete from docs where id = 3", ["3"]),
        ("delete from docs", ["1", "2", "3", "4", "5"]),
        ("insert or replace into docs values (3, 'other')", ["3"]),
        ("insert or ignore into docs values (3, 'other')", []),
        ("insert into docs values (3, 'x') on conflict (id) do update set body = 'x'", ["3"]),
        ("update or replace docs set id = 4 where id = 2", ["2", "4"]),
        ("update docs set body = null where id = 1", ["1"]),
        ("update docs set body = cast('text 1' as blob) where id = 1", ["1"]),
    ],
)
def test_trigger_change_by_any_program_notes_its_keys(db, sql, keys):
    """One row for each key, whatever statement the other program uses."""
    execute(db, sql)
    assert noted(db) == keys
    assert due_names(db) == (["docs"] if keys else [])


def test_trigger_same_key_again_has_another_number(db):
    """So that only what was dealt with is forgotten, and an outer rule changes nothing."""
    execute(db, "insert or replace into docs values (3, 'a')")
    first = query(db, "select change from _embed_changes")
    execute(db, "insert or replace into docs values (3, 'b')")
    assert len(first) == 1 and query(db, "select change from _embed_changes") != first


@pytest.mark.parametrize(
    ("columns", "sql", "keys"),
    [
        ("id text primary key", "insert into docs values ('ä b', 'x')", ["ä b"]),
        ("id text primary key collate nocase", "update docs set id = 'A'", ["A", "a"]),
        ("id real primary key", "insert into docs values (1.5, 'x')", [""]),
        ("id primary key", "insert into docs values (7, 'x')", ["7"]),
        ("id primary key", "insert into docs values (x'00', 'x')", [""]),
        ("id text", "insert into docs values ('q', 'x')", ["2"]),
        ("'rowid' text primary key", "insert into docs values ('q', 'x')", ["q"]),
    ],
)
def test_trigger_key_of_each_type_is_the_entry_id(tmp_path, counting_model, columns, sql, keys):
    """A single column gives its text; where SQLite and Python write it differently, everything."""
    path = tmp_path / "a.db"
    execute(path, f"create table docs ({columns}, body text)", "insert into docs values ('a', 'b')")
    if "real" in columns:
        execute(path, "update docs set id = 1")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    execute(path, "delete from _embed_changes", sql)
    assert noted(path) == keys


def test_trigger_nocase_text_changed_in_case_only_is_noted(tmp_path, counting_model):
    """The column's collation takes the two as equal, the model does not."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id integer primary key, body text collate nocase)")
    execute(path, "insert into docs values (1, 'polish shoes')")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    execute(path, "delete from _embed_changes", "update docs set body = 'Polish shoes'")
    assert noted(path) == ["1"]
    assert drain(str(path), "docs", get_registry()) is JobStatus.FINISHED
    assert stored(path) == expected([(1, "Polish shoes")])


def test_trigger_text_that_became_a_number_is_noted(tmp_path, counting_model):
    """In a column without a type 1 and 1.0 are equal to SQLite, and other texts to a model."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id integer primary key, body)")
    execute(path, "insert into docs values (1, 1)")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    execute(path, "delete from _embed_changes", "update docs set body = 1.0")
    assert noted(path) == ["1"]
    drain(str(path), "docs", get_registry())
    assert stored(path) == expected([(1, "1.0")])


def test_drain_integer_id_in_a_column_without_a_type_is_found(tmp_path, counting_model):
    """There the number 7 and the text '7' are two ids to SQLite, and one entry."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id primary key, body text)")
    execute(path, "insert into docs values (7, 'a'), ('8', 'b')")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    execute(path, "delete from _embed_changes", "update docs set body = body || ' new'")
    drain(str(path), "docs", get_registry())
    assert stored(path) == expected([(7, "a new"), (8, "b new")])
    execute(path, "insert into docs values ('7', 'c')")
    with pytest.raises(SourceError, match="the ids are not unique: '7' comes more than once"):
        drain(str(path), "docs", get_registry())


def test_trigger_row_replaced_by_another_key_is_noted(tmp_path, counting_model):
    """REPLACE removes the row that is in the way without firing its deletion."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id integer primary key, slug text unique, body text)")
    execute(path, *(f"insert into docs values ({n}, 's{n}', 'text {n}')" for n in (1, 2, 3, 4)))
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    execute(path, "delete from _embed_changes")
    execute(path, "insert or replace into docs values (9, 's2', 'text 9')")
    execute(path, "update or replace docs set slug = 's3' where id = 1")
    assert noted(path) == ["2", "3", "9"]
    drain(str(path), "docs", get_registry())
    assert stored(path) == expected([(1, "text 1"), (4, "text 4"), (9, "text 9")])


def test_trigger_row_replaced_by_primary_key_where_another_column_is_the_id(
    tmp_path, counting_model
):
    """The entry's id is the slug; the row that goes has another one."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id integer primary key, slug text, body text)")
    execute(path, "insert into docs values (1, 'old', 'text')")
    create(path, "docs", columns=["body"], id_columns=["slug"], model_id="count")
    watch(path)
    execute(path, "delete from _embed_changes")
    execute(path, "insert or replace into docs values (1, 'new', 'text')")
    assert noted(path) == ["new", "old"]
    drain(str(path), "docs", get_registry())
    assert set(stored(path)) == {"new"}
    assert len(items(counting_model)) == 1  # the same text has its vector already


def test_trigger_compound_key_compares_everything(tmp_path, counting_model):
    """Ids are never parsed; one row stands for all changes."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (a text, b text, body text, primary key (a, b)) without rowid")
    execute(path, *(f"insert into docs values ('x', '{n}', 'text {n}')" for n in range(3)))
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    execute(path, "update docs set body = 'new' where b = '1'", "delete from docs where b = '2'")
    assert noted(path) == [""]
    drain(str(path), "docs", get_registry())
    assert stored(path) == {"x,0": blob_of("text 0"), "x,1": blob_of("new")}
    assert items(counting_model) == ["text 0", "text 1", "text 2", "new"]
    assert noted(path) == []


def test_trigger_column_that_is_not_embedded_notes_nothing(tmp_path, counting_model):
    """But with a condition any column may decide."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id integer primary key, body text, hits integer)")
    execute(path, "insert into docs values (1, 'a', 0), (2, 'b', 0)")
    create(path, "docs", columns=["body"], model_id="count")
    create(path, "docs", columns=["body"], where="hits < 9", collection="few", model_id="count")
    for name in ("docs", "few"):
        watch(path, name)
        drain(str(path), name, get_registry())
    execute(path, "update docs set hits = 9 where id = 2")
    assert due_names(path) == ["few"]
    drain(str(path), "few", get_registry())
    assert set(stored(path, "few")) == {"1"} and set(stored(path)) == {"1", "2"}


def test_drain_equals_fresh_create_and_calls_the_model_for_changes_only(db, counting_model):
    """A hundred random changes, drained now and then, end where a new collection would."""
    chooser = random.Random(4)
    texts = dict(DOCS)
    embedded = 0
    for step in range(100):
        number = chooser.randrange(1, 12)
        text = chooser.choice(["", f"text {chooser.randrange(20)}", f"only {step}"])
        if chooser.random() < 0.3:
            execute(db, f"delete from docs where id = {number}")
            texts.pop(number, None)
        else:
            execute(db, f"insert or replace into docs values ({number}, '{text}')")
            texts[number] = text
            embedded += 1
        if step % 7 == 0:
            drain(str(db), "docs", get_registry())
    drain(str(db), "docs", get_registry())
    assert stored(db) == expected([(n, text) for n, text in texts.items() if text])
    assert noted(db) == [] and due_names(db) == []
    assert len(items(counting_model)) <= embedded
    assert len(query(db, "select * from _embed_jobs where action = 'watch'")) == 1


def test_drain_one_change_calls_the_model_once(db, counting_model):
    """The other rows are not even read."""
    execute(db, "update docs set body = 'new' where id = 2", "delete from docs where id = 3")
    assert drain(str(db), "docs", get_registry()) is JobStatus.FINISHED
    assert items(counting_model) == ["new"]
    assert set(stored(db)) == {"1", "2", "4", "5"}
    assert query(db, "select rows_done, removed, status from _embed_jobs where action = 'watch'")[
        0
    ] == (1, 1, "finished")
    assert drain(str(db), "docs", get_registry()) is None


def test_drain_row_that_changes_meanwhile_stays_noted(db, counting_model):
    """The older text is not the last word."""
    execute(db, "update docs set body = 'first' where id = 2")

    def embed_batch(batch: list[str], **options: object) -> list[list[float]]:
        if batch == ["first"]:
            execute(db, "update docs set body = 'second' where id = 2")
        return CountingModel.embed_batch(counting_model, batch)

    counting_model.embed_batch = embed_batch
    drain(str(db), "docs", get_registry())
    assert stored(db)["2"] == blob_of("first") and noted(db) == ["2"]
    drain(str(db), "docs", get_registry())
    assert stored(db)["2"] == blob_of("second") and noted(db) == []


def test_drain_many_keys_reads_the_table_once(db, counting_model, monkeypatch):
    """Looking up each would cost more."""
    monkeypatch.setattr(draining, "EVERYTHING_FROM", 2)
    execute(db, "update docs set body = 'new' where id < 3", "delete from docs where id = 5")
    monkeypatch.setattr(draining, "ChangedRows", None)  # not to be called
    drain(str(db), "docs", get_registry())
    assert stored(db) == expected([(1, "new"), (2, "new"), (3, "text 3"), (4, "text 4")])
    assert noted(db) == []


def test_drain_keeps_failures_of_other_rows(tmp_path, add_plugin):
    """What it did not look at fails as before; what it did look at is healed."""
    from tests.conftest import ModelsPlugin

    model = FailingModel(bad=["text 1", "text 2"])
    add_plugin(ModelsPlugin((model, ("count",))))
    path = make_docs(tmp_path / "a.db", DOCS)
    create(path, "docs", model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    failures = "select distinct entry_id from _embed_failures order by 1"
    assert query(path, failures) == [("1",), ("2",)]
    execute(path, "update docs set body = 'fine' where id = 2")
    drain(str(path), "docs", get_registry())
    assert query(path, failures) == [("1",)]
    assert stored(path)["2"] == blob_of("fine")


def test_drain_rebuilt_table_puts_triggers_back_and_compares(db, counting_model):
    """A table made anew has lost its triggers; nothing that changed then is missed."""
    execute(
        db,
        "create table other (id integer primary key, body text)",
        "insert into other select id, body from docs where id != 1",
        "insert into other values (8, 'new')",
        "drop table docs",
        "alter table other rename to docs",
    )
    assert due_names(db) == ["docs"]
    drain(str(db), "docs", get_registry())
    assert stored(db) == expected([*DOCS[1:], (8, "new")])
    assert items(counting_model) == ["new"] and due_names(db) == []
    execute(db, "update docs set body = 'newer' where id = 8")
    assert noted(db) == ["8"]


def test_drain_without_the_table_says_so_and_keeps_the_entries(db):
    """A dropped table is not an empty one."""
    execute(db, "drop table docs")
    with pytest.raises(SourceError, match="no table named 'docs'"):
        drain(str(db), "docs", get_registry())
    assert len(stored(db)) == 5


def test_drain_other_job_of_the_collection_waits(db):
    """Two at once could write the older text over the newer one."""
    execute(db, "update docs set body = 'new' where id = 2")
    execute(
        db,
        "insert into _embed_jobs (collection_id, collection, model_id, status, created_at)"
        " values (1, 'docs', 'counting', 'pending', '2026-01-01T00:00:00+00:00')",
    )
    with pytest.raises(JobStateError, match="the changes of 'docs' wait until it has ended"):
        drain(str(db), "docs", get_registry())
    assert noted(db) == ["2"] and stored(db)["2"] == blob_of("text 2")


def test_drain_paused_by_a_person_waits_until_it_is_resumed(db):
    """A later change is no reason to go on."""
    pause = "update _embed_jobs set status = 'paused', reason = 'paused on request'"
    execute(db, f"{pause} where action = 'watch'", "update docs set body = 'new' where id = 2")
    with pytest.raises(
        JobStateError, match="is paused: .* wait until you run jobs resume, or watch"
    ):
        drain(str(db), "docs", get_registry())
    assert stored(db)["2"] == blob_of("text 2")
    with closing(open_database(db, writable=True)) as conn:
        (job,) = [job for job in JobRecords(conn).list_jobs() if job.action == "watch"]
        JobRecords(conn).resume(job.id)
    assert drain(str(db), "docs", get_registry()) is JobStatus.FINISHED
    assert stored(db)["2"] == blob_of("new")


def test_drain_model_of_another_version_is_left_to_a_person(db, counting_model):
    """Embedding every row again is not what a change of one asks for."""
    execute(db, "update docs set body = 'new' where id = 2")
    counting_model.revision = "2"
    with pytest.raises(OutdatedCollectionError, match="another version of its model"):
        drain(str(db), "docs", get_registry())
    assert counting_model.calls == [] and noted(db) == ["2"]


def test_drain_stopped_keeps_what_was_noted(db, counting_model):
    """A server that stops leaves the rest to its next start."""
    execute(db, "update docs set body = 'new' where id = 2")
    stop = threading.Event()
    stop.set()
    status = drain(str(db), "docs", get_registry(), pause=stop)
    assert status is JobStatus.PENDING and noted(db) == ["2"]
    assert drain(str(db), "docs", get_registry()) is JobStatus.FINISHED
    assert items(counting_model) == ["new"] and noted(db) == []


def test_watch_of_a_stranger_starts_nothing(db, user_directory, counting_model):
    """Another machine has another secret; a changed row of ours no longer fits either."""
    execute(db, "update docs set body = 'new' where id = 2")
    for change in (
        "update _embed_watches set signature = null",
        "update _embed_watches set allows_paid = 1",
        "update _embed_watches set table_name = 'other'",
        "update _embed_collections set source = json_set(source, '$.where', '1=1')",
        "update collections set model = 'x'",
    ):
        copy = db.with_name("copy.db")
        copy.write_bytes(db.read_bytes())
        execute(copy, change)
        assert due_names(copy) == [], change
    with closing(open_database(db)) as conn:
        found = survey(conn, str(db))
        assert (found.due, found.strangers) == (["docs"], [])
        for file in user_directory.iterdir():
            file.unlink()
        found = survey(conn, str(db))
        assert (found.due, found.strangers) == ([], ["docs"])
    assert drain(str(db), "docs", get_registry()) is None
    assert counting_model.calls == [] and noted(db) == ["2"]


@pytest.mark.parametrize(
    "attributes", [{"is_local": False}, {"needs_key": "x"}, {"price_per_million_tokens": 0.1}]
)
def test_paid_model_needs_to_be_allowed(tmp_path, counting_model, attributes):
    """On the watch, and again when it is drained: the model may have become a paid one."""
    path = make_docs(tmp_path / "a.db", DOCS)
    create(path, "docs", model_id="count")
    watch(path)
    for name, value in attributes.items():
        setattr(counting_model, name, value)
    counting_model.calls.clear()
    with pytest.raises(PaidModelError, match="may cost money .* datasette embed watch --paid"):
        drain(str(path), "docs", get_registry())
    with pytest.raises(PaidModelError, match="'docs' is embedded with counting"):
        watch(path)
    assert counting_model.calls == []
    watch(path, allows_paid=True)
    assert drain(str(path), "docs", get_registry()) is JobStatus.FINISHED


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (SourceSpec(sql="select id, body from docs"), "is made from a query"),
        (SourceSpec(table="seen", columns=("body",)), "is made from a view, 'seen'"),
        (SourceSpec(table="words", columns=("body",)), "is made from a virtual table, 'words'"),
        (
            SourceSpec(table="docs", columns=("body",), where="id in (select 1)"),
            "its condition looks into other rows",
        ),
    ],
)
def test_start_watching_what_triggers_cannot_see_refused(tmp_path, counting_model, spec, reason):
    """Nothing is written where changes would be missed."""
    path = make_docs(tmp_path / "a.db", DOCS)
    execute(
        path,
        "create view seen as select id, body from docs",
        "create virtual table words using fts5 (body)",
        "insert into words values ('a word')",
    )
    run_job(path, counting_model, spec=spec)
    before = path.read_bytes()
    with pytest.raises(SourceError, match=reason):
        watch(path)
    assert path.read_bytes() == before


def test_delete_by_llm_leaves_triggers_that_note_nothing(db):
    """As LLM deletes: rows of its two tables. The next collection of this number starts clean."""
    execute(db, "delete from embeddings", "delete from collections")
    execute(db, "insert into docs values (9, 'new')")
    assert noted(db) == [] and query(db, "select * from _embed_watches") == []
    with closing(open_database(db, writable=True)) as conn:
        assert Watches(conn).list_orphans() == [(1, "docs")]
        assert Watches(conn).delete_orphans() == 1
    assert (
        query(
            db, "select name from sqlite_master where name like '\\_embed\\_watch\\_%' escape '\\'"
        )
        == []
    )


def test_delete_collection_leaves_no_trigger(db):
    """And every write of the user works on."""
    with closing(open_database(db, writable=True)) as conn:
        store = Store(conn)
        store.delete_collection(store.get_collection("docs"))
        assert Watches(conn).list_orphans() == []
    execute(db, "insert into docs values (9, 'new')", "delete from docs")
    assert query(db, "select count(*) from sqlite_master where type = 'trigger'") == [(0,)]


def test_key_that_is_no_text_compares_everything(tmp_path, counting_model):
    """Bytes that are no UTF-8 in a key cannot be looked up, and are forgotten all the same."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id text primary key, body text)")
    execute(path, "insert into docs values ('a', 'text')")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    execute(path, "insert into docs values (cast(x'ff' as text), 'bad')")
    execute(path, "insert into docs values ('a' || char(0) || 'b', 'bad')")
    assert drain(str(path), "docs", get_registry()) is JobStatus.FINISHED
    assert stored(path) == {"a": blob_of("text")}
    assert query(path, "select * from _embed_changes") == []
    # Cut at its NUL the key would be that of a row that is there.
    execute(path, "delete from docs where id != 'a'")
    drain(str(path), "docs", get_registry())
    assert stored(path) == {"a": blob_of("text")}


def test_drain_killed_anywhere_is_made_good_by_the_next(tmp_path):
    """The process dies inside its second model call; nothing it stored is embedded again."""
    path = make_docs(tmp_path / "a.db", [(n, f"text {n}") for n in range(40)])
    script = """
import os, sys
from pathlib import Path
from contextlib import closing
from datasette.plugins import pm
import datasette_embed
if not pm.is_registered(datasette_embed):
    pm.register(datasette_embed, name="embed")
from tests.conftest import ModelsPlugin
from tests.engine_fakes import FailingModel
from tests.test_watching import watch
from tests.storage import execute
from datasette_embed.draining import drain
from datasette_embed.registry import get_registry
from datasette_embed.runs import create
model = FailingModel(batch_size=4)
plugin = ModelsPlugin((model, ("count",)))
plugin.__name__ = "plugin"
pm.register(plugin)
path, log = Path(sys.argv[1]), sys.argv[2]
if sys.argv[3] == "die":
    create(path, "docs", model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    execute(path, "update docs set body = 'new ' || id where id < 20")
    execute(path, "delete from docs where id > 35")
    model.calls.clear()
    model.after_call = lambda calls: os.kill(os.getpid(), 9) if calls == 2 else None
drain(str(path), "docs", get_registry())
with open(log, "a") as file:
    file.write("\\n".join(model.items) + "\\n")
"""
    environment = {**os.environ, "DATASETTE_EMBED_USER_PATH": str(tmp_path / "user")}
    log = tmp_path / "log"
    ended = [
        subprocess.run(
            [sys.executable, "-c", script, path, log, how],
            env=environment,
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
        )
        for how in ("die", "live")
    ]
    assert [done.returncode for done in ended] == [-9, 0], [done.stderr for done in ended]
    texts = [(n, f"new {n}" if n < 20 else f"text {n}") for n in range(36)]
    assert stored(path) == expected(texts) and noted(path) == []
    # Four were stored by the first call, four were in flight in the second.
    assert len(log.read_text().split("\n")) - 1 == 16
    with closing(open_database(path)) as conn:
        (job,) = [job for job in JobRecords(conn).list_jobs() if job.action == "watch"]
    assert job.status is JobStatus.FINISHED


@pytest.mark.parametrize(
    ("index", "sql", "keys"),
    [
        ("slug collate nocase", "insert or replace into docs values (9, 'BOB', 'new')", ["1", "9"]),
        ("slug collate nocase", "update or replace docs set slug = 'BOB' where id = 2", ["1"]),
        ("lower(slug)", "insert or replace into docs values (9, 'BOB', 'new')", ["", "9"]),
        ("lower(slug)", "update or replace docs set slug = 'BOB' where id = 2", [""]),
        ("slug) where (id > 0", "insert or replace into docs values (9, 'bob', 'n')", ["", "9"]),
        (
            "slug, body collate rtrim",
            "insert or replace into docs values (9, 'al', 'b ')",
            ["2", "9"],
        ),
    ],
)
def test_trigger_row_replaced_through_any_unique_index_is_noted(
    tmp_path, counting_model, index, sql, keys
):
    """By the collation of the index; all rows where the row that goes cannot be named."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id integer primary key, slug text, body text)")
    execute(path, f"create unique index by_slug on docs ({index})")
    execute(path, "insert into docs values (1, 'bob', 'a'), (2, 'al', 'b')")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    execute(path, sql)
    assert noted(path) == keys
    drain(str(path), "docs", get_registry())
    assert set(stored(path)) == {str(n) for (n,) in query(path, "select id from docs")}


def test_trigger_row_replaced_by_row_number_is_noted(tmp_path, counting_model):
    """Which no index shows, where the id is another column."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (slug text primary key, body text)")
    execute(path, "insert into docs values ('a', 'text')")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    execute(path, "insert or replace into docs (rowid, slug, body) values (1, 'b', 'other')")
    assert noted(path) == ["a", "b"]


def test_trigger_id_replaced_in_another_case_is_noted(tmp_path, counting_model):
    """Two entries to us, one key to the table."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id text primary key collate nocase, body text)")
    execute(path, "insert into docs values ('a', 'text')")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    execute(path, "insert or replace into docs values ('A', 'other')")
    assert noted(path) == ["A", "a"]
    drain(str(path), "docs", get_registry())
    assert stored(path) == {"A": blob_of("other")}


def test_drain_after_a_new_index_renews_the_triggers_and_compares(tmp_path, counting_model):
    """What was replaced through it before anybody looked is found too."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id integer primary key, slug text, body text)")
    execute(path, "insert into docs values (1, 's1', 'a'), (2, 's2', 'b'), (3, 's3', 'c')")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    assert due_names(path) == []
    execute(path, "create unique index late on docs (slug)")
    assert due_names(path) == ["docs"]
    execute(path, "insert or replace into docs values (8, 's1', 'new')")
    drain(str(path), "docs", get_registry())
    assert set(stored(path)) == {"2", "3", "8"} and due_names(path) == []
    execute(path, "insert or replace into docs values (9, 's2', 'newer')")
    assert noted(path) == ["2", "9"]


@pytest.mark.parametrize("kind", ["pause", "cancel"])
def test_drain_stopped_by_a_person_stays_off_until_watched_again(db, counting_model, kind):
    """Neither a later change nor a sync goes on with it, and a sync leaves the pause alone."""
    with closing(open_database(db, writable=True)) as conn:
        (job,) = [job for job in JobRecords(conn).list_jobs() if job.action == "watch"]
        conn.execute("update _embed_jobs set status = 'pending' where id = ?", (job.id,))
        getattr(JobRecords(conn), kind)(job.id)
    execute(db, "update docs set body = 'new' where id = 2")
    with closing(open_database(db)) as conn:
        found = survey(conn, str(db))
        assert (found.due, found.held) == ([], ["docs"])
    with pytest.raises(JobStateError, match="wait until you run .*watch"):
        drain(str(db), "docs", get_registry())
    assert counting_model.calls == []
    sync(db, "docs", confirm=lambda question: True)
    assert items(counting_model) == ["new"]
    status = {"pause": "paused", "cancel": "cancelled"}[kind]
    jobs = "select status from _embed_jobs where action = 'watch' order by id"
    assert query(db, jobs) == [(status,)]
    watch(db)
    assert drain(str(db), "docs", get_registry()) is JobStatus.FINISHED
    assert noted(db) == [] and query(db, jobs)[-1] == ("finished",)


@pytest.mark.parametrize("allows_paid", [False, True])
def test_drain_that_failed_too_often_calls_no_text_twice(tmp_path, add_plugin, allows_paid):
    """A free model goes on with the others; one that costs money waits for a person."""
    from tests.conftest import ModelsPlugin

    rows = [(n, f"text {n}") for n in range(40)]
    model = FailingModel(batch_size=1)
    add_plugin(ModelsPlugin((model, ("count",))))
    path = make_docs(tmp_path / "a.db", rows)
    create(path, "docs", model_id="count")
    watch(path, allows_paid=allows_paid)
    drain(str(path), "docs", get_registry())
    execute(path, "update docs set body = 'new ' || id")
    model.bad = {f"new {n}" for n in range(40)}
    model.calls.clear()
    assert drain(str(path), "docs", get_registry()) is JobStatus.PAUSED
    assert len(model.items) == 25
    if allows_paid:
        with pytest.raises(JobStateError, match="is paused: .* until you run jobs resume"):
            drain(str(path), "docs", get_registry())
        assert len(model.items) == 25
        with closing(open_database(path, writable=True)) as conn:
            JobRecords(conn).resume(2)
    assert drain(str(path), "docs", get_registry()) is JobStatus.FINISHED
    assert sorted(model.items) == sorted(model.bad)
    assert query(path, "select count(distinct entry_id) from _embed_failures") == [(40,)]
    assert query(path, "select failed, rows_done, rows_total from _embed_jobs where id = 2") == [
        (40, 40, 40)
    ]
    model.bad = set()
    execute(path, "update docs set body = 'fine' where id = 3")
    drain(str(path), "docs", get_registry())
    assert model.items[40:] == ["fine"] and stored(path)["3"] == blob_of("fine")
    assert query(path, "select count(distinct entry_id) from _embed_failures") == [(39,)]


def test_drain_keeps_a_failure_that_another_job_recorded(tmp_path, add_plugin):
    """It is not tried again, and not forgotten."""
    from tests.conftest import ModelsPlugin

    model = FailingModel(bad=["text 1"])
    add_plugin(ModelsPlugin((model, ("count",))))
    path = make_docs(tmp_path / "a.db", DOCS)
    create(path, "docs", model_id="count")
    watch(path)
    model.calls.clear()
    assert drain(str(path), "docs", get_registry()) is JobStatus.FINISHED
    assert model.calls == []
    failures = query(path, "select job_id, entry_id, message, attempts from _embed_failures")
    assert failures == [(2, "1", "counting: cannot", 1)]


def test_drain_of_everything_knows_how_many_rows_there_are(db):
    """One mark stands for them all."""
    watch(db)
    drain(str(db), "docs", get_registry())
    assert query(db, "select rows_total, rows_done from _embed_jobs where action = 'watch'") == [
        (5, 5)
    ]


@pytest.mark.parametrize("table", ["_embed_changes", "_embed_watches"])
def test_mend_frees_the_table_and_restores_the_watch_that_is_left(db, counting_model, table):
    """Another program dropped a table that the triggers write."""
    execute(db, f"drop table {table}")
    with pytest.raises(Exception, match="no such table"):
        execute(db, "insert into docs values (8, 'eight')")
    with closing(open_database(db, writable=True)) as conn:
        assert survey(conn, str(db)).is_broken
        assert not survey(conn, str(db), compares_triggers=False).is_broken
        assert mend(conn, str(db)) == 4
        assert not survey(conn, str(db)).is_broken
    execute(db, "insert into docs values (9, 'nine')")
    if table == "_embed_changes":
        assert due_names(db) == ["docs"]
        drain(str(db), "docs", get_registry())
        assert items(counting_model) == ["nine"]
        execute(db, "update docs set body = 'ten' where id = 9")
        assert noted(db) == ["9"]
    else:
        assert due_names(db) == []


def test_survey_of_a_million_watches_reads_a_thousand(db, monkeypatch):
    """A stranger's file; those beyond are not even counted."""
    monkeypatch.setattr(watches_module, "MOST_WATCHES", 3)
    execute(
        db,
        "insert into collections (name, model) values ('a', 'count'), ('b', 'count'),"
        " ('c', 'count')",
        "insert into _embed_watches select id, 'docs', 'id', 1, 'x', '' from collections"
        " where id > 1",
    )
    with closing(open_database(db)) as conn:
        assert survey(conn, str(db)).strangers == ["a", "b"]
    with pytest.raises(SourceError, match="cannot be watched: its file has 3 watches already"):
        watch(db)


def test_changed_rows_leaves_out_keys_with_nul(db):
    """SQLite's JSON would look up, and delete, the row whose key is the part before it."""
    with closing(open_database(db)) as conn:
        spec = SourceSpec(table="docs", columns=("body",))
        rows = ChangedRows(conn, spec, str(db), ["2", "3\0x"])
        assert rows.only == {"2"}
        assert [row.entry_id for window in rows.iter_windows() for row in window] == ["2"]


def test_drain_key_with_nul_removes_no_other_entry(tmp_path, counting_model):
    """The key alone is noted, so the rows are looked up one by one."""
    path = tmp_path / "a.db"
    execute(path, "create table docs (id text primary key, body text)")
    execute(path, "insert into docs values ('a', 'text')")
    create(path, "docs", columns=["body"], model_id="count")
    watch(path)
    drain(str(path), "docs", get_registry())
    execute(path, "insert into docs values ('a' || char(0) || 'b', 'bad')")
    execute(path, "delete from docs where id != 'a'")
    assert noted(path) == ["a\0b"]
    assert drain(str(path), "docs", get_registry()) is JobStatus.FINISHED
    assert stored(path) == {"a": blob_of("text")} and noted(path) == []
