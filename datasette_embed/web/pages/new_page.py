"""New page: choose rows, text and model, see what it takes, and start.

Layer 11: imports ``errors``. What was chosen is in ``new_form``, what there is to choose in
``new_choices``, the rows' text in ``preview``, what it takes in ``estimates``, and all of it
together in ``new_state``. Reading this page writes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from datasette import Forbidden, Response

from ... import compat
from ...errors import EmbedError, HiddenCollectionError, JobStateError
from ..descriptions import database_url, job_url
from ..fields import FieldError, Fields
from ..filter_conditions import describe_filters
from ..forms import body_fields
from ..http import Answer, json_view, require_method
from ..lookup import actor_id, database_of, name_in_url, require_create_somewhere
from ..making_api import create
from .estimates import act_text, is_paid, objection, plan_lines, plan_object, seen_text
from .frame import Page, database_context, html_view, redirect
from .new_choices import list_tables
from .new_form import Draft, digest
from .new_state import State, reason_of, resolved, state_of, with_estimate

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

#: Seconds that a page waits for an estimate: as it opens, and where somebody asked for it.
OPENING_PATIENCE, ASKED_PATIENCE = 1.5, 20.0
_TEMPLATE = "embed_new.html"


@html_view
async def new_page(request: Request, datasette: Datasette) -> Page:
    """Return the form for rows that the address names, or the tables to choose from."""
    database = await database_of(request, datasette)
    await require_create_somewhere(request, datasette, database.name)
    twin = database_url(datasette, database.name, "/new.json")
    twin += f"?{request.query_string}" if request.query_string else ""
    draft = Draft.of_address(request)
    if not draft.has_source and not draft.query:
        context = await _sources(request, datasette, database)
        return Page("embed_new_source.html", context, twin=twin)
    state = await _opened(request, datasette, database, draft)
    return replace(_form(request, datasette, database, state), twin=twin)


@json_view
async def new_twin(request: Request, datasette: Datasette) -> Answer:
    """Return what the page of the same address shows."""
    require_method(request, "GET")
    database = await database_of(request, datasette)
    await require_create_somewhere(request, datasette, database.name)
    draft = Draft.of_address(request)
    if not draft.has_source and not draft.query:
        tables = await list_tables(request, datasette, database)
        return {"database": database.name, "tables": [asdict(table) for table in tables]}
    state = await _opened(request, datasette, database, draft)
    draft, models = state.draft, state.models
    return {
        "database": database.name,
        "table": draft.table or None,
        "sql": draft.sql or None,
        "filters": draft.filters or None,
        "where": draft.where or None,
        "not_carried": list(draft.dropped),
        "collection": draft.collection,
        "model": draft.model,
        "into": draft.into,
        "store": draft.store,
        "columns": [asdict(column) for column in state.preview.columns],
        "images": list(state.preview.images),
        "preview": [asdict(row) for row in state.preview.rows],
        "models": [{"id": choice.id, "label": choice.label} for choice in models.usable],
        "errors": state.errors,
        "state": state.estimate.state,
        "plan": plan_object(state.estimate),
    }


async def _opened(
    request: Request, datasette: Datasette, database: Database, draft: Draft
) -> State:
    """Return what the form of an address shows at first."""
    try:
        draft = await resolved(request, datasette, database, draft)
    except FieldError as error:
        state = await state_of(request, datasette, database, draft)
        return state.wrong(error.field, error.reason)
    state = await state_of(request, datasette, database, draft)
    # A link on another site must not make this one run a query of its author to its end.
    if not state.is_table or draft.where:
        return state
    is_glimpse = bool(draft.filters)
    return await with_estimate(datasette, state, OPENING_PATIENCE, is_glimpse=is_glimpse)


@html_view
async def make(request: Request, datasette: Datasette) -> Page | Response:
    """Look once more at what the form says, or start; the form comes back if that cannot be."""
    require_method(request, "POST")
    fields = await body_fields(request, datasette)
    draft = Draft.of_form(fields)
    try:
        database = await database_of(request, datasette)
        await require_create_somewhere(request, datasette, database.name)
        state = await state_of(request, datasette, database, draft)
        return await _done(request, datasette, database, state, fields)
    except (Forbidden, HiddenCollectionError) as error:
        return _refused(request, draft, error)


async def _done(
    request: Request, datasette: Datasette, database: Database, state: State, fields: Fields
) -> Page | Response:
    """Return the way to the job, or the form."""
    if fields.text("start") is None:
        patience = ASKED_PATIENCE if fields.text("check") else OPENING_PATIENCE
        state = await with_estimate(datasette, state, patience)
        return _form(request, datasette, database, replace(state, status=200))
    state = replace(await _hesitated(datasette, state, fields), is_start=True)
    if state.wish is None or state.errors:
        return _form(request, datasette, database, state)
    try:
        job = await asyncio.to_thread(create, datasette, state.wish, actor_id(request))
        job_id, message = job.id, f"The embedding of '{state.wish.name}' has begun"
    except JobStateError as error:
        job_id, message = error.job_id, f"'{state.wish.name}' is being embedded already"
    except FieldError as error:
        failed = replace(state.wrong(error.field, error.reason), wish=None)
        return _form(request, datasette, database, failed)
    except EmbedError as error:
        reason, status = reason_of(request, datasette, error)
        return _form(request, datasette, database, state.wrong("", reason, status))
    return redirect(request, datasette, job_url(datasette, state.wish.database, job_id), message)


async def _hesitated(datasette: Datasette, state: State, fields: Fields) -> State:
    """Return it with an error where nobody has seen what would be spent."""
    wish = state.wish
    # A tick is for what it was shown with, not for whatever is chosen since.
    if wish is None or fields.text("anyway") == digest(wish):
        return state
    if not is_paid(wish.model) and not fields.flag("is_unchecked"):
        return state
    state = await with_estimate(datasette, state, ASKED_PATIENCE)
    found = state.estimate
    if state.wish is None:
        return state
    if found.state == "failed":
        return state.wrong("anyway", "Tick this to start without knowing what it takes")
    if found.plan is None:
        return state.wrong("start", "What it takes is still being counted: look at it, then start")
    if not is_paid(wish.model):
        return state
    reason = objection(fields.text("checked") or "", wish, found.plan)
    return state.wrong("start", reason) if reason else state


def _form(request: Request, datasette: Datasette, database: Database, state: State) -> Page:
    return Page(_TEMPLATE, _context(request, datasette, database, state), status=state.status)


def _context(
    request: Request, datasette: Datasette, database: Database, state: State
) -> dict[str, Any]:
    draft, wish, found = state.draft, state.wish, state.estimate
    source_url = None
    if draft.table:
        source_url = datasette.urls.table(database.name, draft.table)
        source_url += f"?{draft.filters}" if draft.filters else ""
    failure = reason_of(request, datasette, found.error)[0] if found.error else ""
    return {
        **database_context(datasette, database),
        "table": draft.table or None,
        "draft": draft,
        "state": state,
        "errors": state.errors,
        "problem": state.errors.get(""),
        "filters_text": _filters_text(state),
        "source_url": source_url,
        "sql_url": compat.sql_url(datasette, database.name, draft.sql) if draft.sql else None,
        "form_url": database_url(datasette, database.name, "/new"),
        "plan": found.plan,
        "plan_state": found.state,
        "plan_lines": list(plan_lines(found.plan, wish)) if found.plan and wish else [],
        "plan_failure": failure,
        "checked": seen_text(wish, found.plan) if wish and found.plan else "",
        "wished": digest(wish) if wish else "",
        "act": act_text(found.plan, wish.model if wish else None),
        "is_paid": bool(wish and is_paid(wish.model)),
    }


def _filters_text(state: State) -> str:
    filters = state.draft.filters
    return describe_filters(filters) if filters and "filters" not in state.errors else ""


def _refused(request: Request, draft: Draft, error: Exception) -> Page:
    """Return the form with nothing but what was typed, for whoever may sign in and go on."""
    message = str(error)
    if request.actor is None:
        message += ". You are not signed in, or not any more"
    context = {
        "draft": draft,
        "message": message,
        "form_url": request.path,
        "database_name": name_in_url(request, "database"),
    }
    return Page("embed_new_refused.html", context, status=403)


async def _sources(request: Request, datasette: Datasette, database: Database) -> dict[str, Any]:
    return {
        **database_context(datasette, database),
        "tables": await list_tables(request, datasette, database),
        "may_run_sql": await compat.may_execute_sql(datasette, request.actor, database.name),
        "form_url": database_url(datasette, database.name, "/new"),
    }
