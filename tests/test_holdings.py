"""Holdings: which tables show embedded content, and what it takes to see them."""

from __future__ import annotations

import json
from contextlib import closing
from time import process_time

import pytest

from datasette_embed import holdings
from datasette_embed.database import sqlite3
from datasette_embed.holdings import Need, Rule, mentioned, read_holdings
from datasette_embed.schema_sql import OUR_TABLES
from tests.fakes import CountingModel
from tests.storage import execute, make_docs, run_job


@pytest.fixture
def data(tmp_path):
    """A table and a collection of it."""
    path = make_docs(tmp_path / "data.db", [(1, "one")])
    run_job(path, CountingModel())
    return path


def read(path):
    with closing(sqlite3.connect(path)) as conn:
        return read_holdings(conn)


def define(path, *sources):
    """Give the file one collection for each of these sources."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("delete from collections")
        for number, source in enumerate(sources, 1):
            text = source if isinstance(source, str | None) else json.dumps(source)
            conn.execute("insert into collections values (?, ?, 'm')", (number, f"c{number}"))
            conn.execute(
                "insert into _embed_collections (collection_id, name, model, fingerprint, metric,"
                " source, created_at) values (?, ?, 'm', 'f', 'cosine', ?, 'now')",
                (number, f"c{number}", text),
            )


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ({"table": "docs"}, Rule(Need.TABLE, "docs")),
        ({"table": "DOCS", "where": "1"}, Rule(Need.TABLE, "DOCS")),
        (None, Rule(Need.EMBEDDINGS)),
        ({"sql": "select 1"}, Rule(Need.SQL)),
        ({"table": "gone"}, Rule(Need.SQL)),
        ({"table": "Embeddings"}, Rule(Need.SQL)),
        ({"table": 7}, Rule(Need.SQL)),
        ({"table": "docs", "sql": "select 1"}, Rule(Need.SQL)),
        ("{", Rule(Need.SQL)),
        ("[" * 99_000, Rule(Need.SQL)),
        ('{"table": "\\ud800"}', Rule(Need.SQL)),
        ("", Rule(Need.SQL)),
        ({"table": "t", "is_elsewhere": True}, Rule(Need.TABLE_ELSEWHERE, "t")),
        ({"sql": "select a", "is_elsewhere": True}, Rule(Need.SQL_ELSEWHERE, "select a")),
        ({"sql": "x" * 200_000, "is_elsewhere": True}, Rule(Need.NOBODY)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_read_holdings_rule_of_each_source(data, source, rule):
    """What cannot be understood asks for more, not for less."""
    define(data, source)
    assert read(data).rules == {rule}


def test_read_holdings_several_sources_ask_for_all(data):
    """The tables hold the rows of every collection."""
    define(data, {"table": "docs"}, {"table": "docs", "columns": ["body"]}, None, {"sql": "s"})
    assert read(data).rules == {
        Rule(Need.TABLE, "docs"),
        Rule(Need.EMBEDDINGS),
        Rule(Need.SQL),
    }


def test_read_holdings_more_sources_than_anybody_makes_is_for_nobody(data):
    """A stranger's file must not make a page ask ten thousand questions."""
    define(data, *({"table": f"t{n}"} for n in range(1_001)))
    assert read(data).rules == {Rule(Need.NOBODY)}


def test_read_holdings_many_collections_of_one_source_ask_once(data):
    """A million of them cost one rule."""
    with closing(sqlite3.connect(data)) as conn, conn:
        conn.execute(
            "with recursive n(i) as (select 10 union all select i + 1 from n where i < 20000)"
            " insert into _embed_collections (collection_id, name, model, fingerprint, metric,"
            " source, created_at) select i, 'c' || i, 'm', 'f', 'cosine', '{\"table\": \"docs\"}',"
            " 'now' from n"
        )
    assert read(data).rules == {Rule(Need.TABLE, "docs")}


def test_read_holdings_file_without_collections_holds_nothing(tmp_path):
    """Tables of these names that are another program's are left alone."""
    path = make_docs(tmp_path / "data.db", [(1, "one")])
    assert (read(path).hidden, read(path).rules) == (frozenset(), frozenset())
    execute(path, "create table collections (id, curator)", "create table embeddings (id, x)")
    execute(path, "create view v as select * from embeddings")
    assert (read(path).hidden, read(path).rules) == (frozenset(), frozenset())


