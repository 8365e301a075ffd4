"""Holdings: what a database file keeps that came from elsewhere, and from where.

Layer 6: imports ``database``, ``records``, ``schema`` and ``schema_sql``. It reads one
connection and says which tables and views show embedded content, and what somebody must be
allowed to see to see them. Whoever that is, and whether they may, is ``access``.

The file may come from a stranger: nothing it says runs, and what cannot be understood asks
for more, not for less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from . import schema
from .database import sqlite3
from .records import read_source
from .schema_sql import OUR_TABLES

#: Of our tables these say nothing about any content.
_HARMLESS = frozenset({"_sqlite_migrations"})
_LLM_TABLES = ("collections", "embeddings")
_PREFIX = "_embed_"
#: More definitions of sources than this, or longer ones, are more than anybody writes.
_MOST_DEFINITIONS = 1_000
_LONGEST_DEFINITION = 100_000
# SQLite takes names for the same in this way, ASCII letters only.
_FOLD = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_WORDS = re.compile(r"\w+")


class Need(StrEnum):
    """What somebody must be allowed to see a collection."""

    #: To view the table ``Rule.name`` of the same database.
    TABLE = "table"
    #: To run SQL on the same database, which shows all of it anyway.
    SQL = "sql"
    #: To view the table ``embeddings`` itself: nobody said where its content is from.
    EMBEDDINGS = "embeddings"
    #: To view the table ``Rule.name`` of the other databases that have one.
    TABLE_ELSEWHERE = "table elsewhere"
    #: To run SQL on the other databases that have a table named in the query ``Rule.name``.
    SQL_ELSEWHERE = "sql elsewhere"
    #: The file cannot be read, or says too much to be checked.
    NOBODY = "nobody"


@dataclass(frozen=True)
class Rule:
    """One thing that somebody must be allowed to see."""

    need: Need
    name: str = ""

    @property
    def is_elsewhere(self) -> bool:
        """Whether SQL on the database of the vectors does not show the source as well."""
        return self.need in (Need.TABLE_ELSEWHERE, Need.SQL_ELSEWHERE, Need.NOBODY)


@dataclass(frozen=True)
class Holdings:
    """What one database file keeps.

    Attributes:
        names: every table and view, as ``folded`` -> as it is spelled.
        hidden: the tables and views, spelled as they are, that whoever does not meet
            every one of ``rules`` must not see.
        rules: what there is to meet; none for a file without collections.
    """

    names: dict[str, str]
    hidden: frozenset[str] = frozenset()
    rules: frozenset[Rule] = frozenset()

    def rule_of(self, source: dict[str, Any] | None) -> Rule:
        """Return what the definition of a source (``CollectionRecord.source``) asks for."""
        rule = _rule_of(source)
        name = folded(rule.name)
        if rule.need is Need.TABLE and (name not in self.names or self.is_hidden(name)):
            # Gone, renamed, or one of ours: what guards its rows now is not known.
            return Rule(Need.SQL)
        return rule

    def is_hidden(self, table: str) -> bool:
        """Say whether a table or view is among ``hidden``, as SQLite compares names."""
        return bool(self.hidden) and self.names.get(folded(table), table) in self.hidden


#: What is assumed of a file that cannot be read at this moment.
UNREADABLE = Holdings(
    {name: name for name in OUR_TABLES},
    frozenset(OUR_TABLES - _HARMLESS),
    frozenset({Rule(Need.NOBODY)}),
)


def folded(name: str) -> str:
    """Return a name of a table as SQLite compares it."""
    return name.translate(_FOLD)


def mentioned(names: Iterable[str], sql: str) -> set[str]:
    """Return which of these names an SQL text may be about; rather one too many."""
    text = folded(sql)
    words = set(_WORDS.findall(text))
    found = set()
    for name in names:
        key = folded(name)
        if _WORDS.fullmatch(key):
            is_there = key in words
        else:
            spellings = (key, key.replace('"', '""'), key.replace("`", "``"))
            is_there = any(spelling in text for spelling in spellings)
        if is_there:
            found.add(name)
    return found


def read_holdings(conn: sqlite3.Connection) -> Holdings:
    """Return what the database of a connection keeps.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    names = {
        folded(str(name)): str(name)
        for (name,) in conn.execute(
            "select name from sqlite_master where type in ('table', 'view')"
        )
    }
    is_llm = all(name in names for name in _LLM_TABLES) and schema.has_collections(conn)
    ours = {name for key, name in names.items() if key.startswith(_PREFIX)}
    if not is_llm and not ours:
        # Nothing of ours, or another program's "collections".
        return Holdings(names)
    ours |= {names[name] for name in _LLM_TABLES if name in names}
    ours |= {names[key] for key in _similarities_tables(conn, names) if key in names}
    hidden = frozenset(_with_derived(conn, ours))
    found = Holdings(names, hidden)
    rules = _rules(conn, names, found, is_llm=is_llm)
    return Holdings(names, hidden, rules)


