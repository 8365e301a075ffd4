"""Collections API: one collection shown, renamed, deleted.

Layer 11: imports ``access``, ``compat``, ``errors``, ``runner`` and ``store``. How a collection is
made and kept up to date is in ``making_api``, lists of them in ``lists_api``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .. import access, compat, runner
from ..database import sqlite3, translated, write_transaction
from ..errors import (
    CollectionNotFoundError,
    HiddenCollectionError,
    JobStateError,
    ReadOnlyDatabaseError,
)
from ..job_records import JobRecords
from ..job_rows import JobStatus
from ..records import CollectionRecord
from ..store import Store
from ..watches import rename_watched
from .descriptions import (
    collection_url,
    describe_collection,
    describe_job,
    describe_source,
    read_facts,
)
from .fields import Fields
from .forms import body_fields
from .http import Answer, RequestError, json_view, require_method
from .lookup import collection_of, database_of, read, require_create

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database


async def about_collection(
    request: Request, datasette: Datasette, database: Database, record: CollectionRecord
) -> dict[str, Any]:
    """Return what the actor may know of a collection they may view."""
    (facts,) = await read(database, lambda conn: read_facts(conn, [record]))
    shows_sql = await compat.may_execute_sql(datasette, request.actor, database.name)
    described = describe_collection(datasette, database.name, record, facts)
    described["source"] = describe_source(record, shows_sql=shows_sql)
    answer: dict[str, Any] = {"collection": described}
    if await access.may_create(datasette, request.actor, database.name):
        job = facts.unfinished
        answer["unfinished_job"] = job and describe_job(datasette, database.name, job)
        answer["urls"] = {
            name: collection_url(datasette, database.name, record.name, f"/{name}")
            for name in ("sync", "rename", "delete")
        }
    return answer


@json_view
async def delete_view(request: Request, datasette: Datasette) -> Answer:
    """Delete a collection, if its name is said once more."""
    require_method(request, "POST")
    database, record, fields = await to_change(request, datasette)
    return await delete_collection(datasette, database, record, fields)


async def delete_collection(
    datasette: Datasette, database: Database, record: CollectionRecord, fields: Fields
) -> dict[str, Any]:
    """Delete a collection that the actor may change, if its name is said once more."""
    fields.refuse_others("confirm")
    if fields.text("confirm") != record.name:
        raise RequestError("To delete the collection, give its name as 'confirm'")
    deleted = await asyncio.to_thread(
        lambda: runner.get_runner(datasette).delete(database.name, record.name)
    )
    return {"deleted": record.name, "entries": deleted}


@json_view
async def rename_view(request: Request, datasette: Datasette) -> Answer:
    """Give a collection another name."""
    require_method(request, "POST")
    database, record, fields = await to_change(request, datasette)
    return await rename_collection(request, datasette, database, record, fields)


async def rename_collection(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    fields: Fields,
) -> dict[str, Any]:
    """Give a collection that the actor may change another name."""
    fields.refuse_others("name")
    name = fields.new_name("name")
    if name is None:
        raise RequestError("Give the new name as 'name'")
    if not database.is_mutable:
        raise ReadOnlyDatabaseError(f"database '{database.name}'", "is immutable")
    await _require_free(request, datasette, database, name)
    with translated(database.name):
        renamed = await database.execute_write_fn(lambda conn: _rename(conn, record, name))
    (facts,) = await read(database, lambda conn: read_facts(conn, [renamed]))
    return {"collection": describe_collection(datasette, database.name, renamed, facts)}


async def _require_free(
    request: Request, datasette: Datasette, database: Database, name: str
) -> None:
    """Refuse a name that is taken, and tell of the other collection only who may see it."""
    try:
        with translated(database.name):
            await access.get_visible_collection(datasette, request.actor, database.name, name)
    except CollectionNotFoundError:
        return
    except HiddenCollectionError as error:
        message = "'name': this name cannot be used, choose another"
        raise RequestError(message) from error
    raise RequestError(f"'name': there is a collection '{name}' already, choose another name")


def _rename(conn: sqlite3.Connection, record: CollectionRecord, name: str) -> CollectionRecord:
    with write_transaction(conn):
        store = Store(conn)
        found = store.get_collection(record.name)
        job = JobRecords(conn).find_unfinished(found.id)
        if job is not None and job.status is JobStatus.RUNNING and not job.is_abandoned:
            raise JobStateError(job.id, job.status.value, "rename the collection when it has ended")
        renamed = store.rename_collection(found, name)
        rename_watched(conn, found, renamed)
        return renamed


async def to_change(
    request: Request, datasette: Datasette
) -> tuple[Database, CollectionRecord, Fields]:
    """Return the collection of the path and the fields of the body, if the actor may change it.

    Raises:
        Forbidden: the actor may not.
        CollectionNotFoundError, HiddenCollectionError: as ``collection_of``.
        RequestError: as ``body_fields``.
    """
    database = await database_of(request, datasette)
    await require_create(request, datasette, database.name)
    record = await collection_of(request, datasette, database)
    return database, record, await body_fields(request, datasette)
