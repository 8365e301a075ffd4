"""HTTP: requests read with care, and errors answered as JSON with the right status.

Layer 11: imports ``database``, ``errors``, ``settings`` and ``strict_json``. What every view
needs, and nothing about collections, jobs or models.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from datasette import Forbidden, Response
from datasette.utils import add_cors_headers
from datasette.utils.asgi import Base400

from ..database import sqlite3
from ..errors import (
    BudgetExceededError,
    BusyError,
    EmbedError,
    EmbedTimeoutError,
    HiddenCollectionError,
    ImageTooLargeError,
    JobStateError,
    ModelMismatchError,
    NotFoundError,
    ProviderError,
    ReadOnlyDatabaseError,
    SourceError,
    TextTooLongError,
    UnknownModelError,
    UnreadableTextError,
)
from ..redaction import redacted, scrubbed
from ..settings import get_settings
from ..strict_json import json_value

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

logger = logging.getLogger(__name__)

#: What an API view returns: a JSON object, with its status unless that is 200, or a response.
Answer: TypeAlias = Mapping[str, Any] | tuple[Mapping[str, Any], int] | Response
View: TypeAlias = Callable[..., Awaitable[Answer]]

#: Seconds to wait that are said where nobody knows better.
RETRY_AFTER_SECONDS = 5
#: Of our errors, the first class that fits decides.
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (NotFoundError, 404),
    (UnknownModelError, 404),
    (PermissionError, 403),
    (ReadOnlyDatabaseError, 403),
    (TextTooLongError, 413),
    (ImageTooLargeError, 413),
    (BudgetExceededError, 429),
    (BusyError, 429),
    (JobStateError, 409),
    (ModelMismatchError, 409),
    (EmbedTimeoutError, 504),
    (UnreadableTextError, 400),
    (ProviderError, 502),
)
#: What SQLite says of a file, not of what was asked for.
_FILE_STATUSES = {
    "locked": 503,
    "is full": 507,
    "malformed": 500,
    "not a database": 500,
    "encrypted": 500,
    "I/O error": 500,
    "unable to open": 500,
    "closed database": 500,
    "readonly": 403,
}
#: Schemes of the header ``Authorization`` that browsers fill in by themselves.
_OF_BROWSERS = frozenset({"basic", "digest", "negotiate", "ntlm"})
#: A long text of base64 in JSON, where / may be written with a backslash.
_LONG_TEXT = re.compile(rb'"[A-Za-z0-9+/=\\]{1000,}"')
#: What is said of a file that is gone. Nobody names files over HTTP: it is the site's.
_NO_FILE = "no such file"


class RequestError(EmbedError, ValueError):
    """A request that cannot be understood; ``status`` is that of the answer."""

    def __init__(
        self, message: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers = dict(headers or {})
        super().__init__(message)


# -- answers --------------------------------------------------------------------------


def json_view(view: View) -> Callable[..., Awaitable[Response]]:
    """Return a view that answers in JSON, errors included.

    The view takes ``request`` and ``datasette``. It is told about every method: see
    ``require_method``. A browser's question whether another site may ask is answered here
    when the site runs with ``--cors``.
    """

    # No functools.wraps: Datasette reads the names of the arguments from the signature.
    async def answered(request: Request, datasette: Datasette) -> Response:
        if datasette.cors and request.method == "OPTIONS":
            response = Response.text("ok")
        else:
            try:
                response = _response(await view(request, datasette))
            except Exception as error:
                response = error_response(request, datasette, error)
        set_headers(request, datasette, response)
        return response

    functools.update_wrapper(answered, view, assigned=("__module__", "__name__", "__doc__"))
    answered.answer = view  # type: ignore[attr-defined]  # what a page of the same is made of
    return answered


def require_method(request: Request, *methods: str) -> None:
    """Refuse a request of another method.

    Raises:
        RequestError: with the status 405.
    """
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise RequestError(
            f"{request.method} is not possible here, {allowed} is", 405, {"Allow": allowed}
        )


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error of ours or of Datasette; 500 for any other."""
    if isinstance(error, RequestError | Base400):
        return int(error.status)
    for kind, status in _STATUSES:
        if isinstance(error, kind) and isinstance(error, EmbedError):
            # A service that is busy is no fault of ours, nor of the request.
            is_passing = status == 502 and getattr(error, "retryable", False)
            return 503 if is_passing else status
    if isinstance(error, SourceError) and error.reason == _NO_FILE:
        return 500
    cause = error.__cause__ if isinstance(error, SourceError) else error
    if isinstance(cause, sqlite3.Error):
        return _file_status(cause) or (400 if isinstance(error, SourceError) else 500)
    return 400 if isinstance(error, EmbedError) else 500


def _file_status(error: Exception) -> int | None:
    message = str(error)
    return next((code for part, code in _FILE_STATUSES.items() if part in message), None)


def error_response(request: Request, datasette: Datasette, error: Exception) -> Response:
    """Return the JSON that says what was wrong; what is no error of ours goes into the log."""
    status, message, headers = describe_error(request, datasette, error)
    body = {"ok": False, "error": message, "errors": [message], "status": status}
    return Response.json(body, status=status, headers=headers)


