"""Every shape of table, view and query as (entry id, content), in windows."""

from __future__ import annotations

from contextlib import closing

import pytest

from datasette_embed.database import open_database, quoted, sqlite3
from datasette_embed.errors import SourceError
from datasette_embed.records import Row
from datasette_embed.sources import Source, SourceSpec, entry_id_of
from tests.storage import execute, make_docs, query, read_source


@pytest.fixture
def db(tmp_path):
    """A path for a file."""
    return tmp_path / "a.db"


def pairs(path, window=1_000, **spec):
    """Return (entry id, content) of each row."""
    return [(row.entry_id, row.content) for row in read_source(path, SourceSpec(**spec), window)]


# Keys


@pytest.mark.parametrize("window", [1, 2, 3, 1_000])
@pytest.mark.parametrize(
    ("create", "rows", "ids"),
    [
        ("t (id integer primary key, body)", [(7, "a"), (-3, "b"), (5, "c")], ["-3", "5", "7"]),
        (
            "t (id text primary key, body)",
            [("x", "a"), ("A b", "b"), ("é", "c")],
            ["x", "A b", "é"],
        ),
        ("t (id text primary key, body) without rowid", [("b", "a"), ("a", "b")], ["a", "b"]),
        ("t (id real primary key, body)", [(1.5, "a"), (2, "b")], ["1.5", "2.0"]),
        (
            "t (a text, b integer, body, primary key (a, b))",
            [("x,y", 1, "a"), ("x", 2, "b"), ("é/", 3, "c")],
            ["x~2Cy,1", "x,2", "~C3~A9~2F,3"],
        ),
        (
            "t (a text, b integer, body, primary key (b desc, a)) without rowid",
            [("x", 1, "a"), ("w", 2, "b"), ("y", 1, "c")],
            ["1,x", "1,y", "2,w"],
        ),
        (
            "t (id text collate nocase primary key, body) without rowid",
            [("B", ""), ("a", "")],
            "aB",
        ),
        ("t (body)", [("a",), ("b",), ("c",)], ["1", "2", "3"]),
        # A column that has the name of the row id.
        ("t (rowid text, body)", [("x", "a"), ("x", "b")], ["1", "2"]),
        ("t (rowid text primary key, body)", [("x", "a"), ("y", "b")], ["x", "y"]),
        ("t (oid text primary key, body)", [("x", "a"), ("y", "b")], ["x", "y"]),
        ("t (rowid, _rowid_, body)", [(1, 2, "a"), (1, 2, "b")], ["1", "2"]),
        ("t (rowid text primary key, body) without rowid", [("y", "a"), ("x", "b")], ["x", "y"]),
    ],
)
def test_read_table_key_gives_ids(db, create, rows, ids, window):
    """Each kind of key gives text ids, every row comes once, whatever the window."""
    execute(db, f"create table {create}")
    with closing(sqlite3.connect(db)) as conn, conn:
        marks = ", ".join("?" * len(rows[0]))
        conn.executemany(f"insert into t values ({marks})", rows)
    found = pairs(db, window, table="t", columns=("body",))
    assert [entry_id for entry_id, _ in found] == list(ids)
    assert sorted(content for _, content in found) == sorted(row[-1] for row in rows)


def test_read_table_all_names_of_the_row_id_taken_read_by_its_first_column(db):
    """Where columns hide the row id entirely, the first column names the rows."""
    execute(
        db,
        "create table t (rowid, _rowid_, oid, body)",
        "insert into t values ('x', 1, 1, 'a'), ('y', 1, 1, 'b')",
    )
    assert pairs(db, 1, table="t", columns=("body",)) == [("x", "a"), ("y", "b")]


def test_read_null_or_binary_key_row_is_a_problem(db):
    """A row that no text can name is reported, the others are read."""
    execute(
        db,
        "create table t (id text primary key, body)",
        "insert into t values (null, 'a'), (null, 'b'), (x'ff', 'c'), ('d', 'd'),"
        " (cast(x'ff' as text), 'e'), ('f' || char(0) || 'g', 'f')",
    )
    rows = read_source(db, SourceSpec(table="t", columns=("body",)), 2)
    assert [row.entry_id for row in rows] == [None, None, None, "d", None, None]
    assert {row.problem for row in rows if row.entry_id is None} == {
        "the row has no usable id: NULL, binary or not text in its key"
    }
    assert rows[3] == Row("d", "d")
    assert not rows[0].is_blank


