"""Lists API: the collections of a site or of one database, as far as the actor may see them.

Layer 11: imports ``access``, ``compat``, ``errors`` and ``records``. One collection and what can
be done to it is ``collections_api``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import access, compat
from ..database import translated
from ..errors import SourceError
from ..records import CollectionRecord
from .descriptions import (
    Facts,
    database_url,
    describe_collection,
    describe_job,
    describe_source,
    read_facts,
)
from .fields import Fields
from .http import Answer, RequestError, json_view, require_method
from .lookup import database_of, read, require_site

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

logger = logging.getLogger(__name__)

#: Collections of one answer.
DEFAULT_NUMBER, MOST_NUMBER = 100, 1_000
#: What a list can be sorted by -> the value of a collection that the list describes.
SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda described: "",
    "table": lambda described: (described["source"] or {}).get("table") or "",
    "entries": lambda described: described["entries"],
    "model": lambda described: described["model"],
    "created_at": lambda described: described["created_at"] or "",
}
_SORT_FIELDS = ("sort", "sort_desc")


@dataclass(frozen=True)
class Order:
    """How a list is sorted; equal ones by name, always from A to Z.

    Attributes:
        column: a key of ``SORTS``.
    """

    column: str = "name"
    is_descending: bool = False

    @classmethod
    def of(cls, fields: Fields) -> Order:
        """Return what ``sort`` or ``sort_desc`` asks for.

        Raises:
            RequestError: it is no column, or both are given.
        """
        given = [name for name in _SORT_FIELDS if fields.text(name)]
        if len(given) > 1:
            raise RequestError("Give 'sort' or 'sort_desc', not both")
        if not given:
            return cls()
        column = fields.text(given[0]) or ""
        if column not in SORTS:
            raise RequestError(f"'{given[0]}' must be one of {', '.join(SORTS)}")
        return cls(column, given[0] == "sort_desc")

    def sorted(self, described: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return collections in this order."""
        by_name = sorted(
            described,
            key=lambda each: (each["name"], each["database"]),
            reverse=self.is_descending and self.column == "name",
        )
        return sorted(by_name, key=SORTS[self.column], reverse=self.is_descending)


@json_view
async def site_view(request: Request, datasette: Datasette) -> Answer:
    """Return the collections of every database, as far as the actor may see them."""
    require_method(request, "GET")
    return await list_site(request, datasette)


async def list_site(request: Request, datasette: Datasette) -> dict[str, Any]:
    """Return the collections of every database, and the databases that cannot be read."""
    await require_site(request, datasette)
    order = Order.of(Fields.of_query(request, *_SORT_FIELDS))
    collections: list[dict[str, Any]] = []
    unreadable, truncated = [], []
    for database in list(datasette.databases.values()):
        if not await compat.may_view_database(datasette, request.actor, database.name):
            continue
        try:
            found, following = await _listed(request, datasette, database, MOST_NUMBER)
        except SourceError:
            unreadable.append(database.name)  # the others are still there
            continue
        except Exception:
            # A file may hold anything, and the others are still there.
            logger.exception("the collections of %s cannot be listed", database.name)
            unreadable.append(database.name)
            continue
        collections += found
        if following is not None:
            truncated.append(database.name)
    return {
        "collections": order.sorted(collections),
        "unreadable": unreadable,
        "truncated": truncated,
    }


@json_view
async def database_view(request: Request, datasette: Datasette) -> Answer:
    """Return the collections of one database, as far as the actor may see them."""
    require_method(request, "GET")
    return await list_database(request, datasette, await database_of(request, datasette))


async def list_database(
    request: Request, datasette: Datasette, database: Database
) -> dict[str, Any]:
    """Return one page of the collections of a database, and what the actor may do in it."""
    fields = Fields.of_query(request, "number", "after", *_SORT_FIELDS)
    number = fields.integer("number", DEFAULT_NUMBER, most=MOST_NUMBER)
    order = Order.of(fields)
    listed, following = await _listed(
        request, datasette, database, number, fields.text("after"), order
    )
    answer: dict[str, Any] = {
        "database": database.name,
        "collections": listed,
        "next": following,
        "may_create": await access.may_create(datasette, request.actor, database.name),
    }
    if answer["may_create"]:
        answer["urls"] = {
            name: database_url(datasette, database.name, f"/{page}")
            for name, page in (("new", "new"), ("estimate", "estimate"), ("jobs", "jobs.json"))
        }
    return answer


async def _listed(
    request: Request,
    datasette: Datasette,
    database: Database,
    number: int,
    after: str | None = None,
    order: Order | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return so many collections behind a name, and the name to go on behind, if there are more."""
    order = order or Order()
    with translated(database.name):
        records = await access.visible_collections(datasette, request.actor, database.name)
    if order.column != "name":
        # Only by name is it known without counting what is on the page.
        described = order.sorted(await _describe(request, datasette, database, records))
        names = [each["name"] for each in described]
        if after is not None and after not in names:
            # Where it stood is not known any more, and to begin again would repeat rows.
            raise RequestError(
                f"'after': there is no collection {after[:100]!r} here, or not any more. Begin "
                "again without it, or sort by name, which goes on behind any name"
            )
        start = names.index(after) + 1 if after is not None else 0
        shown = described[start : start + number]
        return shown, shown[-1]["name"] if start + number < len(described) else None
    records.sort(key=lambda record: record.name, reverse=order.is_descending)
    if after is not None:
        records = [
            record
            for record in records
            if (record.name < after if order.is_descending else record.name > after)
        ]
    following = records[number - 1].name if len(records) > number else None
    return await _describe(request, datasette, database, records[:number]), following


async def _describe(
    request: Request, datasette: Datasette, database: Database, records: list[CollectionRecord]
) -> list[dict[str, Any]]:
    """Return what a list says of collections; to whoever may make some, their jobs too."""
    if not records:
        return []
    facts: list[Facts] = await read(database, lambda conn: read_facts(conn, records))
    shows_sql = await compat.may_execute_sql(datasette, request.actor, database.name)
    shows_jobs = await access.may_create(datasette, request.actor, database.name)
    described = []
    for record, fact in zip(records, facts, strict=True):
        each = describe_collection(datasette, database.name, record, fact)
        each["source"] = describe_source(record, shows_sql=shows_sql)
        if shows_jobs:
            for name, job in (("unfinished_job", fact.unfinished), ("newest_job", fact.newest)):
                each[name] = job and describe_job(datasette, database.name, job)
        described.append(each)
    return described
