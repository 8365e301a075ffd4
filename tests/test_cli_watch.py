"""``watch`` and ``unwatch``: what they say, what they leave, and what ``check`` finds."""

from __future__ import annotations

import pytest

from tests.storage import embed, execute, make_docs, query, refused

TRIGGERS = (
    "select name from sqlite_master where type = 'trigger' and name like '%watch%' order by 1"
)


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded."""
    path = make_docs(tmp_path / "a.db", [(n, f"text {n}") for n in range(1, 4)])
    embed("create", path, "docs", "--model", "count")
    return path


def test_watch_sets_triggers_and_unwatch_leaves_nothing(db):
    """The line says how it ends; the file is as before."""
    before = query(db, "select type, name, sql from sqlite_master order by 2")
    said = embed("watch", db, "docs")
    assert (said.stdout, said.stderr) == (
        "",
        f"Watching 'docs': a Datasette server with {db} embeds what changes. "
        f"To end that, and before you drop a column of its table: "
        f"datasette embed unwatch {db} docs\n",
    )
    assert [name for (name,) in query(db, TRIGGERS)] == [
        f"_embed_watch_1_{event}" for event in ("deleted", "inserted", "moved", "updated")
    ]
    execute(db, "insert into docs values (9, 'new')")
    assert query(db, "select key from _embed_changes order by 1") == [("",), ("9",)]
    assert embed("unwatch", db).stderr == "'docs' is no longer watched\n"
    assert query(db, "select type, name, sql from sqlite_master order by 2") == before
    for table in ("_embed_watches", "_embed_changes"):
        assert query(db, f"select * from {table}") == []


def test_watch_again_is_one_watch(db):
    """Triggers of an earlier version are replaced."""
    embed("watch", db, "docs")
    execute(db, "drop trigger _embed_watch_1_moved")
    embed("watch", db, "docs", "--paid")
    assert len(query(db, TRIGGERS)) == 4
    assert query(db, "select table_name, key_column, allows_paid from _embed_watches") == [
        ("docs", "id", 1)
    ]


def test_unwatch_what_is_not_watched_says_so(db):
    """No error, and no other collection is touched."""
    assert embed("unwatch", db, "docs").stderr == "'docs' was not watched\n"
    assert embed("unwatch", db).stderr == f"No collection of {db} was watched\n"
    assert "Collection 'gone' does not exist" in refused("unwatch", db, "gone", files=[db])


def test_watch_without_a_collection_is_a_wrong_call(db):
    """It would be too easy to have everything embedded by itself."""
    assert "Missing argument 'COLLECTION'" in refused("watch", db, files=[db], code=2)


def test_watch_refused_with_the_reason(db, tmp_path, counting_model):
    """What no trigger can see, what may cost money, what has no source."""
    execute(db, "create view seen as select id, body from docs")
    embed("create", db, "seen", "--columns", "body", "--model", "count")
    reason = refused("watch", db, "seen", files=[db])
    assert reason == (
        "collection 'seen': is made from a view, 'seen', whose changes cannot be noted: "
        "run sync instead"
    )
    other = tmp_path / "vectors.db"
    embed("create", db, "docs", "--into", other, "--model", "count")
    assert "its rows are in another file" in refused("watch", other, "docs", files=[db, other])
    execute(db, "update _embed_collections set source = null where name = 'seen'")
    assert "does not say what it was made from" in refused("watch", db, "seen", files=[db])
    counting_model.price_per_million_tokens = 0.1
    assert refused("watch", db, "docs", files=[db]) == (
        "'docs' is embedded with counting, which may cost money with every change of its table: "
        "allow that with datasette embed watch --paid"
    )
    embed("watch", db, "docs", "--paid")
    assert len(query(db, TRIGGERS)) == 4


def test_rename_keeps_the_watch_signed_and_delete_ends_it(db):
    """A signature names the collection; that of a stranger is not made ours by renaming."""
    embed("watch", db, "docs")
    embed("collections", "rename", db, "docs", "papers")
    assert "no problems" in embed("check", db).stderr
    execute(db, "update _embed_watches set signature = 'x'")
    embed("collections", "rename", db, "papers", "docs")
    assert "its watch was not set up" in embed("check", db, expect=1).stdout
    embed("collections", "delete", db, "docs", "--yes")
    assert query(db, TRIGGERS) == [] and query(db, "select * from _embed_watches") == []
    execute(db, "delete from docs")


def test_check_names_watches_that_do_not_work(db):
    """A copy of the file, and a table that lost its triggers."""
    embed("watch", db, "docs")
    assert "no problems" in embed("check", db).stderr
    copy = db.with_name("copy.db")
    copy.write_bytes(db.read_bytes())
    said = embed("check", copy, expect=1)
    assert said.stdout == (
        "docs: its watch was not set up for this file on this machine: nothing follows its table\n"
    )
    assert said.stderr == (
        f"To watch it from here: datasette embed watch {copy} docs\n"
        f"To end its watch: datasette embed unwatch {copy} docs\n"
    )
    embed("watch", copy, "docs")
    assert "no problems" in embed("check", copy).stderr
    execute(db, "drop trigger _embed_watch_1_inserted")
    assert embed("check", db, expect=1).stdout == (
        "docs: changes of its table are not noted any more, for its triggers are gone. "
        "A Datasette server puts them back\n"
    )


def test_check_repair_removes_what_is_left_of_watches(db):
    """A tool that knows nothing of watches deleted the collection."""
    embed("watch", db, "docs")
    execute(db, "delete from embeddings", "delete from collections")
    said = embed("check", db, expect=1)
    assert said.stdout == "triggers on table docs of a watch that serves no collection\n"
    assert said.stderr == (
        f"To remove what is left of watches: datasette embed check --repair {db}\n"
    )
    said = embed("check", db, "--repair")
    assert said.stderr == "Removed: triggers on table docs of a watch that serves no collection\n"
    assert query(db, TRIGGERS) == []


def test_check_repair_frees_a_table_whose_triggers_fail(db):
    """Where our tables were dropped, nobody can write the table until the triggers go."""
    embed("watch", db, "docs")
    execute(db, "drop table _embed_watches", "drop table _embed_changes")
    with pytest.raises(Exception, match="no such table: main._embed_"):
        execute(db, "insert into docs values (9, 'new')")
    said = embed("check", db, expect=1)
    assert (
        "triggers on table docs, which stops every program that writes it, of a watch "
        "that serves no collection" in said.stdout
    )
    embed("check", db, "--repair", expect=1)  # the tables themselves come with the next sync
    execute(db, "insert into docs values (9, 'new')")


def test_check_repair_frees_a_table_when_one_of_ours_is_gone(db):
    """The watch is still there, and goes on where a server has the file open."""
    embed("watch", db, "docs")
    execute(db, "drop table _embed_changes")
    embed("check", db, "--repair", expect=1)  # the table itself comes with the next sync
    execute(db, "insert into docs values (9, 'new')")
    assert query(db, TRIGGERS) == []
    assert len(query(db, "select * from _embed_watches")) == 1


def test_unwatch_lets_a_column_be_dropped(db):
    """SQLite itself refuses that while a trigger speaks of the column."""
    embed("watch", db, "docs")
    with pytest.raises(Exception, match="error in trigger _embed_watch_1_updated"):
        execute(db, "alter table docs drop column body")
    embed("unwatch", db, "docs")
    execute(db, "alter table docs drop column body")


def test_jobs_resume_leaves_a_watch_to_a_server(db, counting_model):
    """In the terminal it would read the whole table, and the server would do it again."""
    embed("watch", db, "docs")
    execute(
        db,
        "insert into _embed_jobs (collection_id, collection, model_id, status, created_at,"
        " action) values (1, 'docs', 'counting', 'paused', '2026-01-01', 'watch')",
    )
    counting_model.calls.clear()
    assert embed("jobs", "resume", db, "2").stderr == (
        f"Job 2 of 'docs' goes on: a Datasette server with {db} does it.\n"
    )
    status = "select status from _embed_jobs where id = 2"
    assert query(db, status) == [("pending",)] and counting_model.calls == []
    embed("jobs", "pause", db, "2")
    embed("unwatch", db)
    assert "'docs' is not watched on this machine" in refused("jobs", "resume", db, "2", files=[db])
    assert query(db, status) == [("paused",)]


def test_jobs_retry_does_not_wait_for_a_watch(db, counting_model):
    """Its job rests whenever nothing changes."""
    embed("watch", db, "docs")
    execute(
        db,
        "insert into _embed_jobs (collection_id, collection, model_id, status, created_at,"
        " action) values (1, 'docs', 'counting', 'paused', '2026-01-01', 'watch')",
        "insert into _embed_failures (job_id, entry_id, message, attempts) values (2, '1', 'x', 1)",
    )
    embed("jobs", "retry", db, "2", "--yes")
    assert query(db, "select action, status from _embed_jobs where id > 1") == [
        ("watch", "paused"),
        ("retry", "finished"),
    ]
