"""Heading: what every page of one collection begins with.

Layer 11: imports ``access`` and ``compat``. The name, the pages there are of it, and one line on
what it holds and whether that is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import compat
from ...records import CollectionRecord
from .. import job_words
from ..collections_api import about_collection
from ..descriptions import collection_url, job_url
from .frame import database_context

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

#: Part of the address behind a collection's -> what the tab is called, in this order.
TABS = {"": "Search", "/about": "About"}


@dataclass(frozen=True)
class Tab:
    """One of the pages of a collection."""

    label: str
    url: str
    is_current: bool


async def heading(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    current: str | None,
) -> dict[str, Any]:
    """Return the context of ``embed_collection.html``, which pages of a collection extend.

    Args:
        current: the key in ``TABS`` of the page; None for one that has no tab.
    """
    about = await about_collection(request, datasette, database, record)
    collection = about["collection"]
    job = about.get("unfinished_job")
    return {
        **database_context(datasette, database),
        "collection": collection,
        "collection_url": collection_url(datasette, database.name, record.name),
        "tabs": [
            Tab(label, collection_url(datasette, database.name, record.name, path), path == current)
            for path, label in TABS.items()
        ],
        "source_table": await _table_of(request, datasette, database, collection),
        "unfinished_job": job,
        "completeness": job and job_words.completeness_text(job, collection["entries"]),
        "unfinished_job_url": job and job_url(datasette, database.name, job["id"]),
        "urls_to_change": about.get("urls"),
    }


async def _table_of(
    request: Request, datasette: Datasette, database: Database, collection: Mapping[str, Any]
) -> dict[str, str] | None:
    """Return the table the rows are in, with its page, if this is in the same database."""
    source = collection["source"] or {}
    table = source.get("table")
    if not table or source.get("is_elsewhere"):
        return None
    kind = "view" if table in await database.view_names() else "table"
    if kind == "table" and not await database.table_exists(table):
        return {"name": table, "kind": kind, "url": "", "problem": "no longer exists"}
    if not await compat.may_view_table(datasette, request.actor, database.name, table):
        return None
    url = datasette.urls.table(database.name, table)
    return {"name": table, "kind": kind, "url": url, "problem": ""}
