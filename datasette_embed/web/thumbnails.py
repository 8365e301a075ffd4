"""Thumbnails: small copies of images, where Pillow is installed.

Layer 11: imports ``image_pixels`` and ``image_types``. Images may be a stranger's: only the
decoder of the type that their bytes show is used, never on more than ``MOST_PIXELS`` and
``MOST_BYTES``, and two at a time. A copy says nothing of where and with what a photo was taken.
Without Pillow the images themselves are shown, up to ``MOST_ORIGINAL_BYTES``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..image_pixels import (
    MOST_PIXELS_FROM_OUTSIDE,
    decoded_pixels,
    decoding_bytes,
    has_levels,
    in_strips,
    to_8_bits,
)
from ..image_types import SHOWN_BY_BROWSERS, find_image_type

#: The longest side of a copy, in pixels.
LONGEST_SIDE = 320
#: Most pixels that are decoded: a photo of 24 megapixels is shown.
MOST_PIXELS = MOST_PIXELS_FROM_OUTSIDE
#: Memory that decoding one may take: formats differ in what their decoders keep.
MOST_BYTES = 200_000_000
#: Longest image that is sent as it is.
MOST_ORIGINAL_BYTES = 5 * 1024 * 1024
#: Memory for copies, in bytes, of all Datasettes of a process.
MOST_CACHED_BYTES = 16 * 1024 * 1024
#: What Pillow calls the types.
_DECODERS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/avif": "AVIF",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
}


@dataclass(frozen=True)
class Picture:
    """Bytes that a browser shows, and their media type."""

    data: bytes
    media_type: str


def can_show(header: bytes, size: int) -> bool:
    """Say whether an image can be shown, as far as its first bytes and its size tell."""
    media_type = find_image_type(header)
    if has_pillow():
        return media_type is not None
    return media_type in SHOWN_BY_BROWSERS and size <= MOST_ORIGINAL_BYTES


async def picture_of(data: bytes, digest: str) -> Picture | None:
    """Return what to show of an image; None of what cannot be shown.

    Args:
        digest: a hash of the data, under which the copy is kept.
    """
    if not can_show(data, len(data)):
        return None
    if not has_pillow():
        return Picture(data, str(find_image_type(data)))
    found = _copies.find(digest)
    if found is None:
        found = await copy_of(data)
        if found is not None:
            _copies.keep(digest, found)
    return found


async def copy_of(data: bytes) -> Picture | None:
    """Return a small copy of an image, which is kept nowhere; None without Pillow too."""
    if not has_pillow() or find_image_type(data) is None:
        return None
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_workers(), _thumbnail, data)


@cache
def has_pillow() -> bool:
    """Say whether Pillow is installed."""
    return importlib.util.find_spec("PIL") is not None


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, "embed-thumbnail")


def _thumbnail(data: bytes) -> Picture | None:
    """Return a small copy; None where the image is damaged, or has too many pixels."""
    from PIL import Image, ImageOps

    decoder = _DECODERS[str(find_image_type(data))]
    try:
        with Image.open(io.BytesIO(data), formats=[decoder]) as image:
            pixels = decoded_pixels(image)
            if pixels > MOST_PIXELS or pixels * decoding_bytes(image) > MOST_BYTES:
                return None
            # Lets the decoder of JPEG leave out what will not be seen.
            image.draft(None, (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))
            image.load()
            is_opaque = not image.has_transparency_data
            small = _smaller(image, "RGB" if is_opaque else "RGBA")
            small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            small.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
            small = ImageOps.exif_transpose(small)
            out = io.BytesIO()
            # Only pixels go into the copy.
            plain = Image.new(small.mode, small.size)
            plain.paste(small)
            plain.save(out, "JPEG" if is_opaque else "PNG", quality=82)
    except Exception:  # a decoder may raise anything about a stranger's bytes
        return None
    return Picture(out.getvalue(), "image/jpeg" if is_opaque else "image/png")


#: The tag of EXIF that says how the camera was held.
_ORIENTATION = 0x0112


def _smaller(image: Any, mode: str) -> Any:
    """Return an image in 8 bits, at least twice as long as its copy where it is so itself."""
    scale = to_8_bits(image) if has_levels(image) else None
    factor = max(1, max(image.size) // (2 * LONGEST_SIDE))
    return in_strips(
        image, mode, lambda strip: (scale(strip) if scale else strip).convert(mode), factor
    )


class _Copies:
    """Copies, bounded in bytes, least recently used out first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = 0

    def find(self, digest: str) -> Picture | None:
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
            return found

    def keep(self, digest: str, picture: Picture) -> None:
        with self._lock:
            if digest in self._kept:
                return
            self._kept[digest] = picture
            self._bytes += len(picture.data)
            while self._bytes > MOST_CACHED_BYTES:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped.data)


_copies = _Copies()
