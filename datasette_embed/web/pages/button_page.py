"""Button page: what a browser shows at an address that only a button may ask for.

Layer 11: imports nothing of ours but its neighbours. Reading an address must change nothing, so
this leads to the page with the button. Whether there is such a page is told by that alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasette import Response

from ..descriptions import collection_url, database_url
from ..lookup import database_of, name_in_url
from .frame import Page, database_context, html_view, render

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


@html_view
async def button_page(request: Request, datasette: Datasette) -> Response:
    """Say that an address is that of a button, and lead to the page that has it."""
    database = await database_of(request, datasette)
    if "job" in request.url_vars:
        what = "job"
        url = database_url(datasette, database.name, f"/jobs/{request.url_vars['job']}")
    else:
        what = "collection"
        name = name_in_url(request, "collection")
        url = collection_url(datasette, database.name, name, "/about")
    context = {
        "status": 405,
        "message": "This is the address of a button: opening it does nothing.",
        "next": {"url": url, "text": f"To the {what}, where the button is"},
        **database_context(datasette, database),
    }
    response = await render(request, datasette, Page("embed_error.html", context, status=405))
    response.headers["Allow"] = "POST"
    return response
