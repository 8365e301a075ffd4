"""Uploads: an image that somebody sends to search with.

Layer 11: imports ``compat``, ``image_types``, ``settings`` and its neighbours. It is looked at,
embedded and forgotten.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import compat
from ..image_types import KNOWN_TYPES, find_image_type
from ..settings import get_settings
from .http import RequestError, read_body, shows_token
from .multipart import Part, parse_parts

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

#: The name of the field.
FIELD = "image"
#: What a form may have besides the image.
FORM_BYTES = 100_000
#: The end of the addresses that take one.
_PAGE = re.compile(r"/-/embed/c/[^/.]+$")


@dataclass(frozen=True)
class Upload:
    """An image.

    Attributes:
        name: what its sender calls it; empty where they do not.
        data: its bytes.
        number: how many rows are asked for, as the form says it; None where it does not.
    """

    name: str
    data: bytes
    number: str | None = None


async def uploaded_image(request: Request, datasette: Datasette) -> Upload:
    """Return the image in a form.

    Raises:
        RequestError: there is none, there are several, or it is none; as ``read_body``.
    """
    # The form itself is a little longer than the image in it.
    most_bytes = get_settings(datasette).max_image_bytes
    try:
        body = await read_body(request, datasette, most_bytes + FORM_BYTES)
    except RequestError as error:
        if error.status != 413:
            raise
        message = f"The image is larger than {most_bytes:,} bytes: make it smaller"
        raise RequestError(message, error.status, error.headers) from error
    parts = parse_parts(request.headers.get("content-type", ""), body)
    _refuse_without_token(request, datasette, parts)
    files = [part for part in parts if part.name == FIELD]
    if len(files) > 1:
        raise RequestError("Choose one image: several were sent")
    if not files or (not files[0].data and not files[0].filename):
        raise RequestError("Choose an image to search with")
    numbers = [part.data for part in parts if part.name == "n"]
    number = numbers[0].decode("utf-8", "replace") if numbers else None
    return Upload(files[0].filename or "", checked_image(files[0].data), number)


def is_upload(scope: Mapping[str, Any]) -> bool:
    """Say whether a request brings a form with an image, whose token is looked at here.

    What looks at it in Datasette 0.65 fails at every such form where python-multipart is of a
    version that it does not know (asgi-csrf 0.11 with python-multipart 0.0.34).
    """
    kinds = [value for name, value in scope.get("headers") or () if name == b"content-type"]
    is_form = len(kinds) == 1 and kinds[0].lower().startswith(b"multipart/form-data")
    return is_form and _PAGE.search(scope.get("path") or "") is not None


def _refuse_without_token(request: Request, datasette: Datasette, parts: list[Part]) -> None:
    """Refuse a form that somebody's browser was made to send, on Datasette 0.65.

    1.0 has looked already, at where the browser says that the form is from.

    Raises:
        RequestError: 403.
    """
    is_at_risk = "cookie" in request.headers and not shows_token(request)
    if compat.is_version_one(datasette) or not is_at_risk:
        return
    given = b"".join(part.data for part in parts if part.name == "csrftoken")
    if not hmac.compare_digest(given, str(request.scope["csrftoken"]()).encode("utf-8")):
        raise RequestError("This form has no valid token: load the page again, and send it", 403)


def most_bytes_of_json(datasette: Datasette) -> int:
    """Return how long a JSON object may be in which there may be an image as base64."""
    settings = get_settings(datasette)
    # Three bytes are four letters.
    image_bytes = (settings.max_image_bytes + 2) // 3 * 4
    return max(settings.max_body_bytes, image_bytes + FORM_BYTES)


def image_of_json(value: Any) -> bytes:
    """Return the image that a JSON object holds as base64.

    Raises:
        RequestError: it is none.
    """
    try:
        return checked_image(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError, TypeError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"'{FIELD}' must be an image as base64") from error


def checked_image(data: bytes) -> bytes:
    """Return an image, told by its first bytes.

    Raises:
        RequestError: it is none.
    """
    if not data:
        raise RequestError("The image is empty")
    if find_image_type(data) is None:
        raise RequestError(f"This file is no image by its first bytes: expected {KNOWN_TYPES}")
    return data
