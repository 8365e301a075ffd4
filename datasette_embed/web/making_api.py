"""Making API: what a collection would cost, a new collection, one brought up to date.

Layer 11: imports ``access``, ``collection_setup``, ``compat``, ``errors``, ``opened_sources``,
``runner`` and ``sources``. Each checks who may do it; the runner does it, in a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from datasette import Forbidden

from .. import access, compat, runner
from ..collection_setup import OtherSourceError
from ..database import sqlite3, translated
from ..errors import CollectionNotFoundError, SourceError
from ..job_rows import JobRecord
from ..models import EmbeddingModel
from ..opened_sources import chosen_source
from ..planning import Plan
from ..records import CollectionRecord
from ..schema_sql import OUR_TABLES
from ..sources import SourceSpec
from .descriptions import collection_url, describe_job
from .fields import Fields
from .forms import body_fields
from .http import Answer, RequestError, json_view, require_method, status_of
from .lookup import (
    actor_id,
    collection_of,
    database_of,
    read,
    require_create,
    require_create_somewhere,
    require_sql,
    usable_model,
)

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

_FIELDS = (
    "table",
    "sql",
    "columns",
    "template",
    "where",
    "id_columns",
    "collection",
    "model",
    "store",
    "into",
)
#: How messages name an option of the command line -> the field that is the same.
_OPTIONS = {"--columns": "columns", "--collection": "collection", "--id": "id_columns"}
#: Half the threads that requests have on the smallest machines stay free.
ESTIMATES_AT_ONCE = 2
_estimates = threading.BoundedSemaphore(ESTIMATES_AT_ONCE)


@dataclass(frozen=True)
class Wish:
    """A collection that somebody may make.

    Attributes:
        database: Datasette's name of the database that the vectors go to.
        rows_database: that of the database with the rows, if it is another one.
    """

    database: str
    name: str
    spec: SourceSpec
    model: EmbeddingModel
    store: bool
    rows_database: str | None


@json_view
async def estimate_view(request: Request, datasette: Datasette) -> Answer:
    """Return what a new collection, or an update of it, would take."""
    wish = await _wish(request, datasette)
    plan = await asyncio.to_thread(_estimate, datasette, wish)
    return {
        "database": wish.database,
        "collection": wish.name,
        "model": wish.model.model_id,
        "plan": {**asdict(plan), "is_up_to_date": plan.is_up_to_date},
    }


def _estimate(datasette: Datasette, wish: Wish) -> Plan:
    """Read the whole source, which may take long: at most so many at once."""
    if not _estimates.acquire(blocking=False):
        raise RequestError("Other sources are being estimated, retry in a moment", 429)
    try:
        with _about_fields(wish):
            return runner.get_runner(datasette).estimate(
                wish.database,
                wish.name,
                wish.spec,
                wish.model.model_id,
                store=wish.store,
                rows_database=wish.rows_database,
            )
    finally:
        _estimates.release()


@json_view
async def new_view(request: Request, datasette: Datasette) -> Answer:
    """Make a collection, and start the job that embeds its rows."""
    wish = await _wish(request, datasette)
    job = await asyncio.to_thread(_create, datasette, wish, actor_id(request))
    url = collection_url(datasette, wish.database, wish.name)
    return {
        "collection": {
            "name": wish.name,
            "database": wish.database,
            "model": wish.model.model_id,
            "url": f"{url}.json",
            "similar_url": f"{url}/similar.json",
        },
        "job": describe_job(datasette, wish.database, job, wish.model),
    }, 201


def _create(datasette: Datasette, wish: Wish, actor: str | None) -> JobRecord:
    with _about_fields(wish):
        return runner.get_runner(datasette).create(
            wish.database,
            wish.name,
            wish.spec,
            wish.model.model_id,
            store=wish.store,
            rows_database=wish.rows_database,
            actor_id=actor,
        )


@contextmanager
def _about_fields(wish: Wish) -> Iterator[None]:
    """Say what is wrong with a wish in terms of its fields, not of the command line.

    Raises:
        RequestError: naming the field.
    """
    spec = wish.spec
    try:
        yield
    except OtherSourceError as error:
        raise RequestError(
            f"'collection': '{wish.name}' was made from something else. Choose another name, or "
            "delete that collection first"
        ) from error
    except SourceError as error:
        if status_of(error) != 400:
            raise
        reason, field = error.reason, "sql" if spec.sql else "table"
        if error.column is not None:
            lists = {"columns": spec.columns, "id_columns": spec.id_columns}
            fields = [name for name, columns in lists.items() if error.column in columns]
            field = fields[0] if fields else "template"
        elif error.source == "--where":
            field = "where"
        elif spec.template and reason.startswith("the template"):
            field = "template"
        for option, name in _OPTIONS.items():
            reason = reason.replace(f" {option}", f" '{name}'")
        raise RequestError(f"'{field}': {reason}") from error


@json_view
async def sync_view(request: Request, datasette: Datasette) -> Answer:
    """Start the job that brings a collection up to date with its rows."""
    require_method(request, "POST")
    database = await database_of(request, datasette)
    await require_create(request, datasette, database.name)
    record = await collection_of(request, datasette, database)
    fields = await body_fields(request, datasette, may_be_empty=True)
    fields.refuse_others("keep_removed")
    keep_removed = fields.flag("keep_removed")
    if record.source is None:
        raise RequestError(
            f"What '{record.name}' was made from is not known here: POST it to …/new once more, "
            "under the same name"
        )
    if record.source.get("sql") or record.source.get("where"):
        await require_sql(request, datasette, database.name)
    model = await usable_model(request, datasette, record.model_id)
    job = await asyncio.to_thread(
        lambda: runner.get_runner(datasette).sync(
            database.name, record.name, remove=not keep_removed, actor_id=actor_id(request)
        )
    )
    return {"job": describe_job(datasette, database.name, job, model)}, 202


async def _wish(request: Request, datasette: Datasette) -> Wish:
    """Return what the request asks to make, if the actor may make it."""
    require_method(request, "POST")
    database = await database_of(request, datasette)
    # Before a body is read: not of those who could make nothing with it.
    await require_create_somewhere(request, datasette, database.name)
    fields = await body_fields(request, datasette)
    fields.refuse_others(*_FIELDS)
    target = await _target(request, datasette, database, fields)
    await require_create(request, datasette, target.name)
    name, spec = _source(fields, is_elsewhere=target is not database)
    store = fields.flag("store")
    await _require_rows(request, datasette, database, spec)
    existing = await _existing(request, datasette, target, name)
    model_name = fields.name("model") or (existing.model_id if existing else None)
    return Wish(
        target.name,
        name,
        spec,
        await usable_model(request, datasette, model_name),
        store,
        None if target is database else database.name,
    )


async def _target(
    request: Request, datasette: Datasette, database: Database, fields: Fields
) -> Database:
    into = fields.name("into")
    if into is None or into == database.name:
        return database
    found = datasette.databases.get(into)
    # One answer, so that names of databases cannot be tried out.
    if found is None or not await compat.may_view_database(datasette, request.actor, into):
        raise RequestError(f"'into': there is no database '{into}' that you may view", 404)
    return found


def _source(fields: Fields, *, is_elsewhere: bool) -> tuple[str, SourceSpec]:
    try:
        return chosen_source(
            table=fields.name("table"),
            sql=fields.name("sql"),
            columns=fields.names("columns"),
            template=fields.name("template"),
            where=fields.name("where"),
            id_columns=fields.names("id_columns"),
            collection=fields.name("collection"),
            is_elsewhere=is_elsewhere,
            option="'{}'",
        )
    except RequestError:
        raise
    except ValueError as error:
        message = str(error)
        raise RequestError(message[0].upper() + message[1:]) from error


async def _require_rows(
    request: Request, datasette: Datasette, database: Database, spec: SourceSpec
) -> None:
    """Refuse rows that the actor may not read, and SQL that they may not run."""
    if spec.sql or spec.where:
        await require_sql(request, datasette, database.name)
    if not spec.table:
        return
    names = await read(database, _tables_and_views)
    if spec.table not in names:
        visible = [
            name
            for name in names
            if await compat.may_view_table(datasette, request.actor, database.name, name)
        ]
        known = ", ".join(visible) or "none"
        raise RequestError(f"There is no table '{spec.table}'. Tables and views: {known}", 404)
    if not await compat.may_view_table(datasette, request.actor, database.name, spec.table):
        raise Forbidden(f"You may not view the table '{spec.table}' (view-table)")


def _tables_and_views(conn: sqlite3.Connection) -> list[str]:
    rows = conn.execute(
        "select name from sqlite_master where type in ('table', 'view')"
        " and name not like 'sqlite\\_%' escape '\\' order by name"
    )
    return [row[0] for row in rows if row[0] not in OUR_TABLES]


async def _existing(
    request: Request, datasette: Datasette, database: Database, name: str
) -> CollectionRecord | None:
    """Return the collection of this name, if there is one.

    Raises:
        HiddenCollectionError: the actor may not view it.
    """
    try:
        with translated(database.name):
            return await access.get_visible_collection(
                datasette, request.actor, database.name, name
            )
    except CollectionNotFoundError:
        return None
