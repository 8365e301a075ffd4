"""Every table, migration and trigger, made where it is missing.

Layer 2: imports ``errors``, ``database`` and ``schema_sql``. ``collections`` and ``embeddings`` are
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
from .schema_sql import (
    LATER_JOB_COLUMNS,
    LLM_TABLES,
    MIGRATION_TABLE,
    OUR_TABLES_SQL,
    TRIGGERS,
)

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

_NEEDED_COLUMNS = {
    "collections": {"id", "name", "model"},
    "embeddings": {"collection_id", "id", "embedding", "content", "metadata"},
}


def now() -> str:
    """Return the time in UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def has_table(conn: sqlite3.Connection, name: str) -> bool:
    """Say whether the file has a table of this name that holds its own rows.

    Not a view or a virtual table, for that may run a stranger's query, and for ever. SQLite
    keeps the statement of a table with these words at its beginning, and goes by it.
    """
    return bool(
        conn.execute(
            "select 1 from sqlite_master where type = 'table' and name = ? collate nocase"
            " and lower(substr(sql, 1, 13)) = 'create table '",
            (name,),
        ).fetchone()
    )


def columns_of(conn: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns; empty when there is no such table."""
    return {row[0] for row in conn.execute("select name from pragma_table_info(?)", (table,))}


def has_collections(conn: sqlite3.Connection) -> bool:
    """Say whether the file holds collections in LLM's tables (ours or LLM's own)."""
    return all(
        has_table(conn, table) and columns <= columns_of(conn, table)
        for table, columns in _NEEDED_COLUMNS.items()
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
    # One statement sees one moment: between two of them another process may make the tables.
    marks = ", ".join("?" * len(_NEEDED_COLUMNS))
    sql = f"select lower(name), type from sqlite_master where lower(name) in ({marks})"
    kinds = dict(conn.execute(sql, tuple(_NEEDED_COLUMNS)))
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
            _run_script(conn, MIGRATION_TABLE)
        if not has_collections(conn):
            _run_script(conn, LLM_TABLES)
        _finish_llm_migrations(conn)
        for table in missing_tables(conn):
            conn.execute(_statement(table))
        for column in missing_job_columns(conn):
            conn.execute(f"alter table _embed_jobs add column {column} {LATER_JOB_COLUMNS[column]}")
        _record(conn, OUR_SET, ("m001_create_tables", "m002_similarities", "m003_server"))
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
    return [name for name in _table_names(OUR_TABLES_SQL) if not has_table(conn, name)]


def missing_job_columns(conn: sqlite3.Connection) -> list[str]:
    """Return the columns of ``_embed_jobs`` that a file of an earlier version lacks."""
    present = columns_of(conn, "_embed_jobs")
    return [name for name in LATER_JOB_COLUMNS if name not in present]


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
        and not missing_job_columns(conn)
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
    statements = OUR_TABLES_SQL.split(";\n")
    return next(text for text in statements if _table_names(text) == [table])


def _run_script(conn: sqlite3.Connection, script: str) -> None:
    # executescript() would commit the transaction we are in.
    for statement in script.split(";\n"):
        if statement.strip():
            conn.execute(statement)
