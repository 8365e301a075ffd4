"""Collections page: the collections of the site or of one database, and how to make one.

Layer 11: imports ``access``, ``compat`` and ``errors``. The lists are those of ``lists_api``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ... import access, compat
from .. import job_words
from ..descriptions import collection_url, database_url, job_url
from ..http import require_method
from ..lists_api import list_database, list_site
from ..lookup import database_of
from .frame import Page, database_context, html_view
from .new_choices import list_tables

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

logger = logging.getLogger(__name__)

#: Columns of the table: class, heading, what to sort by; None for one that is not sorted by.
_COLUMNS = (
    ("title", "Collection", "name"),
    ("database", "Database", None),
    ("source", "Rows of", "table"),
    ("entries", "Rows", "entries"),
    ("model", "Model", "model"),
    ("state", "State", None),
    ("made", "Made (UTC)", "created_at"),
)
#: Databases whose tables are offered on a page without collections, tables of each, and columns.
_MOST_DATABASES, _MOST_TABLES, _MOST_COLUMNS = 5, 100, 5


@dataclass(frozen=True)
class Column:
    """One column of the table, and the address of the page sorted by it."""

    name: str
    label: str
    url: str | None = None
    aria_sort: str | None = None


@html_view
async def site_page(request: Request, datasette: Datasette) -> Page:
    """Return the page of all collections of the site."""
    require_method(request, "GET", "HEAD")
    answer = await list_site(request, datasette)
    listed = answer["collections"]
    names = {each["database"] for each in listed}
    url = datasette.urls.path("/-/embed")
    context = await _table(request, datasette, listed, url, has_databases=len(names) > 1)
    writable = await _writable(request, datasette, datasette.databases.values())
    context |= {
        "is_site": True,
        "unreadable": answer["unreadable"],
        "truncated": [
            {"name": name, "url": database_url(datasette, name)} for name in answer["truncated"]
        ],
        "makers": await _makers(request, datasette, writable, has_tables=not listed),
        "why_none": _why_none(request, datasette.databases.values(), writable),
    }
    return Page("embed_collections.html", context, twin=_twin(request, url))


@html_view
async def database_page(request: Request, datasette: Datasette) -> Page:
    """Return the page of the collections of one database."""
    require_method(request, "GET", "HEAD")
    database = await database_of(request, datasette)
    answer = await list_database(request, datasette, database)
    listed, following = answer["collections"], answer["next"]
    url = database_url(datasette, database.name)
    context = database_context(datasette, database)
    context |= await _table(request, datasette, listed, url, has_databases=False)
    writable = await _writable(request, datasette, [database])
    is_empty = not listed and "after" not in request.args
    context |= {
        "makers": await _makers(request, datasette, writable, has_tables=is_empty),
        "why_none": _why_none(request, [database], writable),
        "jobs_url": f"{url}/jobs" if writable else None,
        "is_behind": not is_empty and not listed,
        "next_url": None if following is None else _again(request, url, after=following),
    }
    return Page("embed_collections.html", context, twin=_twin(request, url))


# -- the table ------------------------------------------------------------------------


async def _table(
    request: Request,
    datasette: Datasette,
    listed: Sequence[Mapping[str, Any]],
    url: str,
    *,
    has_databases: bool,
) -> dict[str, Any]:
    """Return the rows of the table, and those of its columns that say something."""
    tables = await _tables(request, datasette, listed)
    shows_state = any("unfinished_job" in each or each["is_rebuilding"] for each in listed)
    shown = {"database": has_databases, "state": shows_state}
    return {
        "columns": [
            _column(request, url, *column) for column in _COLUMNS if shown.get(column[0], True)
        ],
        "collections": [_row(datasette, each, tables) for each in listed],
        "shown": shown,
    }


def _column(request: Request, url: str, name: str, label: str, sort: str | None) -> Column:
    if sort is None:
        return Column(name, label)
    ascending = request.args.get("sort") or (
        None if request.args.get("sort_desc") else "name"  # as the list is without a wish
    )
    if ascending == sort:
        return Column(name, label, _sorted(request, url, sort_desc=sort), "ascending")
    is_descending = request.args.get("sort_desc") == sort
    link = _sorted(request, url, sort=sort)
    return Column(name, label, link, "descending" if is_descending else None)


def _row(
    datasette: Datasette,
    collection: Mapping[str, Any],
    tables: Mapping[tuple[str, str], Mapping[str, Any]],
) -> dict[str, Any]:
    database, source = collection["database"], collection["source"] or {}
    return {
        **collection,
        "page": collection_url(datasette, database, collection["name"]),
        "database_page": database_url(datasette, database),
        "table": _source(database, source, tables),
        "state": _state(datasette, collection),
        "made": job_words.time_text(collection["created_at"]),
    }


def _source(
    database: str,
    source: Mapping[str, Any],
    tables: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Return what a collection was made from: its name, its page, what is wrong with it."""
    table = source.get("table")
    if not table:
        words = "a query" if source.get("has_sql") else ""
        return {"name": words, "problem": source.get("problem")}
    if source.get("is_elsewhere"):
        return {"name": table, "note": "of another database"}
    return tables[database, table]


