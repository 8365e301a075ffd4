"""Entry points: links from Datasette's own pages to ours.

Layer 11: imports ``access`` and ``compat``. Nothing is linked that whoever asks may not open,
and whatever goes wrong here leaves the page as it would be without us.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import parse_qsl, urlencode

from .. import access, compat, visibility
from .collections_of_table import collections_of_table, entries_of_row
from .descriptions import collection_url, database_url
from .filter_conditions import NOT_CARRIED, is_filter
from .nearest_rows import is_quickly_searched, nearest_to
from .results import Searched

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

logger = logging.getLogger(__name__)

Link = dict[str, str]
P = ParamSpec("P")
T = TypeVar("T")

_NO_LINKS: list[Link] = []
#: Longer addresses than this are cut or refused by some servers in between.
_LONGEST_QUERY = 4_000
#: Parameters of a table page that say which rows it shows, beside filters. Of those that no
#: collection can keep, our page says so.
_ROW_PARAMETERS = ("_where", *NOT_CARRIED)
#: Names that mean something else on our page; a filter on such a column is spelled out.
_OUR_PARAMETERS = frozenset({"table", "sql", "query", "collection", "model", "columns"})
_MOST_JUMPS = 1_000
#: Rows that the page of a row shows above it.
_ROWS_ON_TOP = 3
_SCRIPT = Path(__file__).parent.parent / "static" / "embed_row.js"


def _or(nothing: T) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Return a decorator: where finding links fails, there are none, and the log says why."""

    def decorate(find: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(find)
        async def found(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await find(*args, **kwargs)
            except Exception:
                # A file may hold anything, and the page is not about us.
                logger.exception("no links to collections: %s failed", find.__name__)
                return nothing

        return found

    return decorate


@_or(_NO_LINKS)
async def menu_links(datasette: Datasette, request: Request | None) -> list[Link]:
    """Return the link to the collections, where there are some or may be made some."""
    if request is None:  # a page that is made for nobody
        return []
    is_worth_it = await access.may_create_somewhere(datasette, request.actor)
    for name in visibility.served_databases(datasette):
        is_worth_it = is_worth_it or await access.sees_collections(datasette, request.actor, name)
    if not is_worth_it or not await compat.may_view_instance(datasette, request.actor):
        return []
    return [
        {
            "href": datasette.urls.path("/-/embed"),
            "label": "Collections",
            "description": "Search rows by meaning",
        }
    ]


@_or(_NO_LINKS)
async def database_actions(datasette: Datasette, request: Request, database: str) -> list[Link]:
    """Return the link to the collections of a database."""
    if not await _may_make(datasette, request, database) and not await access.sees_collections(
        datasette, request.actor, database
    ):
        return []
    return [
        {
            "href": database_url(datasette, database),
            "label": "Collections",
            "description": "Search rows of this database by meaning",
        }
    ]


@_or(_NO_LINKS)
async def table_actions(
    datasette: Datasette, request: Request, database: str, table: str
) -> list[Link]:
    """Return links to embed a table or view, and to search what is made of it."""
    links = [
        {
            "href": collection_url(datasette, database, record.name),
            "label": f"Search by meaning: {record.name}",
            "description": "Find rows by what they say, in plain words",
        }
        for record in await collections_of_table(datasette, request, database, table)
    ]
    chosen = _chosen_rows(request, table)
    # Of an address that is too long the end would be missing, and more rows be embedded.
    is_sayable = len(chosen) <= _LONGEST_QUERY and not _is_ours(table)
    if is_sayable and await _may_make(datasette, request, database):
        links.append(
            {
                "href": database_url(datasette, database, f"/new?{chosen}"),
                "label": "Embed rows",
                "description": "Make these rows searchable by meaning",
            }
        )
    return links


@_or(_NO_LINKS)
async def query_actions(
    datasette: Datasette, request: Request, database: str, query_name: str | None, sql: str
) -> list[Link]:
    """Return the link to embed what a query returns."""
    from datasette.utils import InvalidSql, named_parameters, validate_sql_select

    if not sql or not await _may_make(datasette, request, database):
        return []
    try:
        validate_sql_select(sql)
    except InvalidSql:
        return []  # it writes
    query = urlencode({"sql": sql})
    # What a query asks for each time has no rows of its own.
    if named_parameters(sql) or len(query) > _LONGEST_QUERY:
        return []
    if not await compat.may_execute_sql(datasette, request.actor, database):
        return []
    return [
        {
            "href": database_url(datasette, database, f"/new?{query}"),
            "label": "Embed these results",
            "description": "Make the rows of this query searchable by meaning",
        }
    ]


@_or(_NO_LINKS)
async def row_actions(
    datasette: Datasette, request: Request, database: str, table: str, row: Any
) -> list[Link]:
    """Return links to the rows like this one."""
    return await _links_of_row(datasette, request, database, table)


async def _links_of_row(
    datasette: Datasette, request: Request, database: str, table: str
) -> list[Link]:
    entries = await entries_of_row(datasette, request, database, table)
    return [
        {
            "href": collection_url(
                datasette, database, entry.collection.name, f"/like/{entry.path}"
            ),
            "label": "Rows like this one"
            if len(entries) == 1
            else f"Rows like this one: {entry.collection.name}",
            "description": f"By meaning, in the collection {entry.collection.name}",
        }
        for entry in entries
    ]


@_or("")
async def top_row(
    datasette: Datasette, request: Request, database: str, table: str, row: Any
) -> str:
    """Return the three rows nearest to this one as HTML, or nothing."""
    entries = await entries_of_row(datasette, request, database, table)
    if not entries:
        return ""
    entry = entries[0]
    db = datasette.get_database(database)
    if not await is_quickly_searched(db, entry.collection):
        return ""
    searched = await Searched.of(request, datasette, db, entry.collection)
    rows = await nearest_to(searched, entry.entry_id, _ROWS_ON_TOP)
    if not rows:
        return ""
    html = await datasette.render_template(
        "embed_top_row.html",
        {
            "rows": rows,
            "collection": entry.collection.name,
            "like_url": searched.like_url(entry.entry_id),
        },
        request=request,
    )
    return str(html)


def jump_items_sql(datasette: Datasette, request: Request) -> Awaitable[Any]:
    """Return the collections for the jump menu (Datasette 1.0)."""
    return _jump_items(datasette, request)


@_or(None)
async def _jump_items(datasette: Datasette, request: Request) -> Any:
    from datasette.jump import JumpSQL

    items = []
    for database in visibility.served_databases(datasette):
        if not await access.sees_collections(datasette, request.actor, database):
            continue
        for record in await access.visible_collections(datasette, request.actor, database):
            url = collection_url(datasette, database, record.name)
            items.append([f"{database}: {record.name}", url, f"{database} {record.name}"])
    return JumpSQL(
        sql="""
        select 'collection' as type, json_extract(value, '$[0]') as label,
          'Search by meaning' as description, json_extract(value, '$[1]') as url,
          json_extract(value, '$[2]') as search_text, null as display_name
        from json_each(:items)
        """,
        params={"items": json.dumps(items[:_MOST_JUMPS])},
    )


def row_page_script(
    datasette: Datasette,
    request: Request | None,
    database: str | None,
    table: str | None,
    view_name: str,
) -> Awaitable[str] | None:
    """Return the script that adds the link to the rows like this one; None on other pages."""
    # Datasette 1.0 has a menu of its own for it.
    if view_name != "row" or compat.is_version_one(datasette):
        return None
    if request is None or database is None or table is None:
        return None
    return _row_page_script(datasette, request, database, table)


@_or("")
async def _row_page_script(
    datasette: Datasette, request: Request, database: str, table: str
) -> str:
    links = await _links_of_row(datasette, request, database, table)
    return _script().replace("__LINKS__", _in_script(links)) if links else ""


@functools.cache
def _script() -> str:
    return _SCRIPT.read_text("utf-8")


def _in_script(value: Any) -> str:
    """Return a value as JSON that can stand in a script of a page."""
    text = json.dumps(value)  # in ASCII, so without U+2028 and U+2029
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


async def _may_make(datasette: Datasette, request: Request, database: str) -> bool:
    """Say whether the actor may make collections in a database, and it can be written to."""
    db = datasette.get_database(database)
    if not db.is_mutable or not db.path:
        return False
    return await access.may_create(datasette, request.actor, database)


def _is_ours(table: str) -> bool:
    from ..schema_sql import OUR_TABLES

    return table.lower() in OUR_TABLES


def _chosen_rows(request: Request, table: str) -> str:
    """Return the query string that chooses a table, and the rows that its page shows."""
    pairs = [("table", table)]
    for name, value in parse_qsl(request.query_string, keep_blank_values=True):
        if name in _OUR_PARAMETERS:
            pairs.append((f"{name}__exact", value))
        elif is_filter(name) or (value and name.startswith(_ROW_PARAMETERS)):
            pairs.append((name, value))
    return urlencode(pairs)
