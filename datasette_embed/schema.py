"""Every table, migration and trigger.

Layer 2: imports ``errors`` and ``database``. ``collections`` and ``embeddings`` are
LLM's, exactly (llm 0.36, ``embeddings_migrations.py``); what LLM has no place for lives
beside them in tables named ``_embed_*``. No query that reads or writes rows of data
belongs here.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from .database import sqlite3, write_transaction
from .errors import SourceError

LLM_SET = "llm.embeddings"
OUR_SET = "datasette_embed"

# LLM opens a file only when all five are recorded: without them it would try to create
# its tables again and fail.
_LLM_MIGRATIONS = (
    "m001_create_tables",
    "m002_foreign_key",
    "m003_add_updated",
    "m004_store_content_hash",
    "m005_add_content_blob",
)

_MIGRATION_TABLE = """
create table "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY, "migration_set" TEXT, "name" TEXT, "applied_at" TEXT
);
create unique index "idx__sqlite_migrations_migration_set_name"
    on "_sqlite_migrations" ("migration_set", "name");
"""

_LLM_TABLES = """
create table "collections" ("id" INTEGER PRIMARY KEY, "name" TEXT, "model" TEXT);
create unique index "idx_collections_name" on "collections" ("name");
create table "embeddings" (
   "collection_id" INTEGER REFERENCES "collections"("id"),
   "id" TEXT,
   "embedding" BLOB,
   "content" TEXT,
   "content_blob" BLOB,
   "content_hash" BLOB,
   "metadata" TEXT,
   "updated" INTEGER,
   PRIMARY KEY ("collection_id", "id")
);
create index "idx_embeddings_content_hash" on "embeddings" ("content_hash");
"""

_OUR_TABLES = """
create table _embed_collections (
   collection_id integer primary key,
   name text not null,
   model text not null,
   fingerprint text not null,
   dimensions integer,
   metric text not null,
   source text,
   store integer not null default 0,
   rebuilding integer not null default 0,
   created_at text not null
);
create table _embed_generations (
   collection_id integer primary key,
   generation integer not null
);
create table _embed_warnings (
   collection_id integer not null,
   entry_id text not null,
   warning text not null,
   tokens integer not null,
   tokens_lost integer not null,
   primary key (collection_id, entry_id, warning)
);
create table _embed_jobs (
   id integer primary key,
   collection_id integer,
   collection text not null,
   model_id text not null,
   status text not null,
   reason text,
   owner text,
   epoch integer not null default 0,
   heartbeat_at text,
   rows_total integer not null default 0,
   rows_done integer not null default 0,
   embedded integer not null default 0,
   reused integer not null default 0,
   unchanged integer not null default 0,
   refreshed integer not null default 0,
   blank integer not null default 0,
   failed integer not null default 0,
   removed integer not null default 0,
   tokens integer not null default 0,
   created_at text not null,
   started_at text,
   finished_at text
);
create table _embed_failures (
   job_id integer not null,
   entry_id text not null,
   content_hash blob,
   message text not null,
   attempts integer not null,
   primary key (job_id, entry_id)
);
create table _embed_similarities (
   table_name text primary key collate nocase,
   collection_id integer not null,
   collection text not null,
   model text not null,
   fingerprint text,
   metric text not null,
   number integer not null
);
create table _embed_similarity_entries (
   table_name text not null collate nocase,
   entry_id text not null,
   digest blob not null,
   primary key (table_name, entry_id)
) without rowid;
"""

#: Every table made here: not something to embed.
OUR_TABLES = frozenset(
    re.findall(r'create table "?(\w+)', _MIGRATION_TABLE + _LLM_TABLES + _OUR_TABLES)
)

_BUMP = """
  insert into _embed_generations (collection_id, generation)
    select {row}.collection_id, 0 where typeof({row}.collection_id) = 'integer' and not exists (
      select 1 from _embed_generations where collection_id = {row}.collection_id);
  update _embed_generations set generation = generation + 1 + (random() & 16777215)
    where collection_id = {row}.collection_id;
"""
# In steps nobody can foresee: two files, or one file made anew under the same name, must
# not come to the same number with other vectors behind it.
#
# Not an upsert and not "insert or ignore": LLM writes with INSERT OR REPLACE, and SQLite
# lets the outer statement's conflict rule override the one inside a trigger, which would
# set the generation back to the start.

#: name -> SQL. They touch plain tables only, so that LLM and any other tool can write.
TRIGGERS = {
    "_embed_entry_inserted": "create trigger _embed_entry_inserted after insert on embeddings begin"
    + _BUMP.format(row="new")
    # A tool that replaces rows without recursive triggers fires no deletion.
    + """
  delete from _embed_warnings where collection_id = new.collection_id and entry_id = new.id;
