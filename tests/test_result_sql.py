"""Result SQL: the same rows as an oracle, for keys and names of every kind."""

from __future__ import annotations

import itertools
import re

import pytest

from datasette_embed import sql_functions
from datasette_embed.database import quoted, sqlite3
from datasette_embed.models import Kind
from datasette_embed.query_embeddings import QueryEmbeddings
from datasette_embed.records import CollectionRecord
from datasette_embed.registry import Registry
from datasette_embed.schema_sql import LLM_TABLES
from datasette_embed.sources import SourceSpec, entry_id_of
from datasette_embed.vectors import cosine, encode
from datasette_embed.web.result_sql import (
    _TAKEN,
    Conditions,
    Rows,
    nearest_to_entry,
    nearest_to_text,
    newest,
)
from tests.fakes import CountingModel, vector_of

RECORD = CollectionRecord(1, "things", "counting", dimensions=8)


@pytest.fixture
def conn():
    """A connection with our functions and LLM's tables, and a second collection."""
    connection = sqlite3.connect(":memory:")
    registry = Registry()
    registry.register(CountingModel(), ())
    sql_functions.register(connection, registry=registry, queries=QueryEmbeddings())
    connection.executescript(LLM_TABLES)
    connection.execute("insert into collections values (1, 'things', 'counting')")
    connection.execute("insert into collections values (2, 'others', 'counting')")
    connection.execute(
        "insert into embeddings (collection_id, id, embedding) values (2, '1', ?)",
        (encode(vector_of("another")),),
    )
    yield connection
    connection.close()


def fill(conn, keys):
    """Store an entry for each key of a row, and return the ids."""
    ids = [entry_id_of(key) for key in keys]
    conn.executemany(
        "insert into embeddings (collection_id, id, embedding, content) values (1, ?, ?, ?)",
        [(each, encode(vector_of(each)), f"content {each}") for each in ids],
    )
    return ids


def nearest_ids(ids, query, without=None):
    """The ids, the nearest first, by the functions for two vectors."""
    scores = {each: cosine(encode(vector_of(each)), encode(query)) for each in ids}
    return sorted((each for each in ids if each != without), key=lambda i: (-scores[i], i))


def found(conn, query):
    """The rows of a query without their scores."""
    return [tuple(row)[1:] for row in conn.execute(query.sql, query.params)]


#: SQLite writes some of these in another way than Python, of which an id is made.
NUMBERS = (7.33, 5e16, 1 / 3, 1e-07, -2.5, 2**63 - 1, -5, 3)
KEYS = {
    "integer primary key": ("a integer primary key, b text", [(n, f"b{n}") for n in (1, 2, 30)]),
    "text": ("a text primary key, b text", [("x/y", "1"), ("é '", "2"), ("01", "3"), ("1", "4")]),
    "untyped": (
        "a primary key, b text",
        [(1, "int"), ("1x", "text"), (2.5, "real"), ("07", "t"), (7, "n")],
    ),
    "numbers of every form": ("a primary key, b text", [(n, str(n)) for n in NUMBERS]),
    "strict any": ("a any primary key, b text) strict", [(n, str(n)) for n in NUMBERS]),
    "real": ("a real primary key, b text", [(1.5, "x"), (2.25, "y")]),
    "blob type": ("a blob primary key, b text", [("t", "x"), (7, "y")]),
    "without rowid": ("a text primary key, b text) without rowid", [("p", "x"), ("q", "y")]),
    "keyword": ('"a" text primary key, "order" text', [("p", "x"), ("q", "y")]),
}


@pytest.mark.parametrize("kind", KEYS)
def test_nearest_by_each_kind_of_key_is_the_oracles(conn, kind):
    """Every entry meets its own row, and no other."""
    columns, rows = KEYS[kind]
    ending = "" if columns.endswith(("rowid", "strict")) else ")"
    conn.execute(f"create table t ({columns}{ending}")
    conn.executemany("insert into t values (?, ?)", rows)
    ids = fill(conn, [row[:1] for row in rows])
    table = Rows.of(conn, SourceSpec(table="t"))
    by_id = dict(zip(ids, rows, strict=True))
    query = nearest_to_text(RECORD, table, "words", 10)
    expected = nearest_ids(ids, vector_of("words", Kind.QUERY))
    assert found(conn, query) == [by_id[each] for each in expected]


def test_untyped_key_with_a_number_and_its_text_finds_both(conn):
    """The id is the same, so both rows are meant."""
    conn.execute("create table t (a, b text)")
    conn.executemany("insert into t values (?, ?)", [(1, "number"), ("1", "text"), (2, "other")])
    fill(conn, [("1",)])
    table = Rows.of(conn, SourceSpec(table="t", id_columns=("a",)))
    rows = found(conn, nearest_to_text(RECORD, table, "words", 10))
    assert sorted(rows, key=str) == [("1", "text"), (1, "number")]


