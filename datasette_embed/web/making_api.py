"""Making API: what a collection would cost, a new collection, one brought up to date.

Layer 11: imports ``runner`` and ``sources``. ``wishes`` checks who may do what; the runner does
it, in a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import runner
from ..job_rows import JobRecord
from ..models import EmbeddingModel
from ..planning import Plan
from ..records import CollectionRecord
from ..runner.estimating import estimate_sync
from ..sources import SourceSpec
from .descriptions import collection_url, describe_job
from .fields import Fields
from .filter_conditions import is_made_of_filters
from .forms import body_fields
from .http import Answer, RequestError, json_view, require_method
from .lookup import (
    actor_id,
    collection_of,
    database_of,
    require_create,
    require_create_somewhere,
    require_sql,
    usable_model,
)
from .wishes import FIELDS, Wish, about_fields, wish_of

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

#: Half the threads that requests have on the smallest machines stay free.
ESTIMATES_AT_ONCE = 2
_estimates = threading.BoundedSemaphore(ESTIMATES_AT_ONCE)


@json_view
async def estimate_view(request: Request, datasette: Datasette) -> Answer:
    """Return what a new collection, or an update of it, would take."""
    wish = await _wish(request, datasette)
    plan = await asyncio.to_thread(estimate, datasette, wish)
    return {
        "database": wish.database,
        "collection": wish.name,
        "model": wish.model.model_id,
        "plan": {**asdict(plan), "is_up_to_date": plan.is_up_to_date},
    }


def estimate(datasette: Datasette, wish: Wish, seconds: float | None = None) -> Plan:
    """Return what a wish would take; the whole source is read, which may take long.

    Args:
        seconds: how long it may read; None for any time.

    Raises:
        TooManyEstimatesError: that many others are being made.
        RequestError: a field is wrong.
        EmbedError: as ``Runner.estimate``.
    """
    with _one_of_few(), about_fields(wish.spec, wish.name):
        return runner.get_runner(datasette).estimate(
            wish.database,
            wish.name,
            wish.spec,
            wish.model.model_id,
            store=wish.store,
            rows_database=wish.rows_database,
            seconds=seconds,
        )


class TooManyEstimatesError(RequestError):
    """Nothing is wrong with what was asked: there is no place for it at the moment."""


@contextmanager
def _one_of_few() -> Iterator[None]:
    """Hold one of the few places for what reads a whole source.

    Raises:
        TooManyEstimatesError: all are taken.
    """
    if not _estimates.acquire(blocking=False):
        raise TooManyEstimatesError("Other sources are being estimated, retry in a moment", 429)
    try:
        yield
    finally:
        _estimates.release()


@json_view
async def new_view(request: Request, datasette: Datasette) -> Answer:
    """Make a collection, and start the job that embeds its rows."""
    wish = await _wish(request, datasette)
    job = await asyncio.to_thread(create, datasette, wish, actor_id(request))
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


def create(datasette: Datasette, wish: Wish, actor: str | None) -> JobRecord:
    """Make what is wished, and return the job that embeds its rows.

    Raises:
        RequestError: a field is wrong.
        EmbedError: as ``Runner.create``.
    """
    with about_fields(wish.spec, wish.name):
        return runner.get_runner(datasette).create(
            wish.database,
            wish.name,
            wish.spec,
            wish.model.model_id,
            store=wish.store,
            rows_database=wish.rows_database,
            actor_id=actor,
        )


@json_view
async def sync_view(request: Request, datasette: Datasette) -> Answer:
    """Start the job that brings a collection up to date with its rows."""
    require_method(request, "POST")
    database = await database_of(request, datasette)
    await require_create(request, datasette, database.name)
    record = await collection_of(request, datasette, database)
    fields = await body_fields(request, datasette, may_be_empty=True)
    job = await start_sync(request, datasette, database, record, fields)
    return {"job": job}, 202


async def start_sync(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    fields: Fields,
) -> dict[str, Any]:
    """Start the job that brings a collection up to date, which the actor may change."""
    fields.refuse_others("keep_removed")
    keep_removed = fields.flag("keep_removed")
    model = await _model_to_sync(request, datasette, database, record)
    job = await asyncio.to_thread(
        lambda: runner.get_runner(datasette).sync(
            database.name, record.name, remove=not keep_removed, actor_id=actor_id(request)
        )
    )
    return describe_job(datasette, database.name, job, model)


async def plan_of_sync(
    request: Request, datasette: Datasette, database: Database, record: CollectionRecord
) -> Plan:
    """Return what an update of a collection would take; nothing is written.

    Raises:
        Forbidden: the actor may not update it.
        RequestError: what it was made from is not known, or too many plans are being made.
        EmbedError: it cannot be done.
    """
    await require_create(request, datasette, database.name)
    await _model_to_sync(request, datasette, database, record)

    def plan() -> Plan:
        with _one_of_few():
            return estimate_sync(datasette, database.name, record.name)

    return await asyncio.to_thread(plan)


async def _model_to_sync(
    request: Request, datasette: Datasette, database: Database, record: CollectionRecord
) -> EmbeddingModel:
    """Return the model of a collection, if the actor may bring it up to date."""
    if record.source is None:
        raise RequestError(
            f"What '{record.name}' was made from is not known here: POST it to …/new once more, "
            "under the same name"
        )
    source = SourceSpec.from_json(record.source)
    if source.sql or source.where and not is_made_of_filters(source):
        await require_sql(request, datasette, database.name)
    return await usable_model(request, datasette, record.model_id)


async def _wish(request: Request, datasette: Datasette) -> Wish:
    """Return what the request asks to make, if the actor may make it."""
    require_method(request, "POST")
    database = await database_of(request, datasette)
    # Before a body is read: not of those who could make nothing with it.
    await require_create_somewhere(request, datasette, database.name)
    fields = await body_fields(request, datasette)
    fields.refuse_others(*FIELDS)
    return await wish_of(request, datasette, database, fields)