end""",
    "_embed_entry_updated": "create trigger _embed_entry_updated after update on embeddings begin"
    + _BUMP.format(row="new")
    + "end",
    "_embed_entry_moved": """create trigger _embed_entry_moved
after update of collection_id on embeddings when old.collection_id is not new.collection_id begin"""
    + _BUMP.format(row="old")
    + "end",
    "_embed_entry_deleted": "create trigger _embed_entry_deleted after delete on embeddings begin"
    + _BUMP.format(row="old")
    + """
  delete from _embed_warnings where collection_id = old.collection_id and entry_id = old.id;
end""",
    # SQLite gives the id of a deleted collection to the next one made.
    "_embed_collection_deleted": """create trigger _embed_collection_deleted
after delete on collections begin
  delete from _embed_collections where collection_id = old.id;
  delete from _embed_generations where collection_id = old.id;
  delete from _embed_warnings where collection_id = old.id;
  delete from _embed_failures where job_id in
    (select id from _embed_jobs where collection_id = old.id);
  delete from _embed_jobs where collection_id = old.id;
  delete from _embed_similarity_entries where table_name in (
    select table_name from _embed_similarities where collection_id = old.id);
  update _embed_similarities set collection_id = 0 where collection_id = old.id;
end""",
}

_NEEDED_COLUMNS = {
    "collections": {"id", "name", "model"},
    "embeddings": {"collection_id", "id", "embedding", "content", "metadata"},
}


def now() -> str:
    """Return the time in UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def has_table(conn: sqlite3.Connection, name: str) -> bool:
    """Say whether the file has a table of this name."""
    return bool(
        conn.execute(
            "select 1 from sqlite_master where type = 'table' and name = ?", (name,)
        ).fetchone()
    )


def columns_of(conn: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns; empty when there is no such table."""
    return {row[0] for row in conn.execute("select name from pragma_table_info(?)", (table,))}


def has_collections(conn: sqlite3.Connection) -> bool:
    """Say whether the file holds collections in LLM's tables (ours or LLM's own)."""
    return all(
        columns and columns <= columns_of(conn, table) for table, columns in _NEEDED_COLUMNS.items()
    )


def has_latest_columns(conn: sqlite3.Connection) -> bool:
    """Say whether LLM's table has every column of today; an old LLM's has not."""
    return {"updated", "content_hash", "content_blob"} <= columns_of(conn, "embeddings")


def has_our_tables(conn: sqlite3.Connection) -> bool:
    """Say whether the file has the tables we keep beside LLM's."""
    return has_table(conn, "_embed_collections")


#: The way out for a file that has tables of these names of its own.
SEPARATE_FILE = "keep the vectors in a file of their own"


def refuse_foreign(conn: sqlite3.Connection, path: str, remedy: str = SEPARATE_FILE) -> None:
    """Refuse a file whose ``collections`` or ``embeddings`` table is somebody else's.

    Raises:
        SourceError: naming the table and the way out.
    """
    kinds = {}
    for name in _NEEDED_COLUMNS:
        sql = "select type from sqlite_master where lower(name) = ?"
        if found := conn.execute(sql, (name,)).fetchone():
            kinds[name] = found[0]
    for name, kind in kinds.items():
        # LLM makes both tables at once: one of them alone is somebody else's.
        is_alone = len(kinds) == 1
        if is_alone or kind != "table" or not _NEEDED_COLUMNS[name] <= columns_of(conn, name):
            raise SourceError(
                path,
                f"already has a {kind} named '{name}' of its own, which is left alone: {remedy}",
            )


def ensure_schema(conn: sqlite3.Connection, path: str) -> None:
    """Create what is missing of our tables and LLM's, in one transaction.

    Safe when several processes open a new file at once; does not write when nothing
    is missing.

    Raises:
        SourceError: the file has tables of these names that are not LLM's.
    """
    refuse_foreign(conn, path)
    if _is_complete(conn):
        return
    with write_transaction(conn):
        refuse_foreign(conn, path)
        if not has_table(conn, "_sqlite_migrations"):
            _run_script(conn, _MIGRATION_TABLE)
        if not has_collections(conn):
            _run_script(conn, _LLM_TABLES)
        _finish_llm_migrations(conn)
        for table in missing_tables(conn):
            conn.execute(_statement(table))
        _record(conn, OUR_SET, ("m001_create_tables", "m002_similarities"))
        _restore_triggers(conn)


