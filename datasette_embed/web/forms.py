"""Forms: what a page of ours or a program asks to change, the same fields either way.

Layer 11: imports nothing but its neighbours. A browser's form and the API's JSON object meet
here, so that a view need not know which of them it answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from .fields import Fields
from .http import RequestError, read_body, read_json, shows_token

if TYPE_CHECKING:
    from datasette import Request, Response
    from datasette.app import Datasette

View = Callable[..., "Awaitable[Response]"]

_FORM = "application/x-www-form-urlencoded"
#: More fields than any form of ours has; each costs memory.
_MOST_FIELDS = 10_000
#: What a browser says of a form of this very site, and of one that a person sends once more.
_OWN_SITE = ("same-origin", "none")


def is_form(request: Request) -> bool:
    """Say whether the request comes from a form of a page.

    A program shows its token; some say of an empty body that it is a form.
    """
    if shows_token(request):
        return False
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return bool(kind == _FORM)


def by_content(program: View, person: View) -> View:
    """Return a view that leaves forms to one view, and all else to another."""

    async def view(request: Request, datasette: Datasette) -> Response:
        return await (person if is_form(request) else program)(request, datasette)

    return view


def by_method(reading: View, writing: View) -> View:
    """Return a view that leaves what only reads to one view, and all else to another."""

    async def view(request: Request, datasette: Datasette) -> Response:
        is_read = request.method in ("GET", "HEAD")
        return await (reading if is_read else writing)(request, datasette)

    return view


def by_accept(program: View, person: View) -> View:
    """Return a view that leaves those who ask for HTML to one view, and all else to another."""

    async def view(request: Request, datasette: Datasette) -> Response:
        # Browsers do; programs do not, nor do they say that they take anything.
        is_person = "text/html" in request.headers.get("accept", "")
        return await (person if is_person else program)(request, datasette)

    return view


async def body_fields(
    request: Request, datasette: Datasette, *, may_be_empty: bool = False
) -> Fields:
    """Return the fields of a form or of a JSON object.

    Args:
        may_be_empty: as ``read_json``.

    Raises:
        RequestError: as ``read_json``; 403 for a form that another site has sent.
    """
    if not is_form(request):
        return Fields(await read_json(request, datasette, may_be_empty=may_be_empty))
    refuse_other_site(request)
    body = await read_body(request, datasette)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError as error:
        raise RequestError("The form cannot be read: it is no UTF-8, or far too long") from error
    return Fields.of_form(pairs)


def refuse_other_site(request: Request) -> None:
    """Refuse a form that another site has sent.

    Raises:
        RequestError: 403.
    """
    if not shows_token(request) and _is_from_another_site(request):
        raise RequestError("This form was sent by another site", 403)


def _is_from_another_site(request: Request) -> bool:
    """Say whether the browser says so: Datasette 0.65 asks no token of a form without cookies."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in _OWN_SITE
    # Over plain HTTP a browser says only where the form is from. With a cookie Datasette has
    # checked already, and a proxy may have put another name of this site into the request.
    origin = request.headers.get("origin")
    if origin is None or "cookie" in request.headers:
        return False
    host: str = request.headers.get("host", "")
    return bool(origin.partition("://")[2].lower() != host.lower())