def _rule_of(source: dict[str, Any] | None) -> Rule:
    if source is None:
        return Rule(Need.EMBEDDINGS)
    table, sql = source.get("table"), source.get("sql")
    if isinstance(table, str) and table and not sql:
        is_elsewhere = bool(source.get("is_elsewhere"))
        return Rule(Need.TABLE_ELSEWHERE if is_elsewhere else Need.TABLE, table)
    if source.get("is_elsewhere"):
        return Rule(Need.SQL_ELSEWHERE, str(sql or table))
    return Rule(Need.SQL)


def _similarities_tables(conn: sqlite3.Connection, names: dict[str, str]) -> set[str]:
    if "_embed_similarities" not in names:
        return set()
    rows = _asked(conn, "select table_name from _embed_similarities")
    return {folded(str(name)) for (name,) in rows or ()}


def _asked(conn: sqlite3.Connection, sql: str) -> list[Any] | None:
    """Return the rows of a query; None where a table is not as we make it."""
    try:
        return list(conn.execute(sql))
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            return None
        raise  # locked, damaged


def _rules(
    conn: sqlite3.Connection, names: dict[str, str], found: Holdings, *, is_llm: bool
) -> frozenset[Rule]:
    has_ours = "_embed_collections" in names
    rules = _stored_rules(conn, found) if has_ours else set()
    if is_llm and _has_foreign_collections(conn, names):
        rules.add(Rule(Need.EMBEDDINGS))
    if not has_ours and any(name.startswith(_PREFIX) for name in names):
        rules.add(Rule(Need.SQL))
    elif has_ours and _has_remains(conn, names):
        rules.add(Rule(Need.SQL))
    return frozenset(rules)


def _stored_rules(conn: sqlite3.Connection, found: Holdings) -> set[Rule]:
    rows = _asked(
        conn,
        f"select distinct case when length(source) > {_LONGEST_DEFINITION} then 0 else source end"
        f" from _embed_collections limit {_MOST_DEFINITIONS + 1}",
    )
    if rows is None:
        return {Rule(Need.SQL)}
    definitions = [text for (text,) in rows]
    if len(definitions) > _MOST_DEFINITIONS or 0 in definitions:
        return {Rule(Need.NOBODY)}
    return {found.rule_of(None if text is None else read_source(text)) for text in definitions}


def _has_foreign_collections(conn: sqlite3.Connection, names: dict[str, str]) -> bool:
    """Say whether there is a collection that we keep nothing beside."""
    sql = "select 1 from collections c"
    if "_embed_collections" in names:
        sql += (
            " where not exists (select 1 from _embed_collections e where"
            " e.collection_id = c.id and e.name = c.name and e.model = c.model)"
        )
    rows = _asked(conn, f"{sql} limit 1")
    return rows is None or bool(rows)


def _has_remains(conn: sqlite3.Connection, names: dict[str, str]) -> bool:
    """Say whether a job or a similarities table is of no collection that is there."""
    for table in ("_embed_jobs", "_embed_similarities"):
        if table in names and _asked(
            conn,
            f"select 1 from {table} where collection_id is null or collection_id not in"
            " (select collection_id from _embed_collections) limit 1",
        ):
            return True
    return False


def _with_derived(conn: sqlite3.Connection, tables: set[str]) -> set[str]:
    """Return these tables, and the views and search tables that are made of them.

    A view is made of a table its SQL names; so is a full-text table of the table it names
    as its content, or of one whose triggers write to it; the tables a full-text table keeps
    its index in are called after it.
    """
    rows = conn.execute("select type, name, tbl_name, coalesce(sql, '') from sqlite_master")
    parts = [(str(kind), str(name), str(of), str(sql)) for kind, name, of, sql in rows]
    virtual = {
        name
        for kind, name, _, sql in parts
        if kind == "table" and folded(sql).lstrip().startswith("create virtual table")
    }
    found, new = set(tables), set(tables)
    while new:
        added: set[str] = set()
        for kind, name, of, sql in parts:
            if (kind == "view" or name in virtual) and mentioned(new, sql):
                added.add(name)
            elif kind == "trigger" and folded(of) in {folded(n) for n in new}:
                added |= mentioned(virtual, sql)
            elif kind == "table" and any(name.startswith(f"{n}_") for n in new & virtual):
                added.add(name)
        new = added - found
        found |= new
    return found
