"""Holdings: what a database file keeps that came from elsewhere, and from where.

Layer 6: imports ``database``, ``records``, ``schema`` and ``schema_sql``. It reads one
connection and says which tables and views show embedded content, and what somebody must be
allowed to see to see them. Whoever that is, and whether they may, is ``access``.

The file may come from a stranger: nothing it says runs, and what cannot be understood asks
for more, not for less.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from . import schema
from .database import DeadlineError, deadline, sqlite3
from .records import read_source
from .schema_sql import OUR_TABLES

#: Of our tables these say nothing about any content.
_HARMLESS = frozenset({"_sqlite_migrations"})
_LLM_TABLES = ("collections", "embeddings")
_PREFIX = "_embed_"
#: More definitions of sources than this, or longer ones, are more than anybody writes.
_MOST_DEFINITIONS = 1_000
_LONGEST_DEFINITION = 100_000
#: So are more views, triggers and virtual tables, or more characters of them.
_MOST_MADE = 5_000
_MOST_MADE_CHARACTERS = 2_000_000
#: Names that are no single words are looked for in each of them: characters times names.
_MOST_LOOKED_AT = 200_000_000
#: How long reading a file may take: a stranger's can be made to take any time.
_SECONDS = 3.0
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
    #: Whether the site says that what is made from it is public, wherever the source is.
    is_public: bool = False

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
        public: names of collections that the site says are public.
        is_late: whether there was no time to read all of it.
    """

    names: dict[str, str]
    hidden: frozenset[str] = frozenset()
    rules: frozenset[Rule] = frozenset()
    public: frozenset[str] = frozenset()
    is_late: bool = False

    def rule_of(self, source: dict[str, Any] | None, collection: str) -> Rule:
        """Return what the source of a collection (``CollectionRecord.source``) asks for."""
        rule = _rule_of(source)
        if rule.is_elsewhere and collection in self.public:
            return replace(rule, is_public=True)
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


