"""Job page: how far a job has come, what failed, and pause, resume, cancel, retry.

Layer 11: imports ``access``, ``errors``, ``job_rows`` and ``records``. What a job says of itself
is what programs get of it; the words are in ``job_words``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ... import access
from ...errors import JobStateError
from ...job_rows import JobRecord
from ...records import CollectionRecord
from .. import job_words
from ..descriptions import job_url
from ..http import require_method
from ..jobs_api import about_job, act_view, job_of, list_jobs
from ..lookup import name_in_url, visible_database
from ..search_api import row_urls
from .frame import Page, html_view, redirect
from .heading import heading

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
#: What a model has to be open to the actor for.
_SPENDING = ("resume", "retry")
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
    context = await heading(request, datasette, database, record, None)
    if (context["unfinished_job"] or {}).get("id") == job.id:
        context["unfinished_job"] = None  # this page says more of it than the heading would
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
        "log": await _log(request, datasette, database, job),
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
    since = job["started_at"] or job["created_at"]
    return {
        "does": job_words.what_it_does(job),
        "state": job_words.state_text(job),
        "sentence": job_words.state_sentence(job),
        "began": "started" if job["started_at"] else "asked for",
        "since": since,
        "ago": job_words.ago_text(since),
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
        if action in job["actions"] and (may_spend or action not in _SPENDING)
    ]


async def _failures(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    failures: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the rows that failed, each with the address of its page where it has one."""
    ids = [failure["id"] for failure in failures]
    urls = await row_urls(request, datasette, database, record, ids)
    return [{**failure, "url": urls.get(failure["id"])} for failure in failures]


async def _log(
    request: Request, datasette: Datasette, database: Database, job: JobRecord
) -> list[dict[str, Any]]:
    """Return what the jobs of the collection did, the newest first."""
    jobs, _ = await list_jobs(request, datasette, database, job.collection, _LOG_LENGTH)
    return [
        {
            **other,
            "page": job_url(datasette, database.name, other["id"]),
            "is_this": other["id"] == job.id,
            "kind": job_words.kind_text(other),
            "state": job_words.state_and_reason(other),
            "started": job_words.time_text(other["started_at"]),
            "took": _took(other),
        }
        for other in jobs
    ]


def _took(job: Mapping[str, Any]) -> str:
    seconds = job_words.seconds_between(job["started_at"], job["finished_at"])
    return "" if seconds is None else job_words.duration_text(seconds)
