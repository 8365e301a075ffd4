"""About page: where a collection comes from, what it holds, and what can be done to it.

Layer 11: imports ``amounts``, ``errors``, ``planning`` and ``records``. Each form leads back
to the page, with what was wrong beside the field, or on to what came of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasette import Response

from ...amounts import about_money_text, duration_text, rows_text, size_text
from ...errors import EmbedError, JobStateError, NotFoundError
from ...planning import Plan
from ...records import CollectionRecord
from ..about_api import about_contents, vector_bytes
from ..collections_api import delete_collection, rename_collection, to_change
from ..descriptions import collection_url, database_url, job_url
from ..fields import Fields
from ..forms import body_fields
from ..http import RequestError, describe_error, require_method
from ..lookup import collection_of, database_of, require_create
from ..making_api import plan_of_sync, start_sync
from .frame import Page, html_view, redirect
from .heading import heading
from .jobs_page import jobs_table

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

#: Longest part of a name in a message, which travels in a cookie.
_MOST_CHARACTERS = 100


@html_view
async def about_page(request: Request, datasette: Datasette) -> Page:
    """Return the page of a collection; posted to, with what an update would take."""
    require_method(request, "GET", "HEAD", "POST")
    database = await database_of(request, datasette)
    if request.method != "POST":
        record = await collection_of(request, datasette, database)
        Fields.of_query(request)
        return await _page(request, datasette, database, record)
    await require_create(request, datasette, database.name)
    record = await collection_of(request, datasette, database)
    (await body_fields(request, datasette, may_be_empty=True)).refuse_others()

    async def plan() -> Page:
        found = await plan_of_sync(request, datasette, database, record)
        return await _page(request, datasette, database, record, plan=found)

    return await _or_page(request, datasette, database, record, "sync", "", plan)


@html_view
async def sync(request: Request, datasette: Datasette) -> Page | Response:
    """Start to bring a collection up to date, and go to its job."""
    require_method(request, "POST")
    database, record, fields = await to_change(request, datasette)

    async def start() -> Response:
        try:
            job_id = (await start_sync(request, datasette, database, record, fields))["id"]
        except JobStateError as error:
            job_id = error.job_id  # asked for twice, or in another tab: that is the one
        return redirect(request, datasette, job_url(datasette, database.name, job_id))

    return await _or_page(request, datasette, database, record, "sync", "", start)


@html_view
async def rename(request: Request, datasette: Datasette) -> Page | Response:
    """Give a collection another name, and go on to its page."""
    require_method(request, "POST")
    database, record, fields = await to_change(request, datasette)

    async def change() -> Response:
        renamed = await rename_collection(request, datasette, database, record, fields)
        name = renamed["collection"]["name"]
        url = collection_url(datasette, database.name, name, "/about")
        return redirect(request, datasette, url, f"It is called {_short(name)} now")

    typed = str(fields.values.get("name") or "")
    if typed.strip():  # nobody sees the spaces around a name
        fields = Fields({**fields.values, "name": typed.strip()})
    if typed.strip() in ("", record.name):
        error = RequestError("This is its name already" if typed.strip() else "Type the new name")
        return await _refused(request, datasette, database, record, "name", typed, error)
    return await _or_page(request, datasette, database, record, "name", typed, change)


@html_view
async def delete(request: Request, datasette: Datasette) -> Page | Response:
    """Delete a collection whose name was typed, and go to the list."""
    require_method(request, "POST")
    database, record, fields = await to_change(request, datasette)

    async def change() -> Response:
        deleted = await delete_collection(datasette, database, record, fields)
        message = f"Deleted the collection {_short(record.name)}: {deleted['entries']:,} vectors"
        return redirect(request, datasette, database_url(datasette, database.name), message)

    typed = str(fields.values.get("confirm") or "")
    if typed != record.name:
        error = RequestError("This is not its name. Nothing was deleted")
        return await _refused(request, datasette, database, record, "confirm", typed, error)
    return await _or_page(request, datasette, database, record, "confirm", typed, change)


async def _or_page(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    field: str,
    typed: str,
    change: Callable[[], Awaitable[Page | Response]],
) -> Page | Response:
    """Return what a change answers, or the page with what was wrong beside the field."""
    try:
        return await change()
    except NotFoundError:
        raise  # it is gone, and so is its page
    except EmbedError as error:
        return await _refused(request, datasette, database, record, field, typed, error)


async def _refused(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    field: str,
    typed: str,
    error: EmbedError,
) -> Page:
    status, message, _ = describe_error(request, datasette, error)
    message = message.removeprefix(f"'{field}': ").removeprefix(f"'{field}' ")
    context = {"error_field": field, "error": message, "typed": typed}
    return await _page(request, datasette, database, record, status, **context)


async def _page(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    status: int = 200,
    **context: Any,
) -> Page:
    head = await heading(request, datasette, database, record, "/about")
    contents = await about_contents(request, datasette, database, record)
    if not database.is_mutable or not database.path:
        head["urls_to_change"] = None  # nothing can be written here
    plan = context.get("plan")
    context = {
        **head,
        **contents,
        "about_url": collection_url(datasette, database.name, record.name, "/about"),
        "new_url": database_url(datasette, database.name, "/new"),
        "log": jobs_table(datasette, database, contents.get("jobs", ())),
        "vector_size": size_text(vector_bytes(head["collection"])),
        **_plan_words(plan),
        "watch_command": _watch_command(database, head, contents["model"]),
        "why_no_update": _why_no_update(head, contents["model"]),
        "update_label": plan and _label_of(plan),
        **context,
    }
    twin = collection_url(datasette, database.name, record.name, "/about.json")
    return Page("embed_about.html", context, status, twin=twin)


def _why_no_update(head: dict[str, Any], model: dict[str, Any]) -> str | None:
    """Return why the actor cannot bring the collection up to date here; None if they can."""
    source = head["collection"]["source"]
    if source is None:
        return (
            "What it was made from is not known here: another tool made it. Make it once more "
            "under the same name to have it brought up to date."
        )
    if "problem" in source:
        return f"What it was made from {source['problem']}."
    table = head["source_table"]
    if table and not table["url"]:
        return f"Its {table['kind']} {table['name']} {table['problem']}."
    if not model["is_registered"]:
        return f"Its model {model['id']} is not registered on this site."
    if not model["may_use"]:
        return f"You may not use its model {model['id']}."
    hides_sql = source["has_sql"] and source["sql"] is None
    if hides_sql or (source["has_where"] and source["where"] is None):
        return "Its rows come from SQL, and you may not run SQL of your own on this database."
    return None


def _watch_command(database: Database, head: dict[str, Any], model: dict[str, Any]) -> str | None:
    """Return the command that keeps a collection up to date; None where it cannot be."""
    collection, table = head["collection"], head["source_table"]
    if head["urls_to_change"] is None or collection["is_watched"] or not model["is_registered"]:
        return None
    if table is None or table["kind"] != "table" or not table["url"]:
        return None
    name = Path(database.path or "").name
    paid = ["--paid"] if model["price_per_million_tokens"] else []
    return shlex.join(["datasette", "embed", "watch", name, collection["name"], *paid])


def _label_of(plan: Plan) -> str:
    """Return what the button of an update says that it does."""
    if not plan.missing:
        return f"Remove {rows_text(plan.removable)}" if plan.is_up_to_date else "Update"
    if plan.missing == plan.failed_before:
        act = f"Try {rows_text(plan.missing)} again"
    else:
        act = f"Embed {rows_text(plan.missing)}"
    return f"{act} for {about_money_text(plan.cost_usd)}" if plan.cost_usd else act


def _plan_words(plan: Plan | None) -> dict[str, str]:
    """Return what an update takes; empty where nobody knows."""
    if plan is None:
        return {}
    seconds = plan.duration_seconds
    return {
        "plan_cost": about_money_text(plan.cost_usd) if plan.cost_usd else "",
        "plan_time": "" if seconds is None else duration_text(seconds),
        "plan_size": size_text(plan.disk_bytes),
    }


def _short(name: str) -> str:
    return name if len(name) <= _MOST_CHARACTERS else f"{name[:_MOST_CHARACTERS]}…"
