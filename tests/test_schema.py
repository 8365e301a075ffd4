"""LLM's tables exactly, ours beside them, and triggers that any tool may set off."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing

import pytest

from datasette_embed import schema, schema_sql
from datasette_embed.database import open_database, sqlite3
from datasette_embed.errors import SourceError
from tests.storage import execute, query

# Written down from a file that LLM 0.36 made.
LLM_COLUMNS = {
    "collections": [("id", "INTEGER", 1), ("name", "TEXT", 0), ("model", "TEXT", 0)],
    "embeddings": [
        ("collection_id", "INTEGER", 1),
        ("id", "TEXT", 2),
        ("embedding", "BLOB", 0),
        ("content", "TEXT", 0),
        ("content_blob", "BLOB", 0),
        ("content_hash", "BLOB", 0),
        ("metadata", "TEXT", 0),
        ("updated", "INTEGER", 0),
    ],
    "_sqlite_migrations": [
        ("id", "INTEGER", 1),
        ("migration_set", "TEXT", 0),
        ("name", "TEXT", 0),
        ("applied_at", "TEXT", 0),
    ],
}
LLM_INDEXES = {
    ("idx_collections_name", "collections", 1, "name"),
    ("idx_embeddings_content_hash", "embeddings", 0, "content_hash"),
    ("idx__sqlite_migrations_migration_set_name", "_sqlite_migrations", 1, "migration_set,name"),
}
LLM_MIGRATIONS = [
    "m001_create_tables",
    "m002_foreign_key",
    "m003_add_updated",
    "m004_store_content_hash",
    "m005_add_content_blob",
]
OLD_LLM = (
    "create table [_sqlite_migrations] ([migration_set] TEXT, [name] TEXT, [applied_at] TEXT,"
    " PRIMARY KEY ([migration_set], [name]))",
    "create table [collections] ([id] INTEGER PRIMARY KEY, [name] TEXT, [model] TEXT)",
    "create unique index idx_collections_name on collections (name)",
    "create table [embeddings] ([collection_id] INTEGER REFERENCES [collections]([id]),"
    " [id] TEXT, [embedding] BLOB, [content] TEXT, [metadata] TEXT,"
    " PRIMARY KEY ([collection_id], [id]))",
    "insert into _sqlite_migrations values ('llm.embeddings', 'm001_create_tables', 'x')",
    "insert into _sqlite_migrations values ('llm.embeddings', 'm002_foreign_key', 'x')",
    "insert into collections values (1, 'old', 'm')",
    "insert into embeddings values (1, 'a', x'0000803f', 'text', null)",
)


def ensure(path):
    with closing(open_database(path, writable=True, create=True)) as conn:
        schema.ensure_schema(conn, str(path))


@pytest.fixture
def db(tmp_path):
    """A file with all tables."""
    path = tmp_path / "a.db"
    ensure(path)
    return path


def generation(path, collection_id=1):
    rows = query(
        path,
        "select generation from _embed_generations where collection_id = ?",
        (collection_id,),
    )
    return rows[0][0] if rows else 0


def test_ensure_schema_new_file_has_llms_tables_exactly(db):
    """Columns, types, keys, indexes, the foreign key and the five migrations are LLM's."""
    for table, columns in LLM_COLUMNS.items():
        found = query(db, "select name, type, pk from pragma_table_info(?)", (table,))
        assert found == columns, table
    indexes = query(
        db,
        "select m.name, m.tbl_name, l.[unique], (select group_concat(name) from"
        " (select name from pragma_index_info(m.name) order by seqno))"
        " from sqlite_master as m join pragma_index_list(m.tbl_name) as l on l.name = m.name"
        " where m.type = 'index' and m.sql is not null and m.tbl_name not like '\\_embed\\_%'"
        " escape '\\'",
    )
    assert set(indexes) == LLM_INDEXES
    foreign = query(db, "select [table], [from], [to] from pragma_foreign_key_list('embeddings')")
    assert foreign == [("collections", "collection_id", "id")]
    recorded = query(
        db,
        "select name from _sqlite_migrations where migration_set = 'llm.embeddings' order by name",
    )
    assert [name for (name,) in recorded] == LLM_MIGRATIONS
    assert query(db, "select count(*) from _sqlite_migrations where applied_at is null") == [(0,)]


