"""Frame: a page from a template, an error as a page, and the way back after a form.

Layer 11: imports ``compat`` and ``errors``. Nothing about collections, jobs or models.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from datasette import Forbidden, Response
from datasette.utils import tilde_decode

from ... import compat
from ...errors import HiddenCollectionError
from ..http import describe_error, set_headers

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

#: Where the style sheet and the scripts of the pages are, in ``urls.static_plugins``.
PLUGIN = "datasette_embed"


@dataclass(frozen=True)
class Page:
    """A template and what is put into it.

    Attributes:
        template: its file name.
        context: names that the template uses.
        status: the HTTP status.
        twin: the path of the same as JSON, None where there is none.
    """

    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    twin: str | None = None


PageView: TypeAlias = "Callable[..., Awaitable[Page | Response]]"


def html_view(view: PageView) -> Callable[..., Awaitable[Response]]:
    """Return a view that answers with a page, errors included.

    The view takes ``request`` and ``datasette``. A refusal is left to Datasette, whose other
    plugins may know a way to sign in.
    """

    # No functools.wraps: Datasette reads the names of the arguments from the signature.
    async def answered(request: Request, datasette: Datasette) -> Response:
        try:
            response = await _answer(view, request, datasette)
        except Forbidden:
            raise
        except HiddenCollectionError as error:
            raise Forbidden(str(error)) from error
        except Exception as error:
            status, message, headers = describe_error(request, datasette, error)
            context = {"status": status, "message": message, **_way_back(request, datasette)}
            response = await render(request, datasette, Page("embed_error.html", context, status))
            response.headers.update(headers)
        set_headers(request, datasette, response)
        return response

    functools.update_wrapper(answered, view, assigned=("__module__", "__name__", "__doc__"))
    return answered


def _way_back(request: Request, datasette: Datasette) -> dict[str, Any]:
    """Return the database of an address for the crumbs, which ask who may see it."""
    name = tilde_decode(request.url_vars.get("database", ""))
    return {"database": name} if name in datasette.databases else {}


async def _answer(view: PageView, request: Request, datasette: Datasette) -> Response:
    # What a browser asks before a script of another site may send its token.
    if datasette.cors and request.method == "OPTIONS":
        return Response.text("ok")
    answer = await view(request, datasette)
    return await render(request, datasette, answer) if isinstance(answer, Page) else answer


async def render(request: Request, datasette: Datasette, page: Page) -> Response:
    """Return the page as HTML."""
    html = await datasette.render_template(
        page.template,
        {
            "alternate_url_json": page.twin,
            "plugin_static": functools.partial(datasette.urls.static_plugins, PLUGIN),
            **page.context,
        },
        request=request,
    )
    headers = {"Link": f'<{page.twin}>; rel="alternate"; type="application/json+datasette"'}
    return Response.html(html, status=page.status, headers=headers if page.twin else {})


def redirect(
    request: Request,
    datasette: Datasette,
    path: str,
    message: str | None = None,
    kind: Literal["info", "warning", "error"] = "info",
) -> Response:
    """Return the way to another page after a form; the message is shown there once."""
    if message:
        kinds = {"info": datasette.INFO, "warning": datasette.WARNING, "error": datasette.ERROR}
        datasette.add_message(request, message, kinds[kind])
    return Response.redirect(path, status=303)


def database_context(datasette: Datasette, database: Database) -> dict[str, Any]:
    """Return what a page of a database needs for its crumbs and its colour."""
    return {
        "database": database.name,
        "database_color": compat.database_color(database),
        "database_url": datasette.urls.database(database.name),
    }
