"""Jobs page: the jobs of a database, and the table of jobs that other pages show too.

Layer 11: imports nothing of ours but the list of jobs that programs get, and its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from .. import job_words
from ..descriptions import collection_url, database_url, job_url
from ..http import require_method
from ..jobs_api import jobs_of
from ..lookup import database_of
from .frame import Page, database_context, html_view

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database


@html_view
async def jobs_page(request: Request, datasette: Datasette) -> Page:
    """Return the page of the jobs of a database, the newest first."""
    require_method(request, "GET", "HEAD")
    database = await database_of(request, datasette)
    jobs, following = await jobs_of(request, datasette, database)
    url = database_url(datasette, database.name, "/jobs")
    names = ("number", "collection")
    kept = {name: request.args[name] for name in names if request.args.get(name)}
    context = {
        **database_context(datasette, database),
        "log": jobs_table(datasette, database, jobs),
        "is_first": "before" not in request.args,
        "collections_url": database_url(datasette, database.name),
        "next_url": following and f"{url}?{urlencode({**kept, 'before': following})}",
    }
    twin = f"{url}.json?{request.query_string}" if request.query_string else f"{url}.json"
    return Page("embed_jobs.html", context, twin=twin)


def jobs_table(
    datasette: Datasette,
    database: Database,
    jobs: Sequence[Mapping[str, Any]],
    current: int | None = None,
) -> list[dict[str, Any]]:
    """Return what the table of jobs says of each, as every page says it.

    Args:
        current: the number of the job whose page it is.
    """
    return [
        {
            **job,
            "page": job_url(datasette, database.name, job["id"]),
            "collection_page": collection_url(datasette, database.name, job["collection"]),
            "is_this": job["id"] == current,
            "kind": job_words.kind_text(job),
            "state": job_words.state_and_reason(job),
            "asked": job_words.time_text(job["created_at"]),
            "ended": job_words.time_text(job["finished_at"]),
        }
        for job in jobs
    ]