def test_ensure_schema_new_file_keeps_pragmas(db):
    """Nothing about the file itself is changed."""
    for pragma, value in (("journal_mode", "delete"), ("user_version", 0), ("application_id", 0)):
        assert query(db, f"pragma {pragma}") == [(value,)]


def test_ensure_schema_second_time_changes_no_byte(db):
    """Opening a complete file writes nothing, and needs no right to write."""
    before = db.read_bytes()
    ensure(db)
    assert db.read_bytes() == before
    with closing(open_database(db)) as conn:
        schema.ensure_schema(conn, str(db))
    assert db.read_bytes() == before


def test_ensure_schema_old_llm_file_is_finished_and_keeps_rows(tmp_path):
    """The old shape of the migrations table works; missing columns and records are added."""
    path = tmp_path / "old.db"
    execute(path, *OLD_LLM)
    ensure(path)
    names = [name for (name,) in query(path, "select name from pragma_table_info('embeddings')")]
    assert set(names) == {name for name, _, _ in LLM_COLUMNS["embeddings"]}
    assert query(path, "select id, embedding, content from embeddings") == [
        ("a", b"\x00\x00\x80?", "text")
    ]
    recorded = query(
        path,
        "select name, count(*) from _sqlite_migrations where migration_set = 'llm.embeddings'"
        " group by 1 order by 1",
    )
    assert recorded == [(name, 1) for name in LLM_MIGRATIONS]
    before = path.read_bytes()
    ensure(path)
    assert path.read_bytes() == before


def test_ensure_schema_later_llm_file_extra_things_tolerated(db):
    """A later LLM may add a migration, a column and a table."""
    execute(
        db,
        "alter table embeddings add column extra text",
        "insert into _sqlite_migrations (migration_set, name) values ('llm.embeddings', 'm006_x')",
    )
    before = db.read_bytes()
    ensure(db)
    assert db.read_bytes() == before