@pytest.mark.parametrize("window", [1, 2, 9])
def test_read_without_rowid_key_not_utf8_later_rows_still_come(db, window):
    """A key that is not UTF-8 must not end the reading in silence."""
    execute(
        db,
        "create table t (id text primary key, body) without rowid",
        "insert into t values ('a', 'a'), (cast(x'62ff' as text), 'b'), ('c', 'c'), ('d', 'd')",
    )
    found = pairs(db, window, table="t", columns=("body",))
    assert [entry_id for entry_id, _ in found] == ["a", None, "c", "d"]


@pytest.mark.parametrize(
    ("key", "entry_id"),
    [
        ((1,), "1"),
        (("a,b/c",), "a,b/c"),
        ((1.5,), "1.5"),
        ((1, "a,b"), "1,a~2Cb"),
        ((None,), None),
        ((1, None), None),
        ((b"x", 1), None),
        (("a\0b",), None),
    ],
)
def test_entry_id_of_key_is_text_or_none(key, entry_id):
    """One column as it is, several in Datasette's comma form."""
    assert entry_id_of(key) == entry_id


def test_read_id_columns_instead_of_key(db):
    """--id names the rows by another column."""
    make_docs(db, [(1, "a"), (2, "b")])
    execute(db, "alter table docs add column slug", "update docs set slug = 's' || id")
    assert pairs(db, table="docs", columns=("body",), id_columns=("slug",)) == [
        ("s1", "a"),
        ("s2", "b"),
    ]
    assert pairs(db, table="docs", columns=("body",), id_columns=("slug", "id")) == [
        ("s1,1", "a"),
        ("s2,2", "b"),
    ]
    assert pairs(db, table="docs", columns=("body",), id_columns=("rowid",)) == [
        ("1", "a"),
        ("2", "b"),
    ]


@pytest.mark.parametrize(
    "spec",
    [
        {"table": "t", "id_columns": ("slug",)},
        {"sql": "select slug, body from t"},
        {"table": "v"},
        {"sql": "select 1 as id, 'a' as body union all select '1', 'b'"},
    ],
)
def test_open_ids_not_unique_refused_naming_one(db, spec):
    """Two rows of one id would overwrite each other for ever; 1 and '1' are one id."""
    execute(
        db,
        "create table t (id integer primary key, slug, body)",
        "insert into t (slug, body) values ('1', 'a'), ('2', 'b'), ('1', 'c')",
        "create view v as select slug, body from t",
    )
    with pytest.raises(SourceError, match="ids are not unique: '1' comes 2 times.*--id"):
        read_source(db, SourceSpec(**spec))


def test_open_several_null_ids_are_problems_not_duplicates(db):
    """Rows without an id do not stop those that have one."""
    execute(
        db,
        "create table t (slug, body)",
        "insert into t values (null, 'a'), (null, 'b'), ('x', 'c')",
    )
    for spec in (SourceSpec(table="t", id_columns=("slug",)), SourceSpec(sql="select * from t")):
        assert [row.entry_id for row in read_source(db, spec)] == [None, None, "x"]


# Views, queries, odd tables


def test_read_view_first_column_is_the_id(db):
    """A view has no key: its first column is taken, or --id."""
    make_docs(db, [(1, "a"), (2, "b")])
    execute(db, "create view v as select 'n' || id as name, body, id from docs order by id desc")
    assert sorted(pairs(db, 1, table="v", columns=("body",))) == [("n1", "a"), ("n2", "b")]
    assert sorted(pairs(db, table="v", columns=("body",), id_columns=("id",))) == [
        ("1", "a"),
        ("2", "b"),
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "select id, body from docs",
        "select id, body from docs;",
        "select id, body from docs ; \n",
        "select id, body from docs -- all of them",
        "with d as (select * from docs) select id, body from d order by id desc limit 5",
        "values (1, 'a'), (2, 'b')",
    ],
)
def test_read_query_first_column_is_the_id(db, sql):
    """Queries as people write them, with semicolon and comment."""
    make_docs(db, [(1, "a"), (2, "b")])
    assert sorted(pairs(db, 1, sql=sql)) == [("1", "a"), ("2", "b")]


def test_read_query_all_other_columns_are_the_content(db):
    """A query says what it wants: no column is left out."""
    assert pairs(db_of(db), sql="select 1 as id, 'a' as x, 2 as y, null as z, 1.5 as w") == [
        ("1", "a 2  1.5")
    ]


def test_read_query_columns_of_one_name_all_count(db):
    """SQLite tells them apart, in any case of letters."""
    assert pairs(db_of(db), sql="select 1 as id, 'a' as x, 'b' as x, 'c' as X") == [("1", "a b c")]


