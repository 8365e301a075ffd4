"""Filters of a table page as SQL, and values written into SQL, against SQLite itself."""

from __future__ import annotations

import math
from contextlib import closing
from urllib.parse import urlencode

import pytest
from datasette.app import Datasette
from datasette.filters import Filters

from datasette_embed.database import sqlite3
from datasette_embed.sources import SourceSpec
from datasette_embed.web.filter_conditions import (
    MOST_FILTERS,
    condition_of,
    is_made_of_filters,
    read_filters,
)
from datasette_embed.web.sql_literals import literal, parameters_of, with_values

TABLE = "my :p0 table"
ROWS = [(1, "O'Brien", '["a", ":p1"]'), (2, ":p0", "[]"), (3, None, '["it\'s"]'), (10, "", "[]")]


def ids_where(condition: str) -> list[int]:
    """Return the ids of the rows for which a condition holds."""
    conn = sqlite3.connect(":memory:")
    conn.execute(f'create table "{TABLE}" (id integer, name text, tags text)')
    conn.executemany(f'insert into "{TABLE}" values (?, ?, ?)', ROWS)
    found = conn.execute(f'select id from "{TABLE}" where {condition} order by id').fetchall()
    conn.close()
    return [row[0] for row in found]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ("id=2", [2]),
        ("id__gt=2", [3, 10]),
        ("name=O%27Brien", [1]),
        ("name__contains=%27", [1]),
        ("name=x%27+or+1+--", []),
        ("name=:p0", [2]),
        ("name=:p0&id__gt=1", [2]),
        ("name__isnull=1", [3]),
        ("name__isblank=1&id__lt=9", [3]),
        ("name__in=O%27Brien,:p0", [1, 2]),
        ('id__in=[1,null,"3"]', [1, 3]),
        ("tags__arraycontains=:p1", [1]),
        ("tags__arraycontains=it%27s", [3]),
        ("id=2&_sort=id&_size=5&_where=0", [2]),
    ],
)
def test_condition_leaves_the_rows_of_the_table_page(filters, ids):
    """Quotes, names of parameters and SQL in a value are nothing but a value."""
    condition = condition_of(filters, TABLE, ["id", "name", "tags"])
    assert ids_where(condition) == ids


@pytest.mark.parametrize(
    ("filters", "part"),
    [
        ("nope=1", "no column 'nope'"),
        ("name__nope=1", "^'name__nope' is no filter. Filters: .*contains.*gt"),
        ("_nope__exact=1", "no column '_nope'"),
        ("id__in=[1,", "^'id__in': the value cannot be read$"),
        ("id__in=[[1]]", "^'id__in': a list .* something else than texts and numbers$"),
        ("name=%00", "^'name' must not hold the character NUL$"),
        ('name__in=["\\ud800"]', "^'name__in': .* half a character$"),
        ('name__in=["\\u0000"]', "^'name__in': .* NUL"),
        ("id__in=[9223372036854775808]", "^'id__in': a whole number is too large for SQLite$"),
        ("id__gt=99999999999999999999", "^'id__gt': a whole number is too large for SQLite$"),
        ("id=1&" * (MOST_FILTERS + 1), "^at most 50 filters can be used at once$"),
    ],
)
def test_filter_that_cannot_be_carried_is_refused(filters, part):
    """It would leave other rows than meant."""
    with pytest.raises(ValueError, match=part):
        condition_of(filters, TABLE, ["id", "name", "tags"])


@pytest.mark.parametrize("operator", ["lt", "gte", "exact", "in", "notin"])
@pytest.mark.parametrize(
    "value",
    ["2.5e19", "1e300", "-1e19", "1e400", "-5", "1.5", "[1e19]", "[2.5e19, 1.5]", "[1e999]"]
    + ["[-1e999]", "[NaN]", "[null]", "[true]", "[-9223372036854775808]", "[9.3e18, -5]"],
)
def test_number_leaves_the_rows_that_the_table_page_leaves(operator, value):
    """Whatever its size, and whether the column has a type: as where Datasette binds it."""
    values = [None, -5, 0, 1, 1.5, 9e18, 9.3e18, 1e19, 2e19, 2.5e19, 1e300, -(2**63), -1e19]
    values += [math.inf, -math.inf, "1e19", "2.5e19", "x", "1.5"]
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.execute("create table t (id integer primary key, typed real, loose)")
        conn.executemany("insert into t (typed, loose) values (?, ?)", [(v, v) for v in values])
        for column in ("typed", "loose"):
            pair = (f"{column}__{operator}", value)
            condition = condition_of(urlencode([pair]), "t", ["typed", "loose"])
            (clause,), bound = Filters([pair]).build_where_clauses("t")
            shown = conn.execute(f"select id from t where {clause}", bound).fetchall()
            assert conn.execute(f"select id from t where {condition}").fetchall() == shown


def test_digit_that_is_no_number_is_refused_in_words_or_is_a_text():
    """Datasette 0.65 takes ² for a number, 1.0 for a text."""
    if hasattr(Datasette, "allowed"):
        assert read_filters([("id__gt", "²")])[0].words == "id > ²"
    else:
        with pytest.raises(ValueError, match="^'id__gt': the value cannot be read$"):
            read_filters([("id__gt", "²")])


