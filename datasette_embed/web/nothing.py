"""Nothing: the answer at an address below ours that is none.

Layer 11: imports nothing of ours. Datasette would take it for a row of a table named ``-``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasette import Response

from .forms import by_accept
from .http import Answer, RequestError, json_view
from .pages.frame import Page, html_view

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


async def nothing_view(request: Request, datasette: Datasette) -> Response:
    """Say that there is nothing here, to whoever asks."""
    # For an address that ends in .json only programs ask.
    is_page = request.method in ("GET", "HEAD") and not request.path.endswith((".json", ".csv"))
    view = by_accept(_for_programs, _for_people) if is_page else _for_programs
    return await view(request, datasette)


@html_view
async def _for_people(request: Request, datasette: Datasette) -> Page:
    raise RequestError("There is no page at this address", 404)


@json_view
async def _for_programs(request: Request, datasette: Datasette) -> Answer:
    raise RequestError(
        "There is nothing at this address. /-/embed.json lists the collections of this site and "
        "their addresses, /-/embed/models its models",
        404,
    )