def _restore_triggers(conn: sqlite3.Connection) -> None:
    """Make the triggers that are not there, and take note that they were not."""
    missing = missing_triggers(conn)
    for name in missing:
        conn.execute(f"drop trigger if exists {name}")
        conn.execute(TRIGGERS[name])
    if missing:
        # Nobody counted what was written in the meantime.
        conn.execute(
            "update _embed_generations set generation = generation + 1 + (random() & 16777215)"
        )


def drop_unused_triggers(conn: sqlite3.Connection) -> None:
    """Drop our triggers when the file has no collection left that they serve."""
    if not conn.execute("select 1 from collections limit 1").fetchone():
        for name in TRIGGERS:
            conn.execute(f"drop trigger if exists {name}")


def missing_tables(conn: sqlite3.Connection) -> list[str]:
    """Return the names of our tables that the file lacks.

    An earlier version made fewer of them.
    """
    return [name for name in _table_names(_OUR_TABLES) if not has_table(conn, name)]


def missing_triggers(conn: sqlite3.Connection) -> list[str]:
    """Return the names of our triggers that the file lacks, or has in another wording.

    A table rebuild drops them, and an earlier version may have written them differently.
    """
    rows = conn.execute("select name, sql from sqlite_master where type = 'trigger'")
    # SQLite keeps the statement from the name on, behind a CREATE TRIGGER of its own.
    present = {name: str(sql)[len("create trigger ") :] for name, sql in rows}
    return [
        name for name, sql in TRIGGERS.items() if present.get(name) != sql[len("create trigger ") :]
    ]


def _is_complete(conn: sqlite3.Connection) -> bool:
    return (
        has_collections(conn)
        and has_latest_columns(conn)
        and not missing_tables(conn)
        and not missing_triggers(conn)
        and set(_LLM_MIGRATIONS) <= _recorded(conn, LLM_SET)
    )


def _recorded(conn: sqlite3.Connection, migration_set: str) -> set[str]:
    if not has_table(conn, "_sqlite_migrations"):
        return set()
    rows = conn.execute(
        "select name from _sqlite_migrations where migration_set = ?", (migration_set,)
    )
    return {row[0] for row in rows}


def _record(conn: sqlite3.Connection, migration_set: str, names: tuple[str, ...]) -> None:
    # By column name: older files have this table without an id.
    done = _recorded(conn, migration_set)
    conn.executemany(
        "insert into _sqlite_migrations (migration_set, name, applied_at) values (?, ?, ?)",
        [(migration_set, name, str(datetime.now(UTC))) for name in names if name not in done],
    )


def _finish_llm_migrations(conn: sqlite3.Connection) -> None:
    """Bring a file of an old LLM up to its latest schema, and record that."""
    columns = columns_of(conn, "embeddings")
    done = _recorded(conn, LLM_SET)
    for name, kind in (("updated", "INTEGER"), ("content_hash", "BLOB"), ("content_blob", "BLOB")):
        if name not in columns:
            conn.execute(f"alter table embeddings add column {name} {kind}")
    conn.execute(
        "create index if not exists idx_embeddings_content_hash on embeddings (content_hash)"
    )
    if "m004_store_content_hash" not in done:
        _fill_in_hashes(conn)
    _record(conn, LLM_SET, _LLM_MIGRATIONS)


def _fill_in_hashes(conn: sqlite3.Connection) -> None:
    """Give entries stored with their text the hash that LLM's fourth migration gives them.

    To those without it gives a made-up hash; here they stay without one.
    """
    rows = conn.execute(
        "select rowid, content from embeddings where content is not null and content_hash is null"
    )
    hashes = [
        (hashlib.md5(str(content).encode("utf-8"), usedforsecurity=False).digest(), rowid)
        for rowid, content in rows.fetchall()
    ]
    conn.executemany("update embeddings set content_hash = ? where rowid = ?", hashes)


def _table_names(script: str) -> list[str]:
    return re.findall(r'create table "?(\w+)', script)


def _statement(table: str) -> str:
    """Return the statement that makes one of our tables."""
    statements = _OUR_TABLES.split(";\n")
    return next(text for text in statements if _table_names(text) == [table])


def _run_script(conn: sqlite3.Connection, script: str) -> None:
    # executescript() would commit the transaction we are in.
    for statement in script.split(";\n"):
        if statement.strip():
            conn.execute(statement)