def read_holdings(conn: sqlite3.Connection, public: frozenset[str] = frozenset()) -> Holdings:
    """Return what the database of a connection keeps.

    Args:
        public: names of collections that the site says are public.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    names: dict[str, str] = {}
    try:
        with deadline(conn, _SECONDS):
            rows = conn.execute("select name from sqlite_master where type in ('table', 'view')")
            names.update((folded(str(name)), str(name)) for (name,) in rows)
            return _read(conn, names, public)
    except DeadlineError:
        return _closed(names, is_late=True)


def _read(conn: sqlite3.Connection, names: dict[str, str], public: frozenset[str]) -> Holdings:
    is_llm = schema.has_collections(conn)
    ours = {name for key, name in names.items() if key.startswith(_PREFIX)}
    if not is_llm and not ours:
        # Nothing of ours, or another program's "collections".
        return Holdings(names)
    ours |= {names[name] for name in _LLM_TABLES if name in names}
    ours |= {names[key] for key in _similarities_tables(conn) if key in names}
    made = _read_made(conn)
    if made is None or _is_too_much(made, names):
        return _closed(names)
    hidden = frozenset(_with_derived(made, names, ours))
    found = Holdings(names, hidden, public=public)
    return replace(found, rules=_rules(conn, found, is_llm=is_llm))


def _closed(names: dict[str, str], *, is_late: bool = False) -> Holdings:
    """Return holdings of which nobody knows what is made of what: nobody sees any of it."""
    hidden = UNREADABLE.hidden | set(names.values())
    return Holdings({**UNREADABLE.names, **names}, hidden, UNREADABLE.rules, is_late=is_late)


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


def _similarities_tables(conn: sqlite3.Connection) -> set[str]:
    if not schema.has_table(conn, "_embed_similarities"):
        return set()
    rows = _asked(conn, "select table_name from _embed_similarities")
    return {folded(str(name)) for (name,) in rows or ()}


def _asked(conn: sqlite3.Connection, sql: str, values: Sequence[str] = ()) -> list[Any] | None:
    """Return the rows of a query; None where a table is not as we make it."""
    try:
        return list(conn.execute(sql, values))
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            return None
        raise  # locked, damaged


def _rules(conn: sqlite3.Connection, found: Holdings, *, is_llm: bool) -> frozenset[Rule]:
    # A view of this name is not asked: it says what a stranger made it say.
    has_ours = schema.has_our_tables(conn)
    rules = _stored_rules(conn, found) if has_ours else set()
    if is_llm and _has_foreign_collections(conn, has_ours=has_ours):
        rules.add(Rule(Need.EMBEDDINGS))
    if not has_ours and any(name.startswith(_PREFIX) for name in found.names):
        rules.add(Rule(Need.SQL))
    elif has_ours and _has_remains(conn):
        rules.add(Rule(Need.SQL))
    return frozenset(rules)


def _stored_rules(conn: sqlite3.Connection, found: Holdings) -> set[Rule]:
    is_public, public = "0", sorted(found.public)
    if public:
        is_public = f"name in ({', '.join('?' * len(public))})"
    rows = _asked(
        conn,
        f"select distinct case when length(source) > {_LONGEST_DEFINITION} then 0 else source end,"
        f" case when {is_public} then name end"
        f" from _embed_collections limit {_MOST_DEFINITIONS + 1}",
        public,
    )
    if rows is None:
        return {Rule(Need.SQL)}
    if len(rows) > _MOST_DEFINITIONS or any(text == 0 for text, _ in rows):
        return {Rule(Need.NOBODY)}
    return {
        found.rule_of(None if text is None else read_source(text), str(name or ""))
        for text, name in rows
    }


def _has_foreign_collections(conn: sqlite3.Connection, *, has_ours: bool) -> bool:
    """Say whether there is a collection that we keep nothing beside."""
    sql = "select 1 from collections c"
    if has_ours:
        sql += (
            " where not exists (select 1 from _embed_collections e where"
            " e.collection_id = c.id and e.name = c.name and e.model = c.model)"
        )
    rows = _asked(conn, f"{sql} limit 1")
    return rows is None or bool(rows)


def _has_remains(conn: sqlite3.Connection) -> bool:
    """Say whether a job or a similarities table is of no collection that is there."""
    for table in ("_embed_jobs", "_embed_similarities"):
        if schema.has_table(conn, table) and _asked(
            conn,
            f"select 1 from {table} where collection_id is null or collection_id not in"
            " (select collection_id from _embed_collections) limit 1",
        ):
            return True
    return False


@dataclass(frozen=True)
class _Made:
    """A view, a trigger or a virtual table: what is made by a statement of its own.

    Attributes:
        kind: which of them.
        name: its own, or the name of the table a trigger is on.
        sql: the statement, folded.
    """

    kind: str
    name: str
    sql: str


def _read_made(conn: sqlite3.Connection) -> list[_Made] | None:
    """Return what is made of something else; None where that is too much to look at."""
    # By the statement, which SQLite goes by, whatever stands beside it.
    made = (
        "sqlite_master where type = 'trigger' or (type in ('table', 'view')"
        " and lower(substr(sql, 1, 13)) != 'create table ')"
    )
    number, length = conn.execute(f"select count(*), total(length(sql)) from {made}").fetchone()
    if number > _MOST_MADE or length > _MOST_MADE_CHARACTERS:
        return None
    rows = conn.execute(
        "select case when type = 'table' then 'virtual' else type end,"
        f" case when type = 'trigger' then tbl_name else name end, coalesce(sql, '') from {made}"
    )
    return [_Made(str(kind), str(name), folded(str(sql))) for kind, name, sql in rows]


def _is_too_much(made: list[_Made], names: dict[str, str]) -> bool:
    odd = sum(1 for name in names if not _WORDS.fullmatch(name))
    return odd * sum(len(part.sql) for part in made) > _MOST_LOOKED_AT


def _with_derived(made: list[_Made], names: dict[str, str], tables: set[str]) -> set[str]:
    """Return these tables, and the views and tables that are made of them.

    A view is made of a table its SQL names; so is a full-text table of the table it names
    as its content. What a trigger of one names may be filled by it: a full-text table or an
    ordinary one. The tables a full-text table keeps its index in are called after it.
    """
    index: dict[str, list[_Made]] = {}
    for part in made:
        for word in set(_WORDS.findall(part.sql)):
            index.setdefault(word, []).append(part)
    triggers: dict[str, list[_Made]] = {}
    for part in made:
        if part.kind == "trigger":
            triggers.setdefault(folded(part.name), []).append(part)
    virtual = {folded(part.name) for part in made if part.kind == "virtual"}
    keys, odd = sorted(names), [name for name in names if not _WORDS.fullmatch(name)]
    found, new = set(tables), list(tables)
    while new:
        name = folded(new.pop())
        is_word = _WORDS.fullmatch(name)
        parts = index.get(name, []) if is_word else [p for p in made if mentioned([name], p.sql)]
        added = {part.name for part in parts if part.kind != "trigger"}
        for part in triggers.get(name, []):
            words = names.keys() & set(_WORDS.findall(part.sql))
            added |= {names[key] for key in words | mentioned(odd, part.sql)}
        if name in virtual:
            begins = f"{name}_"
            end = bisect_left(keys, f"{begins}\U0010ffff")
            added |= {names[key] for key in keys[bisect_left(keys, begins) : end]}
        new += added - found
        found |= added
    return found
