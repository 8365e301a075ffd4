"""Job page: how far a job has come, what failed, and pause, resume, cancel, retry.

Layer 11: imports ``access``, ``amounts``, ``database``, ``errors``, ``records`` and
``sources``. What a job says of itself is what programs get of it; the words are in ``job_words``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ... import access
from ...amounts import rows_text
from ...database import quoted, sqlite3
from ...errors import JobStateError
from ...records import CollectionRecord
from ...sources import SourceSpec
from .. import job_words
from ..descriptions import job_url
from ..http import require_method
from ..jobs_api import SPENDING, about_job, act_view, job_of, list_jobs
from ..lookup import name_in_url, read, visible_database
from ..row_keys import RowKey
from ..search_api import row_urls
from .frame import Page, html_view, redirect
from .heading import heading
from .jobs_page import jobs_table

if TYPE_CHECKING:
    from datasette import Request, Response
    from datasette.app import Datasette
    from datasette.database import Database

#: What can be asked of a job -> what its button says, in this order.
_BUTTONS = {
    "resume": "Resume",
    "pause": "Pause",
    "retry": "Try the failed rows again",
    "cancel": "Cancel, keep what is done",
}
#: Of a collection's jobs, how many the log shows.
_LOG_LENGTH = 20


@html_view
async def job_page(request: Request, datasette: Datasette) -> Page:
    """Return the page of one job."""
    require_method(request, "GET", "HEAD")
    database, job, record = await job_of(request, datasette)
    answer = await about_job(request, datasette, database, job, record)
    described = answer["job"]
    url = job_url(datasette, database.name, job.id)
    jobs, _ = await list_jobs(request, datasette, database, job.collection, _LOG_LENGTH)
    context = await heading(request, datasette, database, record, None)
    if (context["unfinished_job"] or {}).get("id") == job.id:
        context["unfinished_job"] = None  # this page says more of it than the heading would
        context["hides_entries"] = database.is_mutable and not job_words.is_ended(described)
    context |= {
        "job": described,
        "job_url": url,
        "state": _state(described),
        "words": _words(described),
        "buttons": await _buttons(request, datasette, database, described),
        "is_live": database.is_mutable and not job_words.is_ended(described),
        "is_underway": database.is_mutable and job_words.is_underway(described),
        "failures": await _failures(request, datasette, database, record, answer["failures"]),
        "next_failures": answer["next"],
        "log": jobs_table(datasette, database, jobs, job.id),
    }
    return Page("embed_job.html", context, twin=f"{url}.json")


@html_view
async def act(request: Request, datasette: Datasette) -> Response:
    """Do to a job what a form asks for, and go back to its page, or to that of the new job."""
    require_method(request, "POST")
    try:
        answer, _ = await act_view.answer(request, datasette)  # type: ignore[attr-defined]
    except JobStateError as error:
        # It was asked twice, or the job was faster: its page says how it is now.
        database = await visible_database(request, datasette, name_in_url(request, "database"))
        job_id = int(name_in_url(request, "job"))
        url = job_url(datasette, database.name, job_id)
        return redirect(request, datasette, url, str(error), "warning")
    job = answer["job"]
    return redirect(request, datasette, job_url(datasette, job["database"], job["id"]))


def _state(job: Mapping[str, Any]) -> list[Any]:
    """Return what the script compares, to see that more than numbers has changed."""
    names = ("status", "is_abandoned", "request", "reason", "waits_for")
    return [*(job[name] for name in names), job["counts"]["failed"]]


def _words(job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "does": job_words.what_it_does(job),
        "state": job_words.state_text(job),
        "sentence": job_words.state_sentence(job),
        # Not when it was started: a job that was resumed was started again.
        "since": job["created_at"],
        "ago": job_words.ago_text(job["created_at"]),
        "percent": job_words.percent(job),
    }


async def _buttons(
    request: Request, datasette: Datasette, database: Database, job: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Return (action, address, words) of what the actor can do to the job now."""
    if not database.is_mutable:
        return []
    may_spend = await access.may_use_model(datasette, request.actor, job["model"])
    return [
        (action, job["actions"][action], label)
        for action, label in _BUTTONS.items()
        if action in job["actions"] and (may_spend or action not in SPENDING)
    ]


async def _failures(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    failures: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return each reason with its rows, and the address of a row that has a page."""
    ids = [failure["id"] for failure in failures]
    urls = await row_urls(request, datasette, database, record, ids)
    there = await _ids_there(datasette, database, record, ids) if urls else set()
    found: dict[str, list[dict[str, Any]]] = {}
    for failure in failures:
        url = urls.get(failure["id"]) if failure["id"] in there else None
        found.setdefault(failure["message"], []).append({**failure, "url": url})
    return [
        {"message": message, "count": rows_text(len(rows)), "rows": rows}
        for message, rows in found.items()
    ]


async def _ids_there(
    datasette: Datasette, database: Database, record: CollectionRecord, ids: Sequence[str]
) -> set[str]:
    """Return which entries have a row; all of them, where the rows are in another file."""
    spec = SourceSpec.from_json(record.source or {})
    table = spec.table
    if table is None or spec.is_elsewhere:
        return set(ids)

    def find(conn: sqlite3.Connection) -> set[str]:
        key = RowKey.of(conn, table)
        condition = key.condition("keys")
        return {
            entry_id
            for entry_id in ids
            if conn.execute(
                f"select 1 from {quoted(table)} where {condition} limit 1",
                {"keys": json.dumps(key.values([entry_id]))},
            ).fetchone()
        }

    return await read(database, find)
