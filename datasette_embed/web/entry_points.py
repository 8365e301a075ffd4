"""Entry points: links from Datasette's own pages to ours.

Layer 11: imports ``access``. Nothing is linked that whoever asks may not open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


async def menu_links(datasette: Datasette, request: Request) -> list[dict[str, str]]:
    """Return the link to the collections, where there are some or may be made some."""
    return []


async def database_actions(
    datasette: Datasette, request: Request, database: str
) -> list[dict[str, str]]:
    """Return the link to the collections of a database."""
    return []


async def table_actions(
    datasette: Datasette, request: Request, database: str, table: str
) -> list[dict[str, str]]:
    """Return links to embed a table or view, and to search what is made of it."""
    return []


async def query_actions(
    datasette: Datasette, request: Request, database: str, query_name: str | None, sql: str
) -> list[dict[str, str]]:
    """Return the link to embed what a query returns."""
    return []


async def row_actions(
    datasette: Datasette, request: Request, database: str, table: str, row: Any
) -> list[dict[str, str]]:
    """Return links to the rows like this one."""
    return []


async def top_row(
    datasette: Datasette, request: Request, database: str, table: str, row: Any
) -> str:
    """Return the three rows nearest to this one as HTML, or nothing."""
    return ""


def jump_items_sql(datasette: Datasette, request: Request) -> Any:
    """Return the collections for the jump menu."""
    return None


async def row_page_script(
    datasette: Datasette,
    request: Request,
    database: str | None,
    table: str | None,
    view_name: str,
) -> str:
    """Return the script that adds the link to the rows like this one, or nothing."""
    return ""
