"""Result SQL: the query whose rows a page of results shows, which anybody can run again.

Layer 11: imports ``database``, ``errors``, ``records`` and ``sources``. Makes text of SQL and its
named parameters; who may see the rows is decided before. No value gets into the text, only
names of tables and columns that exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..database import quoted, sqlite3
from ..records import CollectionRecord
from ..sources import SourceSpec
from .row_keys import RowKey

#: The SQL function for each metric of a collection.
_SCORES = {"cosine": "llm_embed_cosine", "dot": "llm_embed_dot"}

_OF_COLLECTION = "embeddings.collection_id = (select id from collections where name = :collection)"


@dataclass(frozen=True)
class ResultSql:
    """A query and the values of its named parameters."""

    sql: str
    params: Mapping[str, str]


@dataclass(frozen=True)
class Rows:
    """The table whose rows a collection's entries are, and what of it is shown.

    Attributes:
        table: its name.
        key: how an entry's id names a row.
        columns: the columns that are shown.
    """

    table: str
    key: RowKey
    columns: tuple[str, ...]

    @classmethod
    def of(cls, conn: sqlite3.Connection, spec: SourceSpec) -> Rows | None:
        """Return where the rows are; None where they are no table of this file."""
        if not spec.table or spec.is_elsewhere:
            return None
        columns = [
            row[0] for row in conn.execute("select name from pragma_table_xinfo(?)", (spec.table,))
        ]
        if not columns:
            return None
        return cls(spec.table, RowKey.of(conn, spec.table, spec.id_columns), tuple(columns))


def nearest_to_text(record: CollectionRecord, rows: Rows | None, text: str, n: int) -> ResultSql:
    """Return the query for the rows nearest to a text."""
    wanted = "  select llm_embed(:model, :q) as vector"
    params = {"collection": record.name, "model": record.model_id, "q": text, "n": str(n)}
    return ResultSql(_nearest(record, rows, wanted, ""), params)


def nearest_to_entry(
    record: CollectionRecord, rows: Rows | None, entry_id: str, n: int
) -> ResultSql:
    """Return the query for the rows nearest to one of them, itself left out."""
    wanted = (
        "  select embeddings.embedding as vector from embeddings\n"
        f"  where {_OF_COLLECTION}\n"
        "    and embeddings.id = :id"
    )
    params = {"collection": record.name, "id": entry_id, "n": str(n)}
    return ResultSql(_nearest(record, rows, wanted, "\n    and embeddings.id != :id"), params)


def _nearest(record: CollectionRecord, rows: Rows | None, wanted: str, condition: str) -> str:
    # Two steps, so that only the rows that are shown are read in full.
    score = _SCORES.get(record.metric, _SCORES["cosine"])
    return f"""with input as (
{wanted}
),
nearest as (
  select embeddings.id, {score}(embeddings.embedding, input.vector) as score
  from embeddings, input
  where {_OF_COLLECTION}{condition}
  order by score desc
  limit :n
)
{_shown(rows)}
order by nearest.score desc"""


def _shown(rows: Rows | None) -> str:
    if rows is None:
        return """select round(nearest.score, 4) as score, embeddings.id, embeddings.content,
  embeddings.metadata
from nearest
join embeddings on embeddings.id = nearest.id
  and embeddings.collection_id = (select id from collections where name = :collection)
where nearest.score is not null"""
    table = quoted(rows.table)
    columns = ",\n  ".join(f"{table}.{quoted(name)}" for name in rows.columns)
    key = rows.key.columns[0]
    return f"""select round(nearest.score, 4) as score,
  {columns}
from nearest
join {table} on {table}.{key} = nearest.id
where nearest.score is not null"""
