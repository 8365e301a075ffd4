"""About API: ``…/about.json``, where a collection comes from, what it holds and how to query it.

Layer 11: imports ``access``, ``compat``, ``errors``, ``models``, ``records``, ``schema``,
``sources``, ``store`` and ``vectors``. What may be known of a collection is asked in
``collections_api``; the rest here is what only its own page says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import access, compat, schema
from ..database import sqlite3
from ..errors import CallRefusedError, OutdatedCollectionError, SourceError, UnknownModelError
from ..models import EmbeddingModel
from ..records import CollectionRecord, EntryWarning
from ..sources import SourceSpec
from ..store import Store
from ..vectors import ITEM_SIZE
from .collections_api import about_collection
from .fields import Fields
from .http import Answer, json_view, require_method
from .jobs_api import list_jobs
from .lookup import collection_of, database_of, find_model, read
from .result_sql import ResultSql, Rows, nearest_to_entry, nearest_to_text

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

#: Jobs that are listed, the newest.
JOBS = 20
_TABLES = ("collections", "embeddings", "_embed_collections")
_EVERY_ENTRY = """select
  embeddings.id,
  llm_embed_dimensions(embeddings.embedding) as dimensions,
  embeddings.metadata
from embeddings
where embeddings.collection_id = (select id from collections where name = :collection)
order by embeddings.id"""


@dataclass(frozen=True)
class _Contents:
    """What the file says of a collection beside its record.

    Attributes:
        warnings: how many entries carry each.
        tables: name -> schema of the tables where its vectors are, and what is made of them.
        rows: the table with its rows.
        first_id: the id of one of its entries.
    """

    warnings: dict[EntryWarning, int]
    tables: dict[str, str]
    rows: Rows | None
    first_id: str | None


@json_view
async def about_view(request: Request, datasette: Datasette) -> Answer:
    """Return all there is to say of one collection."""
    require_method(request, "GET", "HEAD")
    database = await database_of(request, datasette)
    record = await collection_of(request, datasette, database)
    Fields.of_query(request)
    return {
        **await about_collection(request, datasette, database, record),
        **await about_contents(request, datasette, database, record),
    }


async def about_contents(
    request: Request, datasette: Datasette, database: Database, record: CollectionRecord
) -> dict[str, Any]:
    """Return what ``about_collection`` does not say to an actor who may view the collection."""
    contents = await read(database, lambda conn: _read(conn, record))
    answer: dict[str, Any] = {
        "model": await _about_model(request, datasette, record),
        "truncated": contents.warnings.get(EntryWarning.TRUNCATED, 0),
        "unreadable": contents.warnings.get(EntryWarning.UNREADABLE, 0),
        "tables": [
            {"name": name, "url": datasette.urls.table(database.name, name), "schema": sql}
            for name, sql in contents.tables.items()
            if await compat.may_view_table(datasette, request.actor, database.name, name)
        ],
        "queries": await _queries(request, datasette, database, record, contents),
    }
    if await access.may_create(datasette, request.actor, database.name):
        answer["jobs"], _ = await list_jobs(request, datasette, database, record.name, JOBS)
    return answer


def vector_bytes(collection: dict[str, Any]) -> int:
    """Return how many bytes the vectors of a described collection take."""
    return int(collection["entries"] * (collection["dimensions"] or 0) * ITEM_SIZE)


async def _about_model(
    request: Request, datasette: Datasette, record: CollectionRecord
) -> dict[str, Any]:
    """Return what the model is, and why it cannot be used for this collection here."""
    about: dict[str, Any] = {"id": record.model_id, "is_registered": False, "may_use": False}
    try:
        model: EmbeddingModel = await find_model(datasette, record.model_id)
    except UnknownModelError:
        return {**about, "is_current": True}
    try:
        record.check_current(model)
        is_current = True
    except (OutdatedCollectionError, CallRefusedError):
        is_current = False
    return {
        **about,
        "is_registered": True,
        "is_current": is_current,
        "may_use": await access.may_use_model(datasette, request.actor, model.model_id),
        "is_local": model.is_local,
        "max_tokens": model.max_tokens,
        "price_per_million_tokens": model.price_per_million_tokens,
    }


def _read(conn: sqlite3.Connection, record: CollectionRecord) -> _Contents:
    store = Store(conn)
    rows = None
    with suppress(SourceError):  # its table is gone, or it cannot be read
        rows = Rows.of(conn, SourceSpec.from_json(record.source or {}))
    first = conn.execute(
        "select id from embeddings where collection_id = ? and typeof(id) = 'text' limit 1",
        (record.id,),
    ).fetchone()
    tables = {}
    for name in (*_TABLES, *_similarities_of(conn, record)):
        found = conn.execute(
            "select sql from sqlite_master where type = 'table' and name = ? collate nocase",
            (name,),
        ).fetchone()
        if found:
            tables[name] = str(found[0])
    return _Contents(store.count_warnings(record.id), tables, rows, first[0] if first else None)


def _similarities_of(conn: sqlite3.Connection, record: CollectionRecord) -> Iterator[str]:
    if schema.has_table(conn, "_embed_similarities"):
        for (name,) in conn.execute(
            "select table_name from _embed_similarities where collection_id = ?"
            " and typeof(table_name) = 'text' order by table_name limit 20",
            (record.id,),
        ):
            yield name


async def _queries(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    contents: _Contents,
) -> list[dict[str, Any]]:
    """Return queries to begin with, and their pages for those who may run them."""
    queries = {
        "Search by meaning": nearest_to_text(record, contents.rows, "", 10),
        "Every entry": ResultSql(_EVERY_ENTRY, {"collection": record.name}),
    }
    if contents.first_id is not None:
        like = nearest_to_entry(record, contents.rows, contents.first_id, 10)
        queries["Rows like one row"] = like
    may_run = await compat.may_execute_sql(datasette, request.actor, database.name)
    return [
        {
            "title": title,
            "sql": query.sql,
            "params": dict(query.params),
            "url": compat.sql_url(datasette, database.name, query.sql, query.params)
            if may_run
            else None,
        }
        for title, query in sorted(queries.items(), reverse=True)
    ]