def test_ensure_schema_table_rebuilt_triggers_restored(db):
    """A rebuild of the table (sqlite-utils transform) drops the triggers in silence."""
    execute(db, "drop trigger _embed_entry_inserted", "drop trigger _embed_collection_deleted")
    with closing(open_database(db)) as conn:
        assert set(schema.missing_triggers(conn)) == {
            "_embed_entry_inserted",
            "_embed_collection_deleted",
        }
    ensure(db)
    with closing(open_database(db)) as conn:
        assert schema.missing_triggers(conn) == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("create table collections (id integer primary key, title text)", "a table named 'collec"),
        ("create table embeddings (doc text, vector blob)", "a table named 'embeddings'"),
        ("create view embeddings as select 1 as id", "a view named 'embeddings'"),
        (
            "create view collections as select 1 as id, 'x' as name, 'y' as model",
            "a view named 'collections'",
        ),
    ],
)
def test_ensure_schema_foreign_table_refused_unchanged(tmp_path, statement, words):
    """Somebody else's table is left alone, to the byte, and the way out is named."""
    path = tmp_path / "mine.db"
    execute(path, statement)
    before = path.read_bytes()
    with pytest.raises(
        SourceError, match=rf"{words}.* of its own.*keep the vectors in a file of their own"
    ):
        ensure(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("table", ["collections", "embeddings"])
def test_ensure_schema_only_one_of_llms_tables_refused_unchanged(tmp_path, table):
    """A table that only looks like LLM's, without the other, is not LLM's."""
    path = tmp_path / "mine.db"
    columns = ", ".join(name for name, _, _ in LLM_COLUMNS[table])
    execute(path, f"create table {table} ({columns})")
    before = path.read_bytes()
    with pytest.raises(SourceError, match=f"'{table}'.*file of their own"):
        ensure(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("moment", range(1, 6))
def test_refuse_foreign_tables_made_between_its_looks_are_ours(tmp_path, moment):
    """Another process makes the two tables just before the nth statement."""
    path = str(tmp_path / "a.db")
    statements = []

    def trace(statement):
        statements.append(statement)
        if len(statements) == moment:
            with closing(open_database(path, writable=True)) as other:
                schema.ensure_schema(other, path)

    execute(path, "create table rows_of_a_user (a)")
    with closing(open_database(path, writable=True)) as conn:
        conn.set_trace_callback(trace)
        schema.refuse_foreign(conn, path)
        conn.set_trace_callback(None)
        schema.refuse_foreign(conn, path)
    assert statements


def test_ensure_schema_several_processes_at_once_all_succeed(tmp_path):
    """Four processes that open one new file make one set of tables."""
    path = tmp_path / "new.db"
    script = (
        "import sys; from contextlib import closing\n"
        "from datasette_embed.database import open_database\n"
        "from datasette_embed.schema import ensure_schema\n"
        "sys.stdin.readline()\n"
        "with closing(open_database(sys.argv[1], writable=True, create=True)) as conn:\n"
        "    ensure_schema(conn, sys.argv[1])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    recorded = query(path, "select migration_set, count(*) from _sqlite_migrations group by 1")
    assert recorded == [("datasette_embed", 3), ("llm.embeddings", 5)]


def test_ensure_schema_file_of_an_earlier_version_gets_the_tables_it_lacks(db):
    """What is there stays, what came later is made, and the second time nothing is written."""
    complete = query(db, "select name, sql from sqlite_master order by name")
    trigger = schema_sql.TRIGGERS["_embed_collection_deleted"]
    execute(
        db,
        "drop trigger _embed_collection_deleted",
        f"{trigger.partition('  delete from _embed_similarity')[0]}end",
        "drop table _embed_similarities",
        "drop table _embed_similarity_entries",
        "delete from _sqlite_migrations where name = 'm002_similarities'",
        "insert into collections values (1, 'docs', 'm')",
        "insert into _embed_collections values (1, 'docs', 'm', 'f', 8, 'cosine', null, 0, 0, 'x')",
    )
    ensure(db)
    assert query(db, "select name, sql from sqlite_master order by name") == complete
    assert query(db, "select name from _embed_collections") == [("docs",)]
    assert query(
        db, "select name from _sqlite_migrations where migration_set = 'datasette_embed'"
    ) == [("m001_create_tables",), ("m002_similarities",), ("m003_server",)]
    before = db.read_bytes()
    ensure(db)
    assert db.read_bytes() == before


def test_open_for_reading_llm_file_not_altered(tmp_path):
    """Looking into LLM's file changes nothing in it."""
    from datasette_embed.store import Store

    path = tmp_path / "old.db"
    execute(path, *OLD_LLM)
    before = path.read_bytes()
    with closing(open_database(path)) as conn:
        assert schema.has_collections(conn)
        assert not schema.has_our_tables(conn)
        record = Store(conn).get_collection("old")
        assert (record.model_id, record.dimensions, record.source) == ("m", 1, None)
        assert Store(conn).generation(1) is None
        assert Store(conn).count_warnings(1) == {}
    assert path.read_bytes() == before


@pytest.mark.parametrize("recursive_triggers", ["on", "off"])
def test_triggers_every_change_grows_the_generation(db, recursive_triggers):
    """Insert, replace, update and delete are all noticed, with LLM's pragma and without."""
    execute(db, "insert into collections values (1, 'a', 'm'), (2, 'b', 'm')")
    seen = []
    for statement in (
        "insert into embeddings (collection_id, id, embedding) values (1, 'x', x'01')",
        "insert or replace into embeddings (collection_id, id, embedding) values (1, 'x', x'02')",
        "insert or ignore into embeddings (collection_id, id, embedding) values (1, 'y', x'03')",
        "update embeddings set embedding = x'04' where id = 'x'",
        "insert into embeddings (collection_id, id) values (1, 'x')"
        " on conflict (collection_id, id) do update set embedding = x'05'",
        "update or replace embeddings set id = 'y' where id = 'x'",
        "delete from embeddings",
    ):
        before = generation(db)
        with closing(sqlite3.connect(db)) as conn, conn:
            conn.execute(f"pragma recursive_triggers = {recursive_triggers}")
            conn.execute(statement)
        seen.append(generation(db) > before)
    assert seen == [True] * 7
    assert generation(db, 2) == 0


def test_triggers_entry_moved_both_collections_grow(db):
    """The collection that loses an entry has changed as well."""
    execute(
        db,
        "insert into collections values (1, 'a', 'm'), (2, 'b', 'm')",
        "insert into embeddings (collection_id, id) values (1, 'x')",
    )
    before = generation(db, 1), generation(db, 2)
    execute(db, "update embeddings set collection_id = 2")
    assert generation(db, 1) > before[0]
    assert generation(db, 2) > before[1]


@pytest.mark.parametrize("collection_id", ["null", "'text'", "x'01'"])
def test_triggers_odd_collection_id_write_goes_through(db, collection_id):
    """Whatever another tool writes, our triggers neither stop it nor make up a generation."""
    execute(db, f"insert into embeddings (collection_id, id) values ({collection_id}, 'x')")
    execute(db, "update embeddings set id = 'y'", "delete from embeddings")
    assert query(db, "select * from _embed_generations") == []


def test_triggers_collection_deleted_reused_id_inherits_nothing(db):
    """SQLite gives the id of a deleted collection to the next one."""
    execute(
        db,
        "insert into collections values (1, 'a', 'm')",
        "insert into _embed_collections (collection_id, name, model, fingerprint, dimensions,"
        " metric, store, created_at) values (1, 'a', 'm', 'm', 8, 'dot', 1, 'now')",
        "insert into embeddings (collection_id, id) values (1, 'x')",
        "insert into _embed_warnings values (1, 'x', 'truncated', 9, 1)",
        "insert into _embed_warnings values (1, 'y', 'truncated', 9, 1)",
        "delete from collections where id = 1",
        "insert into collections (name, model) values ('b', 'm')",
    )
    assert query(db, "select id from collections") == [(1,)]
    for table in ("_embed_collections", "_embed_generations", "_embed_warnings"):
        assert query(db, f"select * from {table}") == [], table


@pytest.mark.parametrize("recursive_triggers", ["on", "off"])
def test_triggers_entry_overwritten_its_warning_goes(db, recursive_triggers):
    """A warning is about a vector, so it goes with it."""
    execute(
        db,
        "insert into embeddings (collection_id, id) values (1, 'x'), (1, 'y')",
        "insert into _embed_warnings values (1, 'x', 'truncated', 9, 1)",
        "insert into _embed_warnings values (1, 'y', 'truncated', 9, 1)",
    )
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute(f"pragma recursive_triggers = {recursive_triggers}")
        conn.execute("insert or replace into embeddings (collection_id, id) values (1, 'x')")
    assert query(db, "select entry_id from _embed_warnings") == [("y",)]


def test_now_is_utc_iso_8601():
    """Times are comparable as text."""
    from datetime import datetime, timedelta

    moment = datetime.fromisoformat(json.loads(json.dumps(schema.now())))
    assert moment.utcoffset() == timedelta(0)
    assert moment.microsecond == 0


def test_triggers_collection_deleted_its_jobs_and_failures_go(db):
    """Those of another collection stay."""
    job = "insert into _embed_jobs (id, collection_id, collection, model_id, status, created_at)"
    execute(
        db,
        "insert into collections values (1, 'a', 'm'), (2, 'b', 'm')",
        f"{job} values (5, 1, 'a', 'm', 'running', 'now'), (6, 2, 'b', 'm', 'running', 'now')",
        "insert into _embed_failures values (5, 'x', null, 'no', 1), (6, 'x', null, 'no', 1)",
        "delete from collections where id = 1",
    )
    assert query(db, "select id from _embed_jobs") == [(6,)]
    assert query(db, "select job_id from _embed_failures") == [(6,)]


def test_jobs_numbers_are_never_used_again(db):
    """Whoever asks for the job of a deleted collection must not get another's."""
    job = "insert into _embed_jobs (collection_id, collection, model_id, status, created_at)"
    values = "values (1, 'a', 'm', 'running', 'now')"
    insert = "insert into collections values (1, 'a', 'm')"
    execute(db, insert, f"{job} {values}", "delete from collections", insert, f"{job} {values}")
    assert query(db, "select id from _embed_jobs") == [(2,)]


@pytest.mark.parametrize(
    "statement",
    [
        "create view {} as select 1 as id, 2 as name, 3 as model",
        "create virtual table {} using fts5(id, name, model)",
    ],
    ids=["view", "virtual"],
)
def test_has_table_only_what_holds_its_rows(tmp_path, statement):
    """A view or a search table of this name runs what a stranger wrote."""
    path = tmp_path / "own.db"
    names = "id, name, model, collection_id, embedding, content, metadata"
    execute(path, f"create table Embeddings ({names})", statement.format("collections"))
    execute(path, statement.format("_embed_collections"))
    with closing(open_database(path)) as conn:
        assert schema.has_table(conn, "embeddings")
        assert not schema.has_table(conn, "collections")
        assert not schema.has_collections(conn)
        assert not schema.has_our_tables(conn)
