"""Uploads: an image that somebody sends to search with.

Layer 11: imports ``image_types`` and its neighbours. It is looked at, embedded and forgotten.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..image_types import KNOWN_TYPES, find_image_type
from .http import RequestError, read_body
from .multipart import parse_parts

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

#: The name of the field.
FIELD = "image"


@dataclass(frozen=True)
class Upload:
    """An image.

    Attributes:
        name: what its sender calls it; empty where they do not.
        data: its bytes.
    """

    name: str
    data: bytes


async def uploaded_image(request: Request, datasette: Datasette) -> Upload:
    """Return the image in a form.

    Raises:
        RequestError: there is none, there are several, or it is none; as ``read_body``.
    """
    body = await read_body(request, datasette)
    parts = parse_parts(request.headers.get("content-type", ""), body)
    files = [part for part in parts if part.name == FIELD]
    if len(files) > 1:
        raise RequestError("Choose one image: several were sent")
    if not files or (not files[0].data and not files[0].filename):
        raise RequestError("Choose an image to search with")
    return Upload(files[0].filename or "", checked_image(files[0].data))


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
        raise RequestError(f"This file is no image that is known here: {KNOWN_TYPES} are")
    return data