def db_of(path):
    """Return the path of a file that has nothing in it."""
    execute(path, "create table unused (x)")
    return path


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "name a table or a query"),
        ({"table": "docs", "sql": "select 1, 2"}, "name a table or a query"),
        ({"table": "nope"}, "no table named 'nope'. Tables and views: docs, v"),
        ({"table": "sqlite_master"}, "no table named 'sqlite_master'"),
        ({"table": "docs", "columns": ("nope",)}, "no column named 'nope'. Columns: id, body"),
        ({"table": "docs", "columns": ("BODY",)}, "no column named 'BODY'"),
        ({"table": "docs", "id_columns": ("nope",)}, "no column named 'nope'"),
        ({"table": "docs", "where": "nope = 1"}, "no such column: nope"),
        ({"table": "docs", "where": "id = ?"}, "a.db: "),
        ({"table": "docs", "where": "1) or (1"}, "a.db: "),
        ({"table": "docs", "template": "{{ nope }}"}, "no column named 'nope'"),
        ({"table": "docs", "template": "{{ 1+1 }}"}, r"no column named '1\+1'"),
        ({"table": "docs", "template": "{{ body|upper }}"}, "no column named 'body|upper'"),
        ({"table": "docs", "template": "{{ }}"}, "no column named ''"),
        ({"table": "docs", "template": "no column"}, "the template names no {{ column }}"),
        ({"sql": "select id from docs"}, "the query returns one column: select an id first"),
        ({"sql": "delete from docs"}, "syntax error"),
        ({"sql": "select 1, 2; delete from docs"}, "syntax error"),
        ({"sql": "selec"}, "no such table: selec"),
        ({"sql": "select id, nope from docs"}, "no such column: nope"),
    ],
)
def test_open_bad_source_refused(db, spec, words):
    """What is wrong is said before anything is read, and what there is is listed."""
    make_docs(db, [(1, "a")])
    execute(db, "create view v as select * from docs")
    before = db.read_bytes()
    with pytest.raises(SourceError, match=words):
        read_source(db, SourceSpec(**spec))
    assert db.read_bytes() == before


def test_open_file_without_tables_says_none(db):
    """A list of nothing is said in a word."""
    execute(db, "create table t (x)", "drop table t")
    with pytest.raises(SourceError, match="Tables and views: none"):
        read_source(db, SourceSpec(table="t"))


@pytest.mark.parametrize(
    "name",
    ["with space", 'quo"te', "apo'strophe", "brack]et[", "100%", "a.b", "é🎉", "select", "-"],
)
def test_read_odd_names_are_read(db, name):
    """Any name SQLite allows, for the table, its key and its column."""
    table, key, column = quoted(name), quoted(f"{name} id"), quoted(f"{name} body")
    execute(
        db,
        f"create table {table} ({key} text primary key, {column} text)",
        f"insert into {table} values ('a', 'text')",
    )
    assert pairs(db, table=name, columns=(f"{name} body",)) == [("a", "text")]
    assert pairs(db, table=name, template="<{{" + f"{name} body" + "}}>") == [("a", "<text>")]


def test_read_generated_columns_are_columns(db):
    """A generated column can be embedded, stored or not."""
    execute(
        db,
        "create table t (id integer primary key, a, b as (a || '!'), c as (a || '?') stored)",
        "insert into t (a) values ('x y')",
    )
    assert pairs(db, table="t", columns=("b", "c")) == [("1", "x y! x y?")]
    assert pairs(db, table="t") == [("1", "x y x y! x y?")]


def test_read_full_text_table_is_read(db):
    """An FTS5 table has row ids."""
    execute(
        db,
        "create virtual table f using fts5(title, body)",
        "insert into f values ('one', 'first text'), ('two', 'second text')",
    )
    assert pairs(db, 1, table="f", columns=("title", "body")) == [
        ("1", "one first text"),
        ("2", "two second text"),
    ]


# Values


def test_read_where_condition_and_comment(db):
    """--where is a condition on the table, and may end in a comment."""
    make_docs(db, [(n, f"text {n}") for n in range(6)])
    for where in ("id > 1 and id < 4", "id = 2 or id = 3 -- the middle"):
        spec = {"table": "docs", "columns": ("body",), "where": where}
        assert pairs(db, 1, **spec) == [("2", "text 2"), ("3", "text 3")]


