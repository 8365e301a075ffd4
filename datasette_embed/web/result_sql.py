"""Result SQL: the query whose rows a page of results shows, which anybody can run again.

Layer 11: imports ``database``, ``errors``, ``records``, ``schema_sql`` and ``sources``. Makes
text of SQL and its named parameters; who may see the rows is decided before. No value gets
into the text, only names of tables and columns that exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from datasette.utils import reserved_words

from ..database import quoted, sqlite3
from ..errors import SourceError
from ..records import CollectionRecord
from ..schema_sql import OUR_TABLES
from ..sources import SourceSpec
from .row_keys import RowKey

#: The SQL function for each metric of a collection.
_SCORES = {"cosine": "llm_embed_cosine", "dot": "llm_embed_dot"}

_OF_COLLECTION = "embeddings.collection_id = (select id from collections where name = :collection)"
#: What the queries call their parts; a table of such a name gets another one in them.
_TAKEN = frozenset({"embeddings", "collections", "input", "nearest", "newest", "entry"})
#: Keywords that Datasette's list does not have.
_KEYWORDS = frozenset({"filter", "generated", "materialized", "over", "returning", "window"})
_PLAIN_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class ResultSql:
    """A query and the values of its named parameters, which are text as in an address."""

    sql: str
    params: Mapping[str, str]


@dataclass(frozen=True)
class Conditions:
    """What else must be true of a row: SQL over the columns of its table, and parameters."""

    clauses: tuple[str, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict)


NO_CONDITIONS = Conditions()


@dataclass(frozen=True)
class Rows:
    """The table whose rows a collection's entries are, and what of it is shown.

    Attributes:
        table: its name.
        key: how an entry's id names a row.
        columns: the columns that are shown, each name and the SQL of it.
        key_columns: of those, the names of the key's.
        all_columns: every column that a condition may name.
    """

    table: str
    key: RowKey
    columns: Mapping[str, str]
    key_columns: tuple[str, ...]
    all_columns: frozenset[str]

    @classmethod
    def of(cls, conn: sqlite3.Connection, spec: SourceSpec) -> Rows | None:
        """Return where the rows are; None where they are no table of this file.

        Columns of the type BLOB are not shown: they hold vectors and pictures.
        """
        if not spec.table or spec.is_elsewhere or not _is_table_of_rows(conn, spec.table):
            return None
        # Of a table whose columns are hidden, or generated, these are columns too.
        types = {
            name: str(kind or "").upper()
            for name, kind in conn.execute(
                "select name, type from pragma_table_xinfo(?)", (spec.table,)
            )
        }
        if not types:
            return None
        try:
            key = RowKey.of(conn, spec.table, spec.id_columns)
        except SourceError:
            return None  # the table was made anew, without the column
        names = {quoted(name): name for name in types}
        keys = tuple(names.get(expression, expression) for expression in key.columns)
        # What is no column is the rowid, which stands first on Datasette's pages too.
        columns = {name: name for name in keys if name not in types} | {
            name: _name(name) for name, kind in types.items() if "BLOB" not in kind or name in keys
        }
        return cls(spec.table, key, columns, keys, frozenset(types))

    @property
    def called(self) -> str:
        """What the queries call the table."""
        is_taken = self.table.lower() in _TAKEN
        return f"{self.table}_rows" if is_taken else self.table

    @property
    def called_in_sql(self) -> str:
        """The same as it stands before the dot of a column."""
        return _name(self.called)

    @property
    def source(self) -> str:
        """The table in a ``from``."""
        if self.called == self.table:
            return _name(self.table)
        # With the name of its schema no part of the query is meant.
        return f"main.{quoted(self.table)} as {_name(self.called)}"

    def join(self, entry_id: str) -> str:
        """Return the SQL condition that a row is the one of an entry's id.

        One that an index of the table's key answers: of 100,000 rows with a compound key ten
        are found in under a millisecond, where a comparison with the parts put together reads
        the whole table.
        """
        several = len(self.key.columns) > 1
        conditions = []
        for number, is_typed in enumerate(self.key.are_typed):
            column = f"{self.called_in_sql}.{self.columns[self.key_columns[number]]}"
            part = f"llm_embed_id_part({entry_id}, {number + 1})" if several else entry_id
            if is_typed:
                conditions.append(f"{column} = {part}")
            else:
                # Such a column may hold 1 as well as '1', and neither becomes the other.
                conditions.append(f"{column} in ({part}, llm_embed_id_number({part}))")
        return " and ".join(conditions)

    def shown(self) -> str:
        """Return the columns, for a ``select``."""
        return ",\n  ".join(
            # SQLite calls a rowid by the name of the primary key that it is, if it has one.
            f"{self.called_in_sql}.{sql}" + ("" if name in self.all_columns else f" as {name}")
            for name, sql in self.columns.items()
        )

    @property
    def score_name(self) -> str:
        """What the column with the score is called, where the table has a "score" too."""
        name, taken = "score", {column.lower() for column in self.columns}
        while name in taken:
            name = f"_{name}"
        return name


def nearest_to_text(
    record: CollectionRecord,
    rows: Rows | None,
    text: str,
    n: int,
    conditions: Conditions = NO_CONDITIONS,
) -> ResultSql:
    """Return the query for the rows nearest to a text."""
    wanted = "  select llm_embed(:model, :q) as vector"
    params = {"collection": record.name, "model": record.model_id, "q": text, "n": str(n)}
    return ResultSql(
        _nearest(record, rows, wanted, _and(rows, conditions)), {**params, **conditions.params}
    )


def nearest_to_vector(
    record: CollectionRecord,
    rows: Rows | None,
    vector: str,
    n: int,
    conditions: Conditions = NO_CONDITIONS,
) -> ResultSql:
    """Return the query for the rows nearest to a vector, given as JSON."""
    wanted = "  select llm_embed_encode(:vector) as vector"
    params = {"collection": record.name, "vector": vector, "n": str(n)}
    return ResultSql(
        _nearest(record, rows, wanted, _and(rows, conditions)), {**params, **conditions.params}
    )


def nearest_to_entry(
    record: CollectionRecord,
    rows: Rows | None,
    entry_id: str,
    n: int,
    conditions: Conditions = NO_CONDITIONS,
) -> ResultSql:
    """Return the query for the rows nearest to one of them, itself left out."""
    wanted = (
        "  select embeddings.embedding as vector\n"
        "  from embeddings\n"
        f"  where {_OF_COLLECTION}\n"
        "    and embeddings.id = :id"
    )
    params = {"collection": record.name, "id": entry_id, "n": str(n)}
    condition = "\n    and embeddings.id != :id" + _and(rows, conditions)
    return ResultSql(_nearest(record, rows, wanted, condition), {**params, **conditions.params})


def newest(
    record: CollectionRecord, rows: Rows | None, n: int, conditions: Conditions = NO_CONDITIONS
) -> ResultSql:
    """Return the query for the rows that were embedded last."""
    shown = rows.shown() if rows else "embeddings.id, embeddings.content, embeddings.metadata"
    sql = f"""with newest as (
  select embeddings.id, embeddings.rowid as number
  from embeddings
  where {_OF_COLLECTION}{_and(rows, conditions)}
  order by number desc
  limit :n
)
select {shown}
from newest
{_join(rows, "newest")}
order by newest.number desc"""
    return ResultSql(sql, {"collection": record.name, "n": str(n), **conditions.params})


def _nearest(record: CollectionRecord, rows: Rows | None, wanted: str, condition: str) -> str:
    # Two steps, so that only the rows that are shown are read in full.
    score = _SCORES.get(record.metric, _SCORES["cosine"])
    columns = (
        f"{rows.score_name},\n  {rows.shown()}"
        if rows
        else "score, embeddings.id, embeddings.content,\n  embeddings.metadata"
    )
    return f"""with input as (
{wanted}
),
nearest as (
  select embeddings.id, {score}(embeddings.embedding, input.vector) as score
  from input
  cross join embeddings
  where {_OF_COLLECTION}{condition}
  order by score desc, embeddings.id
  limit :n
)
select round(nearest.score, 4) as {columns}
from nearest
{_join(rows, "nearest")}
where nearest.score is not null
order by nearest.score desc, nearest.id"""


def _join(rows: Rows | None, found: str) -> str:
    if rows is None:
        return f"join embeddings on embeddings.id = {found}.id\n  and {_OF_COLLECTION}"
    return f"join {rows.source} on {rows.join(f'{found}.id')}"


def _and(rows: Rows | None, conditions: Conditions) -> str:
    """Return the conditions on an entry; inside, names without a table are of the row's."""
    if rows is None or not conditions.clauses:
        return ""
    clauses = "\n        and ".join(conditions.clauses)
    return f"""
    and exists (
      select 1 from {rows.source}
      where {rows.join("embeddings.id")}
        and {clauses}
    )"""


def _is_table_of_rows(conn: sqlite3.Connection, name: str) -> bool:
    """Say whether a name is that of a table or view, and not of vectors or of SQLite's own.

    A file says what its collections are made of, and SQLite has tables that are in no file:
    ``pragma_database_list`` tells where it is on the server.
    """
    if name.lower() in OUR_TABLES or name.lower().startswith("sqlite_"):
        return False
    sql = "select 1 from sqlite_master where type in ('table', 'view') and name = ? collate nocase"
    return conn.execute(sql, (name,)).fetchone() is not None


def _name(name: str) -> str:
    """Return a name as it can stand in SQL, without quotes where it needs none."""
    is_plain = _PLAIN_NAME.fullmatch(name) and name.lower() not in reserved_words | _KEYWORDS
    return name if is_plain else quoted(name)