def test_compound_key_finds_rows_by_its_index(conn):
    """Commas, slashes and tildes in a part; the planner uses the table's key, not a scan."""
    parts = ("a,b", "c/d", "~", "é", "1")
    keys = list(itertools.product(parts, (1, 20)))
    conn.execute("create table t (a text, b integer, c text, primary key (a, b))")
    conn.executemany("insert into t values (?, ?, ?)", [(*key, str(key)) for key in keys])
    ids = fill(conn, keys)
    by_id = {entry_id_of(key): (*key, str(key)) for key in keys}
    table = Rows.of(conn, SourceSpec(table="t"))
    query = nearest_to_entry(RECORD, table, ids[3], 5)
    expected = nearest_ids(ids, vector_of(ids[3]), ids[3])[:5]
    assert found(conn, query) == [by_id[each] for each in expected]
    plan = [row[3] for row in conn.execute(f"explain query plan {query.sql}", query.params)]
    assert any("SEARCH" in step and "(a=? AND b=?)" in step for step in plan), plan


@pytest.mark.parametrize(
    "columns", ["a integer primary key", "a text primary key", "a primary key"]
)
def test_single_key_is_found_by_its_index(conn, columns):
    """With 100,000 rows a scan for each row found would be what takes the time."""
    conn.execute(f"create table t ({columns}, b text)")
    table = Rows.of(conn, SourceSpec(table="t"))
    query = nearest_to_text(RECORD, table, "words", 5, Conditions(('"b" = :p0',), {"p0": "x"}))
    plan = [row[3] for row in conn.execute(f"explain query plan {query.sql}", query.params)]
    assert not [step for step in plan if step.startswith("SCAN t")], plan
    assert len([step for step in plan if step.startswith("SEARCH t ")]) == 2, plan


def test_rowid_table_shows_the_rowid(conn):
    """It is the key, so a link to the row can be made of it."""
    conn.execute("create table t (b text)")
    conn.executemany("insert into t values (?)", [("x",), ("y",)])
    ids = fill(conn, [(1,), (2,)])
    table = Rows.of(conn, SourceSpec(table="t"))
    query = newest(RECORD, table, 5)
    cursor = conn.execute(query.sql, query.params)
    assert [column[0] for column in cursor.description] == ["rowid", "b"]
    assert [tuple(row) for row in cursor] == [(2, "y"), (1, "x")]
    assert (table.key_columns, len(ids)) == (("rowid",), 2)


@pytest.mark.parametrize(
    "name",
    [
        "embeddings",
        "input",
        "nearest",
        "newest",
        "entry",
        "Collections",
        "a b'\"/%~.json é",
        "select",
    ],
)
def test_table_of_any_name_is_found(conn, name):
    """Names of the query's own parts, keywords and quotes."""
    if name.lower() not in ("embeddings", "collections"):
        conn.execute(f"create table {quoted(name)} (id integer primary key, score real)")
        conn.execute(f"insert into {quoted(name)} values (1, 0.5), (2, 0.25)")
    ids = fill(conn, [(1,), (2,)])
    spec = SourceSpec(table=name, id_columns=("id",))
    table = Rows.of(conn, spec)
    for query in (
        nearest_to_text(RECORD, table, "words", 5, Conditions((":p0 = '1'",), {"p0": "1"})),
        nearest_to_entry(RECORD, table, ids[0], 5),
        newest(RECORD, table, 5),
    ):
        assert conn.execute(query.sql, query.params).fetchall(), query.sql


@pytest.mark.parametrize(
    "name", ["embeddings", "_Embed_collections", "sqlite_master", "pragma_database_list", "dbstat"]
)
def test_no_table_of_rows_is_read_as_one(conn, name):
    """A file says what is read: no vectors, and not where it is on the server."""
    conn.execute("create table if not exists _embed_collections (id integer primary key)")
    assert Rows.of(conn, SourceSpec(table=name)) is None


def test_every_name_of_the_queries_is_known(conn):
    """A table of such a name gets another one in them."""
    conn.execute("create table t (id integer primary key)")
    rows = Rows.of(conn, SourceSpec(table="t"))
    queries = (
        nearest_to_text(RECORD, rows, "words", 5),
        nearest_to_entry(RECORD, rows, "1", 5),
        newest(RECORD, rows, 5),
    )
    pattern = r"(?:with|\),|from|join|\) as) (?!select)(\w+)"
    names = {name for query in queries for name in re.findall(pattern, query.sql)}
    assert names - {"t", "score", "vector"} <= _TAKEN