def test_read_null_blank_and_numbers(db):
    """NULL is nothing, a number is its text, blank is what Python's strip leaves empty."""
    execute(
        db,
        "create table t (id integer primary key, a, b)",
        "insert into t (a, b) values (null, null), ('', ' '), ('\t\n', char(160)), (0, 1.5),"
        " ('a', null), (null, 'b')",
    )
    rows = read_source(db, SourceSpec(table="t", columns=("a", "b")))
    assert [row.is_blank for row in rows] == [True, True, True, False, False, False]
    assert [row.content for row in rows[3:]] == ["0 1.5", "a ", " b"]


def test_read_binary_and_invalid_text_are_problems(db):
    """What is no text is named by its column; its content is not in the message."""
    execute(
        db,
        "create table t (id integer primary key, a, b)",
        "insert into t (a, b) values ('x', x'00ff'), (cast(x'61ff' as text), 'y'), ('x', 'y')",
    )
    rows = read_source(db, SourceSpec(table="t", columns=("a", "b")))
    assert [row.problem for row in rows] == [
        "column 'b' holds binary content, not text",
        "column 'a' holds text that is not UTF-8",
        None,
    ]
    assert [row.entry_id for row in rows] == ["1", "2", "3"]
    assert not any(row.is_blank for row in rows)


def test_read_template_values_go_in_once_and_stay_text(db):
    """A template puts values into places; what a value says is never looked at."""
    execute(
        db,
        "create table t (id integer primary key, a, b)",
        "insert into t (a, b) values ('{{ b }} {{ 1+1 }} \\1', 'B'), (null, 'x'), (null, ' ')",
    )
    found = pairs(db, table="t", template="{{a}}/{{  b  }}/{{ b }} {% if %} {{")
    assert found == [
        ("1", "{{ b }} {{ 1+1 }} \\1/B/B {% if %} {{"),
        ("2", "/x/x {% if %} {{"),
        ("3", ""),
    ]


def test_read_template_row_without_values_is_blank(db):
    """The words of the template alone would give every empty row the same vector."""
    make_docs(db, [(1, None), (2, " ")])
    rows = read_source(db, SourceSpec(table="docs", template="About: {{ body }}"))
    assert all(row.is_blank for row in rows)


def test_open_no_columns_named_prose_is_taken(db):
    """Identifiers, numbers and dates are left out when there is prose."""
    execute(
        db,
        "create table t (id integer primary key, slug, title, n, body)",
        "insert into t values (1, 'a-b', 'A title', 5, 'Some words here'), (2, 'c', null, 6, 'x')",
    )
    with closing(open_database(db)) as conn:
        source = Source(conn, SourceSpec(table="t"), str(db))
        # Half of the values of body have several words, which is not most.
        assert source.spec.columns == ("title",)
    execute(db, "update t set title = 'word', body = 'word'")
    with closing(open_database(db)) as conn:
        assert Source(conn, SourceSpec(table="t"), str(db)).spec.columns == (
            "slug",
            "title",
            "body",
        )


def test_open_no_columns_named_no_text_refused_or_empty(db):
    """Numbers only: name some. Nothing at all in a column: that can be counted."""
    execute(
        db,
        "create table n (id integer primary key, a integer)",
        "insert into n (a) values (1)",
        "create table e (id integer primary key, a integer, body text)",
        "insert into e (a) values (1), (2)",
        "create table z (id integer primary key, body text)",
    )
    with pytest.raises(SourceError, match="'n' has no column of text: name some with --columns"):
        read_source(db, SourceSpec(table="n"))
    assert [row.is_blank for row in read_source(db, SourceSpec(table="e"))] == [True, True]
    with pytest.raises(SourceError, match="'z' has no rows to embed"):
        read_source(db, SourceSpec(table="z"))
    assert read_source(db, SourceSpec(table="z", columns=("body",))) == []


# Windows


def test_iter_windows_sizes(db):
    """The last window is shorter, and there is no empty one."""
    make_docs(db, [(n, "x") for n in range(7)])
    spec = SourceSpec(table="docs", columns=("body",))
    with closing(open_database(db)) as conn:
        source = Source(conn, spec, str(db))
        assert [len(window) for window in source.iter_windows(3)] == [3, 3, 1]
        assert [len(window) for window in source.iter_windows(7)] == [7]


def test_iter_windows_rows_change_while_reading(db):
    """A row added ahead is read, one deleted ahead is not, none comes twice."""
    make_docs(db, [(n, f"t{n}") for n in range(1, 9)])
    with closing(open_database(db)) as conn:
        windows = Source(conn, SourceSpec(table="docs", columns=("body",)), str(db)).iter_windows(3)
        first = next(windows)
        execute(
            db,
            "delete from docs where id in (1, 3, 4)",
            "insert into docs values (0, 'behind'), (20, 'ahead')",
        )
        rest = [row for window in windows for row in window]
    assert [row.entry_id for row in first + rest] == ["1", "2", "3", "5", "6", "7", "8", "20"]