def describe_error(
    request: Request, datasette: Datasette, error: Exception
) -> tuple[int, str, dict[str, str]]:
    """Return the status, the message and the headers of the answer to a failed request."""
    status, message = status_of(error), _public_message(datasette, error)
    if status >= 500:
        detail = error.detail if isinstance(error, EmbedError) else error
        logger.error(
            "%s %s: %s",
            request.method,
            request.path,
            redacted(str(detail)),
            # A locked file is nobody's mistake in a program.
            exc_info=None if status == 503 else scrubbed(error),
        )
    headers = dict(error.headers) if isinstance(error, RequestError) else {}
    if status == 403 and is_unknown_caller(request):
        status, message = 401, "This API token is not known here. " + message
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    elif request.actor is None and isinstance(error, Forbidden | HiddenCollectionError):
        message += ". Signing in may help"
    if status in (429, 503):
        seconds = getattr(error, "retry_after_seconds", None)
        if isinstance(error, BudgetExceededError) and seconds is None:
            headers["x-should-retry"] = "false"  # OpenAI's client would try twice more
        else:
            headers["Retry-After"] = str(math.ceil(seconds or RETRY_AFTER_SECONDS))
    return status, message, headers


def shows_token(request: Request) -> bool:
    """Say whether the request shows what only a program sends, such as an API token.

    What a browser adds by itself, once somebody has typed a password, is none: it goes with
    what other sites make the browser send, too.
    """
    scheme = request.headers.get("authorization", "").partition(" ")[0].lower()
    return bool(scheme) and scheme not in _OF_BROWSERS


def is_unknown_caller(request: Request) -> bool:
    """Say whether the request shows a token that nobody accepted."""
    return request.actor is None and shows_token(request)


def _public_message(datasette: Datasette, error: Exception) -> str:
    """Return the message without the paths of the site's files, or words of other programs."""
    if isinstance(error, Base400):
        return str(error.args[0]) if error.args else type(error).__name__
    if not isinstance(error, EmbedError):
        return "The server failed. Its log says why"
    return without_paths(datasette, str(error))


def without_paths(datasette: Datasette, message: str) -> str:
    """Return a message with the names of the site's databases for the paths of their files."""
    # Where a path is part of another, the longer one first.
    databases = [(str(db.path), name) for name, db in datasette.databases.items() if db.path]
    for path, name in sorted(databases, key=lambda pair: -len(pair[0])):
        message = message.replace(path, name)
    return message


def _response(answer: Answer) -> Response:
    if isinstance(answer, Response):
        return answer
    body, status = answer if isinstance(answer, tuple) else (answer, 200)
    return Response.json({"ok": True, **body}, status=status)


def set_headers(request: Request, datasette: Datasette, response: Response) -> None:
    """Say who may keep the answer: nobody what is for one person, or went wrong."""
    is_personal = request.actor is not None or any(
        name in request.headers for name in ("cookie", "authorization")
    )
    if is_personal:
        response.headers["Cache-Control"] = "private, no-store"
    elif request.method != "GET" or response.status != 200:
        response.headers.setdefault("Cache-Control", "no-store")
    if datasette.cors:
        add_cors_headers(response.headers)
        # Datasette 0.65 leaves these two out: it has nothing that another site may POST to.
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"


# -- requests -------------------------------------------------------------------------


async def read_json(
    request: Request,
    datasette: Datasette,
    *,
    may_be_empty: bool = False,
    long_field: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Return the JSON object that is the body of a request.

    Only what says it is JSON is read: a form on another site can post nothing that does, nor
    can it send a token.

    Args:
        may_be_empty: whether no body at all is an empty object.
        long_field: a field, and how long the body may be where it is among them.

    Raises:
        RequestError: 400, or 413 when it is too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json"
    if not is_json and not (may_be_empty and shows_token(request)):
        hint = ": send {} with it" if may_be_empty else ""
        raise RequestError(f"The content type of the request must be application/json{hint}")
    body = await read_body(request, datasette, long_field[1] if long_field else None)
    if may_be_empty and not body:
        return {}
    if not is_json:
        raise RequestError("The content type of the request must be application/json")
    most_bytes = get_settings(datasette).max_body_bytes
    # To parse is quick for one long text, and slow for as many bytes of anything else.
    if len(body) > most_bytes and len(_LONG_TEXT.sub(b"", body)) > most_bytes:
        raise _too_long(most_bytes)
    found = _parse_object(body)
    if long_field and long_field[0] not in found and len(body) > most_bytes:
        raise _too_long(most_bytes)
    return found


async def read_body(request: Request, datasette: Datasette, most_bytes: int | None = None) -> bytes:
    """Return the body of a request.

    Args:
        most_bytes: most that it may have; None for the setting ``max_body_bytes``.

    Raises:
        RequestError: 400 when it does not end in time, 413 when it is too long.
    """
    settings = get_settings(datasette)
    seconds = settings.body_timeout_seconds
    try:
        async with asyncio.timeout(seconds):
            return await _receive(request, most_bytes or settings.max_body_bytes)
    except TimeoutError as error:
        raise RequestError(
            f"The body of the request did not end within {seconds:g} seconds",
            headers={"Connection": "close"},
        ) from error


async def _receive(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "")
    # Longer digits than these are no number to compute with.
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
        raise _too_long(limit)
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise RequestError("The request ended before its body did")
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_long(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_long(limit: int) -> RequestError:
    message = f"The body of the request is longer than {limit:,} bytes"
    return RequestError(message, 413, {"Connection": "close"})


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        # A text with half a character in it cannot be encoded, stored or answered.
        value = json_value(body.decode("utf-8"), is_strict=True)
    except UnicodeDecodeError as error:
        raise RequestError("The body of the request is not UTF-8") from error
    except ValueError as error:
        raise RequestError(f"The body of the request is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError("The body of the request must be a JSON object: {…}")
    return value