def test_own_column_called_score_keeps_its_name(conn):
    """Ours is called something else then; no two columns share a name."""
    conn.execute("create table t (id integer primary key, Score real, b text)")
    conn.execute("insert into t values (1, 7, 'x')")
    fill(conn, [(1,)])
    query = nearest_to_text(RECORD, Rows.of(conn, SourceSpec(table="t")), "words", 5)
    cursor = conn.execute(query.sql, query.params)
    assert [column[0] for column in cursor.description] == ["_score", "id", "Score", "b"]
    assert [tuple(row)[1:] for row in cursor] == [(1, 7, "x")]


def test_blob_columns_are_not_shown(conn):
    """They hold vectors and pictures; a key is shown whatever its type."""
    conn.execute("create table t (k blob primary key, v BLOB, b text)")
    assert list(Rows.of(conn, SourceSpec(table="t")).columns) == ["k", "b"]


@pytest.mark.parametrize(
    "spec",
    [
        SourceSpec(sql="select 1 as id"),
        SourceSpec(),
        SourceSpec(table="t", is_elsewhere=True),
        SourceSpec(table="gone"),
        SourceSpec(table="t", id_columns=("gone",)),
    ],
    ids=str,
)
def test_rows_in_no_table_here_are_their_entries(conn, spec):
    """The id, the content and the metadata stand for the row."""
    conn.execute("create table t (id integer primary key)")
    ids = fill(conn, [("1",), ("2",)])
    rows = Rows.of(conn, spec)
    assert rows is None
    expected = nearest_ids(ids, vector_of("words", Kind.QUERY))
    query = nearest_to_text(RECORD, rows, "words", 5)
    assert found(conn, query) == [(each, f"content {each}", None) for each in expected]


def test_view_shows_its_rows(conn):
    """By its first column, as a collection of it is made."""
    conn.execute("create table t (id integer primary key, b text)")
    conn.execute("insert into t values (1, 'x'), (2, 'y')")
    conn.execute("create view v as select id, upper(b) as c from t")
    fill(conn, [(1,), (2,)])
    query = newest(RECORD, Rows.of(conn, SourceSpec(table="v")), 1)
    assert [tuple(row) for row in conn.execute(query.sql, query.params)] == [(2, "Y")]


def test_names_and_values_of_strangers_stay_out_of_the_text(conn):
    """A text is a parameter; the SQL is the same whatever is asked."""
    conn.execute("create table t (id integer primary key)")
    rows = Rows.of(conn, SourceSpec(table="t"))
    evil = "'; drop table t; --"
    record = CollectionRecord(1, evil, evil)
    queries = [
        nearest_to_text(record, rows, evil, 5),
        nearest_to_entry(record, rows, evil, 5),
        newest(record, rows, 5),
    ]
    assert not [query.sql for query in queries if "drop" in query.sql]
    assert all(isinstance(value, str) for query in queries for value in query.params.values())


def test_unusable_vectors_are_left_out_and_ties_go_by_id(conn):
    """A zero vector has no score; equal ones stand in the order of their ids."""
    conn.execute("create table t (id text primary key)")
    conn.execute("insert into t values ('a'), ('b'), ('c'), ('zero')")
    vector = encode(vector_of("same"))
    conn.executemany(
        "insert into embeddings (collection_id, id, embedding) values (1, ?, ?)",
        [("c", vector), ("a", vector), ("b", vector), ("zero", encode([0.0] * 8))],
    )
    rows = Rows.of(conn, SourceSpec(table="t"))
    assert found(conn, nearest_to_text(RECORD, rows, "words", 10)) == [("a",), ("b",), ("c",)]
    assert found(conn, nearest_to_text(RECORD, rows, "words", 2)) == [("a",), ("b",)]


def test_dot_metric_ranks_by_the_inner_product(conn):
    """A long vector may then be nearer than one of the same direction."""
    conn.execute("create table t (id text primary key)")
    conn.execute("insert into t values ('long'), ('same')")
    query_vector = vector_of("words", Kind.QUERY)
    conn.executemany(
        "insert into embeddings (collection_id, id, embedding) values (1, ?, ?)",
        [("same", encode(query_vector)), ("long", encode([3 * x + 0.01 for x in query_vector]))],
    )
    rows = Rows.of(conn, SourceSpec(table="t"))
    by_dot = CollectionRecord(1, "things", "counting", metric="dot")
    assert found(conn, nearest_to_text(by_dot, rows, "words", 1)) == [("long",)]
    assert found(conn, nearest_to_text(RECORD, rows, "words", 1)) == [("same",)]
