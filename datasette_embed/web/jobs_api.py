"""Jobs API: the jobs of a database, how far each has come, and what can be done to it.

Layer 11: imports ``access``, ``errors``, ``failure_records``, ``job_records``, ``runner`` and
``store``. Only those who may make collections see jobs, and of those only the jobs of
collections whose source they may see.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from datasette import Forbidden

from .. import access, runner
from ..database import translated
from ..errors import JobNotFoundError, ReadOnlyDatabaseError, UnknownModelError
from ..failure_records import FailureRecords
from ..job_records import JobRecords
from ..job_rows import JobRecord
from ..models import EmbeddingModel
from ..records import CollectionRecord
from ..store import Store
from .descriptions import describe_job
from .fields import Fields
from .forms import body_fields
from .http import Answer, RequestError, json_view, require_method
from .lookup import (
    actor_id,
    database_of,
    find_model,
    name_in_url,
    read,
    require_create,
    usable_model,
)

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

#: Jobs and failures of one answer.
DEFAULT_NUMBER, MOST_NUMBER = 100, 1_000
#: SQLite's largest integer.
_LARGEST_ID = 2**63 - 1
#: What may cost money, so that it needs a model the actor may use.
SPENDING = ("resume", "retry")


@json_view
async def jobs_view(request: Request, datasette: Datasette) -> Answer:
    """Return the jobs of a database, the newest first."""
    require_method(request, "GET")
    database = await database_of(request, datasette)
    jobs, following = await jobs_of(request, datasette, database)
    return {"database": database.name, "jobs": jobs, "next": following}


async def jobs_of(
    request: Request, datasette: Datasette, database: Database
) -> tuple[list[dict[str, Any]], int | None]:
    """Return what ``list_jobs`` does of what the address of a list asks for.

    Raises:
        Forbidden: the actor may not make collections, or not see the one that is asked for.
        RequestError: a parameter is wrong.
    """
    await require_create(request, datasette, database.name)
    fields = Fields.of_query(request, "number", "before", "collection")
    number = fields.integer("number", DEFAULT_NUMBER, most=MOST_NUMBER)
    before = fields.integer("before", _LARGEST_ID, most=_LARGEST_ID)
    collection = fields.text("collection")
    if collection is not None:
        with translated(database.name):
            await access.get_visible_collection(datasette, request.actor, database.name, collection)
    return await list_jobs(request, datasette, database, collection, number, before=before)


async def list_jobs(
    request: Request,
    datasette: Datasette,
    database: Database,
    collection: str | None,
    number: int,
    *,
    before: int = _LARGEST_ID,
) -> tuple[list[dict[str, Any]], int | None]:
    """Return the newest jobs of a database or of one collection, as far as the actor may see them.

    Whether they may see any is asked by the caller.

    Args:
        before: only jobs with a smaller number.

    Returns:
        so many jobs, and the number to go on before, if there are more.
    """
    visible = await _visible(request, datasette, database)
    jobs = [
        job
        for job in await read(database, lambda conn: JobRecords(conn).list_jobs())
        if job.id < before and _key(job) in visible and collection in (None, job.collection)
    ]
    following = jobs[number - 1].id if len(jobs) > number else None
    jobs = jobs[:number]
    models = {job.model_id: await _find_model(datasette, job) for job in jobs}
    waits = await asyncio.to_thread(
        lambda: [_waits_for(datasette, database.name, job, visible[_key(job)]) for job in jobs]
    )
    described = [
        describe_job(datasette, database.name, job, models[job.model_id], waits_for=waiting)
        for job, waiting in zip(jobs, waits, strict=True)
    ]
    return described, following


@json_view
async def job_view(request: Request, datasette: Datasette) -> Answer:
    """Return one job, and the rows it could not embed."""
    require_method(request, "GET")
    database, job, record = await job_of(request, datasette)
    return await about_job(request, datasette, database, job, record)


async def about_job(
    request: Request,
    datasette: Datasette,
    database: Database,
    job: JobRecord,
    record: CollectionRecord,
) -> dict[str, Any]:
    """Return what there is to say of a job to whoever may see it."""
    fields = Fields.of_query(request, "number", "after")
    number = fields.integer("number", DEFAULT_NUMBER, most=MOST_NUMBER)
    after = fields.text("after")
    failures = await read(
        database,
        lambda conn: FailureRecords(conn).list_failures(job.id, after=after, limit=number + 1),
    )
    shown = failures[:number]
    model = await _find_model(datasette, job)
    waiting = await asyncio.to_thread(_waits_for, datasette, database.name, job, record)
    return {
        "job": describe_job(datasette, database.name, job, model, waits_for=waiting),
        "failures": [
            {"id": entry_id, "message": message, "attempts": attempts}
            for entry_id, message, attempts in shown
        ],
        # An id that is no UTF-8 may read as one that comes before it.
        "next": shown[-1][0] if len(failures) > number and shown[-1][0] != after else None,
    }


@json_view
async def act_view(request: Request, datasette: Datasette) -> Answer:
    """Pause, resume, cancel or retry a job."""
    require_method(request, "POST")
    database, job, record = await job_of(request, datasette)
    (await body_fields(request, datasette, may_be_empty=True)).refuse_others()
    action = request.url_vars["action"]
    if action in SPENDING:
        await usable_model(request, datasette, job.model_id)

    def act() -> JobRecord:
        jobs = runner.get_runner(datasette)
        if action == "retry":
            return jobs.retry(database.name, job.id, actor_id=actor_id(request))
        actions = {"pause": jobs.pause, "resume": jobs.resume, "cancel": jobs.cancel}
        return actions[action](database.name, job.id)

    changed = await asyncio.to_thread(act)
    model = await _find_model(datasette, changed)
    # A running one ends with the batch in flight; to retry is a job of its own.
    waiting = await asyncio.to_thread(_waits_for, datasette, database.name, changed, record)
    return {"job": describe_job(datasette, database.name, changed, model, waits_for=waiting)}, 202


def _waits_for(
    datasette: Datasette, database: str, job: JobRecord, record: CollectionRecord
) -> str | None:
    try:
        return runner.get_runner(datasette).waits_for(database, job, record)
    except ReadOnlyDatabaseError:
        return None  # in memory: it will never go on


async def job_of(
    request: Request, datasette: Datasette
) -> tuple[Database, JobRecord, CollectionRecord]:
    """Return the job of the path, with its database and its collection.

    Raises:
        Forbidden: the actor may not make collections, or not see this one.
        RequestError: the number is none.
        JobNotFoundError: there is no such job.
    """
    database = await database_of(request, datasette)
    await require_create(request, datasette, database.name)
    text = name_in_url(request, "job")
    if not (text.isascii() and text.isdigit()):
        raise RequestError("The number of a job is a whole number")
    if len(text) > len(str(_LARGEST_ID)) or int(text) > _LARGEST_ID:
        raise RequestError(f"There is no job {text[:20]}", 404)
    job_id = int(text)
    job = await read(database, lambda conn: JobRecords(conn).find_job(job_id))
    if job is None:
        raise JobNotFoundError(job_id)
    # Only this collection: a page asks every second, and there may be many.
    record = await read(database, lambda conn: Store(conn).find_collection(job.collection))
    if (
        record is None
        or _key(job) != (record.id, record.name, record.model_id)
        or not await access.may_view_collection(datasette, request.actor, database.name, record)
    ):
        raise Forbidden(f"You may not view the job {job_id}: its collection is not for you")
    return database, job, record


async def _visible(
    request: Request, datasette: Datasette, database: Database
) -> dict[tuple[int, str, str], CollectionRecord]:
    with translated(database.name):
        records = await access.visible_collections(datasette, request.actor, database.name)
    return {(record.id, record.name, record.model_id): record for record in records}


def _key(job: JobRecord) -> tuple[int, str, str]:
    # By name and model too: SQLite reuses the id of a deleted collection.
    return job.collection_id, job.collection, job.model_id


async def _find_model(datasette: Datasette, job: JobRecord) -> EmbeddingModel | None:
    try:
        return await find_model(datasette, job.model_id)
    except UnknownModelError:
        return None  # its cost is not known then