@pytest.mark.parametrize(
    "spec",
    [
        SourceSpec(table="docs", columns=("body",)),
        SourceSpec(table="v", columns=("body",)),
        SourceSpec(sql="select id, body from docs"),
        SourceSpec(table="docs", columns=("body",), id_columns=("body",)),
    ],
    ids=["table", "view", "query", "id"],
)
def test_iter_windows_another_writes_between_windows_nobody_waits(db, spec):
    """Between two windows no lock is held, with the rollback journal too."""
    make_docs(db, [(n, f"t{n}") for n in range(6)])
    execute(db, "create view v as select * from docs")
    assert query(db, "pragma journal_mode") == [("delete",)]
    with closing(open_database(db)) as conn:
        seen = 0
        for window in Source(conn, spec, str(db)).iter_windows(2):
            seen += len(window)
            with closing(sqlite3.connect(db, timeout=0)) as other, other:
                other.execute("update docs set body = body || '!' where id = 0")
    assert seen == 6
    assert query(db, "select body from docs where id = 0") == [("t0!!!",)]


def test_iter_windows_view_changes_while_reading_one_moment_is_read(db):
    """A view and a query are read as they were when reading began."""
    make_docs(db, [(n, f"t{n}") for n in range(4)])
    with closing(open_database(db)) as conn:
        source = Source(conn, SourceSpec(sql="select id, body from docs"), str(db))
        windows = source.iter_windows(3)
        rows = next(windows)
        execute(db, "delete from docs")
        assert [row.content for row in [*rows, *next(windows)]] == [
            "t0",
            "t1",
            "t2",
            "t3",
        ]


def test_iter_windows_table_dropped_source_error(db):
    """A table that goes away while it is read is an error, not an end."""
    make_docs(db, [(1, "a"), (2, "b")])
    with closing(open_database(db)) as conn:
        windows = Source(conn, SourceSpec(table="docs", columns=("body",)), str(db)).iter_windows(1)
        next(windows)
        execute(db, "drop table docs")
        with pytest.raises(SourceError, match="no such table: docs"):
            next(windows)


# The text of one row


def test_find_content_by_entry_id(db):
    """For display: the text of one row, for every kind of source."""
    make_docs(db, [(1, "a"), (2, None)])
    execute(
        db,
        "create view v as select * from docs",
        "create table c (a, b, body, primary key (a, b))",
        "insert into c values (1, 2, 'x')",
    )
    with closing(open_database(db)) as conn:
        for spec in (
            SourceSpec(table="docs", columns=("body",)),
            SourceSpec(table="v", columns=("body",)),
            SourceSpec(sql="select id, body from docs"),
        ):
            source = Source(conn, spec, str(db))
            found = [source.find_content(entry_id) for entry_id in ("1", "2", "3", "x")]
            assert found == ["a", "", None, None]
        compound = Source(conn, SourceSpec(table="c", columns=("body",)), str(db))
        assert compound.find_content("1,2") is None


# The definition


@pytest.mark.parametrize(
    "spec",
    [
        SourceSpec(table="t"),
        SourceSpec(table="t", columns=("a", "b"), where="x", id_columns=("i",), is_elsewhere=True),
        SourceSpec(sql="select 1, 2", template="{{ é }}"),
    ],
)
def test_spec_json_round_trip(spec):
    """What is stored is what is read."""
    assert SourceSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "definition",
    [
        {"chunking": "later"},
        {"table": 5},
        {"template": ["x"]},
        {"columns": "title"},
        {"columns": None},
        {"is_elsewhere": "yes"},
        {"from_json": "x"},
        {"table": "\ud800"},
        {"columns": ["a", "\ud800"]},
        {"name": "x"},
    ],
)
def test_spec_from_damaged_json_refused(definition):
    """A file may say anything: what is no definition is refused in one line."""
    with pytest.raises(SourceError, match="the collection's source: cannot be read"):
        SourceSpec.from_json({"table": "t", **definition})


def test_spec_as_text_says_what_it_is():
    """A sentence for people."""
    assert str(SourceSpec(table="t", columns=("a", "b"), where="x")) == "table t where x: a, b"
    assert str(SourceSpec(table="t", template="{{ a }}")) == "table t: {{ a }}"
    assert str(SourceSpec(sql="select 1, 2", columns=("b",))) == "query: select 1, 2"
    assert [SourceSpec(table="t").name, SourceSpec(sql="x").name] == ["'t'", "the query"]