def test_read_holdings_hides_ours_and_what_is_made_of_them(data):
    """Views of views, full-text tables with their own, similarities with odd names."""
    execute(
        data,
        'create table "my ""odd"" table" (id)',
        "insert into _embed_similarities values ('MY \"odd\" table', 1, 'docs', 'm', null,"
        " 'cosine', 1)",
        'create view a as select * from "my ""odd"" table"',
        "create view b as select * from A",
        "create view c as select body from docs",
        "create view d as select 'embeddings' as embeddings_d from docs",
        "create virtual table words using fts5(content)",
        "create trigger fill after insert on embeddings begin"
        " insert into words values (new.content); end",
        "create table embeddings_notes (id)",
        "create table copies (content)",
        'create table "more copies" (content)',
        "create trigger copy after insert on embeddings begin insert into/**/COPIES values"
        " (new.content); update [more copies] set content = new.content; end",
        "create view of_copies as select * from copies",
        "create virtual table docs_words using fts5(body, content='docs')",
    )
    hidden = read(data).hidden
    assert hidden - OUR_TABLES == {
        'my "odd" table',
        "a",
        "b",
        "d",  # it only mentions the name: rather one too many
        "copies",
        "more copies",
        "of_copies",
        "words",
        "words_data",
        "words_idx",
        "words_content",
        "words_docsize",
        "words_config",
    }
    assert OUR_TABLES - hidden == {"_sqlite_migrations"}
    assert read(data).is_hidden("EMBEDDINGS")
    assert not read(data).is_hidden("docs")


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ("delete from _embed_collections", {Rule(Need.EMBEDDINGS), Rule(Need.SQL)}),
        ("update _embed_collections set name = 'x'", {Rule(Need.TABLE, "docs")}),
        ("drop table _embed_collections", {Rule(Need.EMBEDDINGS), Rule(Need.SQL)}),
        ("alter table _embed_collections rename column source to s", {Rule(Need.SQL)}),
        ("update _embed_jobs set collection_id = null", {Rule(Need.SQL), Rule(Need.TABLE, "docs")}),
        (
            "insert into _embed_similarities values ('s', 0, 'docs', 'm', null, 'cosine', 1)",
            {Rule(Need.SQL), Rule(Need.TABLE, "docs")},
        ),
    ],
)
def test_read_holdings_of_what_is_left_behind(data, change, rules):
    """Rows whose collection is gone: where they are from is not known any more."""
    with closing(sqlite3.connect(data)) as conn, conn:
        for (name,) in conn.execute(
            "select name from sqlite_master where type = 'trigger'"
        ).fetchall():
            conn.execute(f"drop trigger {name}")
        conn.execute(change)
    assert read(data).rules >= rules


@pytest.mark.parametrize(
    ("name", "sql", "is_there"),
    [
        ("embeddings", "select * from EMBEDDINGS", True),
        ("embeddings", 'select * from "embeddings"', True),
        ("embeddings", "select * from my_embeddings", False),
        ("a b", "select * from [A B]", True),
        ('a"b', 'select * from "a""b"', True),
        ("a`b", "select * from `a``b`", True),
        ("été", "select * from été", True),
        ("a-b", "select a, b from t", False),
    ],
)
def test_mentioned_finds_names_however_quoted(name, sql, is_there):
    """As a word, or quoted in any of SQLite's ways."""
    assert mentioned([name], sql) == ({name} if is_there else set())


def test_read_holdings_more_views_than_anybody_makes_hide_everything(data):
    """What is made of what would take long to find out: nobody sees any of the file."""
    with closing(sqlite3.connect(data)) as conn, conn:
        for number in range(5_001):
            conn.execute(f"create trigger t{number} after insert on docs begin select 1; end")
    found = read(data)
    assert found.rules == {Rule(Need.NOBODY)}
    assert found.is_hidden("docs")


def test_read_holdings_chain_of_views_is_quick(data):
    """The time grows with the number of views, not with its square."""
    before = "embeddings"
    with closing(sqlite3.connect(data)) as conn, conn:
        for number in range(2_000):
            conn.execute(f"create view v{number} as select id from {before} limit 1")
            before = f"v{number}"
    with closing(sqlite3.connect(data)) as conn:
        conn.execute("select 1 from sqlite_master").fetchone()
        began = process_time()
        assert read_holdings(conn).is_hidden("v1999")
    assert process_time() - began < 1


def test_read_holdings_stops_in_time(data, monkeypatch):
    """A table of ours may be made so that reading it takes for ever; nothing is left behind."""
    monkeypatch.setattr(holdings, "_SECONDS", 0.002)
    execute(
        data,
        "drop table _embed_collections",
        "create table _embed_collections (source, name, model, collection_id as (0))",
        "insert into _embed_collections (source) with recursive n(i) as (select 1 union all"
        " select i + 1 from n where i < 300000) select '{}' from n",
    )
    with closing(sqlite3.connect(data)) as conn:
        found = read_holdings(conn)
        assert found.is_late
        assert found.rules == {Rule(Need.NOBODY)}
        assert found.is_hidden("docs")
        count = "select count(*) from _embed_collections a, (select 1 union select 2)"
        assert conn.execute(count).fetchone() == (600_000,)
