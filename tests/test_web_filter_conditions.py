"""Filters of a table page as SQL, and values written into SQL, against SQLite itself."""

from __future__ import annotations

import pytest

from datasette_embed.database import sqlite3
from datasette_embed.sources import SourceSpec
from datasette_embed.web.filter_conditions import condition_of, is_made_of_filters
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
        ("name__nope=1", "no filter 'nope'"),
        ("id__in=[1,", "cannot be read"),
        ("id__in=[[1]]", "something else than texts and numbers"),
        ("name=%00", "NUL"),
    ],
)
def test_filter_that_cannot_be_carried_is_refused(filters, part):
    """It would leave other rows than meant."""
    with pytest.raises(ValueError, match=part):
        condition_of(filters, TABLE, ["id", "name", "tags"])


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


@pytest.mark.parametrize("value", [None, 0, -7, 2**62, 1.5, "", "it's", "--", "a\nb", ":x"])
def test_literal_is_read_back_by_sqlite(value):
    """As the very same value."""
    conn = sqlite3.connect(":memory:")
    assert conn.execute(f"select {literal(value)}").fetchone() == (value,)
    conn.close()


def test_with_values_leaves_texts_names_and_comments_alone():
    """A parameter is one only where SQLite takes it for one."""
    sql = "select ':a', \":a\", [:a], `:a` -- :a\n, /* :a */ :a, @b, $c"
    assert parameters_of(sql) == ["a", "b", "c"]
    assert with_values(sql, {"a": "x'y", "c": 2}) == (
        "select ':a', \":a\", [:a], `:a` -- :a\n, /* :a */ 'x''y', @b, 2"
    )
