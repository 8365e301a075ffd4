"""About page: where a collection comes from, what it holds, and what can be done to it.

Layer 11: imports nothing but its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..http import RequestError
from .frame import Page, html_view

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


@html_view
async def about_page(request: Request, datasette: Datasette) -> Page:
    """Say that there is nothing here yet."""
    raise RequestError("There is nothing here yet", 501)


@html_view
async def sync(request: Request, datasette: Datasette) -> Page:
    """Say that there is nothing here yet."""
    raise RequestError("There is nothing here yet", 501)


@html_view
async def rename(request: Request, datasette: Datasette) -> Page:
    """Say that there is nothing here yet."""
    raise RequestError("There is nothing here yet", 501)


@html_view
async def delete(request: Request, datasette: Datasette) -> Page:
    """Say that there is nothing here yet."""
    raise RequestError("There is nothing here yet", 501)