def _state(datasette: Datasette, collection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a collection in words, and the page of the job that says more."""
    job = collection.get("unfinished_job")
    if job is None:
        return _finished_state(datasette, collection)
    url = job_url(datasette, collection["database"], job["id"])
    if job["action"] == "watch" and job["status"] == "pending":
        return {"words": "ready, kept up to date", "url": url}
    share = job_words.percent(job)
    words = job_words.state_text(job)
    if words == "running" and share is not None:
        words = f"{share} %"
    elif words in ("paused", "interrupted") and share is not None:
        words = f"{words}, {share} %"
    elif words == "pending":
        words = "waiting"
    return {"words": words, "url": url}


def _finished_state(datasette: Datasette, collection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a collection that nothing is left to do for, or was given up."""
    job = collection.get("newest_job")
    if job is None or job["status"] != "cancelled":
        return {"words": "incomplete" if collection["is_rebuilding"] else "ready"}
    share = job_words.percent(job)
    words = "cancelled" if share is None else f"cancelled, {share} %"
    return {"words": words, "url": job_url(datasette, collection["database"], job["id"])}


async def _tables(
    request: Request, datasette: Datasette, listed: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (database, table) -> its name, its page if the actor may see it, what is wrong."""
    wanted = dict.fromkeys(
        (each["database"], each["source"]["table"])
        for each in listed
        if each["source"] and each["source"].get("table") and not each["source"]["is_elsewhere"]
    )
    there = {
        name: {*await database.table_names(), *await database.view_names()}
        for name in {database for database, _ in wanted}
        if (database := datasette.databases.get(name))
    }
    found = {}
    for name, table in wanted:
        found[name, table] = {"name": table}
        if table not in there.get(name, ()):
            found[name, table] |= {"is_gone": True, "problem": "no longer exists"}
        elif await compat.may_view_table(datasette, request.actor, name, table):
            found[name, table]["url"] = datasette.urls.table(name, table)
    return found


# -- making one -----------------------------------------------------------------------


async def _writable(
    request: Request, datasette: Datasette, databases: Iterable[Database]
) -> list[Database]:
    """Return the databases in which the actor can make a collection."""
    return [
        database
        for database in list(databases)
        if _takes_collections(database)
        and await access.may_create(datasette, request.actor, database.name)
    ]


def _takes_collections(database: Database) -> bool:
    return bool(database.is_mutable and database.path and not database.is_memory)


def _why_none(
    request: Request, databases: Iterable[Database], writable: Sequence[Database]
) -> str | None:
    """Return why the actor can make no collection, where somebody else could."""
    if writable or not any(_takes_collections(database) for database in list(databases)):
        return None
    return "signed out" if request.actor is None else "not allowed"


async def _makers(
    request: Request, datasette: Datasette, databases: Sequence[Database], *, has_tables: bool
) -> list[dict[str, Any]]:
    """Return where a collection can be made, and of which tables."""
    makers = []
    for number, database in enumerate(databases):
        url = database_url(datasette, database.name, "/new")
        maker: dict[str, Any] = {"database": database.name, "url": url, "tables": []}
        if has_tables and number < _MOST_DATABASES:
            maker["tables"] = await _tables_to_embed(request, datasette, database)
        makers.append(maker)
    return makers


async def _tables_to_embed(
    request: Request, datasette: Datasette, database: Database
) -> list[dict[str, Any]]:
    """Return the first tables that have text, with their first columns of it."""
    try:
        tables = await list_tables(request, datasette, database)
    except Exception:
        # A file may hold anything, and the page is about more than this one.
        logger.exception("the tables of %s cannot be listed", database.name)
        return []
    return [
        {
            "name": table.name,
            "columns": table.columns[:_MOST_COLUMNS],
            "more": max(0, len(table.columns) - _MOST_COLUMNS),
            "page": table.url,
            "url": table.new_url,
        }
        for table in tables[:_MOST_TABLES]
        if table.columns
    ]


# -- addresses ------------------------------------------------------------------------


def _sorted(request: Request, url: str, **sort: str) -> str:
    number = request.args.get("number")
    return f"{url}?{urlencode({**sort, **({'number': number} if number else {})})}"


def _again(request: Request, url: str, **changes: str) -> str:
    """Return the address of the same list, changed."""
    names = ("sort", "sort_desc", "number", "after")
    kept = {name: request.args[name] for name in names if request.args.get(name)}
    query = urlencode({**kept, **changes})
    return f"{url}?{query}" if query else url


def _twin(request: Request, url: str) -> str:
    return _again(request, f"{url}.json")