@pytest.mark.parametrize(
    ("name", "column", "operator"),
    [
        ("id", "id", "exact"),
        ("a__b__gt", "a__b", "gt"),
        ("_lang__not", "_lang", "not"),
    ],
)
def test_read_filter_knows_its_column(name, column, operator):
    """Up to the last two underscores, as Datasette has it."""
    (found,) = read_filters([(name, "5")])
    assert (found.column, found.operator, found.value) == (column, operator, "5")


@pytest.mark.parametrize("column", ['a"b', "a]b", "a[b"])
def test_column_with_quotes_is_refused(column):
    """Older versions of Datasette do not escape them."""
    with pytest.raises(ValueError, match="cannot be carried"):
        condition_of(f"{column}=1", TABLE, [column])


def test_made_of_filters_only_where_nothing_else_is_said():
    """The condition is made once more, and must be the same."""
    where = condition_of("id=1", "t")
    assert is_made_of_filters(SourceSpec(table="t", where=where, filters="id=1"))
    for other in (
        SourceSpec(table="t", where="1", filters="id=1"),
        SourceSpec(table="t", where=f"{where} or 1", filters="id=1"),
        SourceSpec(table="t", where=where),
        SourceSpec(table="t", filters="id=1"),
        SourceSpec(table="t", where="1", filters="id__in=["),
        SourceSpec(sql="select 1", where=where, filters="id=1"),
    ):
        assert not is_made_of_filters(other)


@pytest.mark.parametrize(
    ("filters", "wheres"),
    [
        ("rating__gt=1.5", ["\"rating\" > '1.5'", '"rating" > 1.5']),
        ("rating__lte=-5&id=1", ['"id" = \'1\' and "rating" <= ' + n for n in ("'-5'", "-5")]),
        ("rating__lt=x", ["\"rating\" < 'x'"]),
        ("rating__lt=nan", ["\"rating\" < 'nan'"]),
    ],
)
def test_made_of_filters_under_another_version_of_datasette(filters, wheres):
    """0.65 compares with a text what 1.0 compares with a number; neither says anything else."""
    for where in wheres:
        assert is_made_of_filters(SourceSpec(table="t", where=where, filters=filters))
        for other in (f"{where} or 1", where.replace("<", "<>"), f"({where})", "1"):
            if other != where:
                assert not is_made_of_filters(SourceSpec(table="t", where=other, filters=filters))


def test_more_filters_than_are_read_are_no_mere_filters():
    """Nobody makes such a source here."""
    filters = "id=1&" * (MOST_FILTERS + 1)
    where = " and ".join(["\"id\" = '1'"] * (MOST_FILTERS + 1))
    assert not is_made_of_filters(SourceSpec(table="t", where=where, filters=filters))


@pytest.mark.parametrize(
    "value",
    [None, 0, -7, 2**62, 2**63 - 1, -(2**63), True, 1.5, -0.1, 1e19, -2.5e19, 1e300, 5e-324]
    + [math.inf, -math.inf, math.nan, "", "it's", "--", "a\nb", ":x", "💥"],
)
def test_literal_is_read_back_by_sqlite(value):
    """As the very same value, which is what SQLite makes of one that is bound."""
    with closing(sqlite3.connect(":memory:")) as conn:
        (read,) = conn.execute(f"select {literal(value)}").fetchone()
        (bound,) = conn.execute("select ?", (value,)).fetchone()
    assert (read, type(read)) == (bound, type(bound))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "a\0b", "\ud800", [1], {}, b"x"])
def test_literal_that_sql_has_not_is_refused(value):
    """Written in another way it would be another value."""
    with pytest.raises(ValueError, match="^a "):
        literal(value)


def test_with_values_leaves_texts_names_and_comments_alone():
    """A parameter is one only where SQLite takes it for one."""
    sql = "select ':a', \":a\", [:a], `:a` -- :a\n, /* :a */ :a, @b, $c"
    assert parameters_of(sql) == ["a", "b", "c"]
    assert with_values(sql, {"a": "x'y", "c": 2}) == (
        "select ':a', \":a\", [:a], `:a` -- :a\n, /* :a */ 'x''y', @b, 2"
    )


def test_parameters_are_named_as_sqlite_reads_them():
    """With a digit, a letter that is not ASCII, or $, which is part of other names too."""
    sql = 'select :1, :é, :a$b, x$c, é$d, "e"'
    assert parameters_of(sql) == ["1", "é", "a$b"]
    names = {"1": 1, "é": 2, "a$b": 3}
    conn = sqlite3.connect(":memory:")
    conn.execute("create table t (x$c, é$d, e)")
    conn.execute("insert into t values (4, 5, 6)")
    assert conn.execute(f"{sql} from t", names).fetchall() == [(1, 2, 3, 4, 5, 6)]
    assert conn.execute(f"{with_values(sql, names)} from t").fetchall() == [(1, 2, 3, 4, 5, 6)]
    conn.close()
