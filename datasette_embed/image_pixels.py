"""Image pixels: what it takes to decode an image, and its pixels a strip at a time.

Layer 1: imports nothing of ours, and Pillow where it is used. A few kilobytes can be an image of
gigabytes: what is known before it is decoded is told here, and no second copy of a whole image is
made. Which images are too large is said by who reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

#: Most pixels of an image from outside: a photo of 24 megapixels is one.
MOST_PIXELS_FROM_OUTSIDE = 25_000_000
#: What is read, in Pillow's names. Not among them is what Pillow hands to another program
#: (PostScript), what it tells by nothing but a name, and what holds images of other sizes than
#: its header says (ICO, ICNS).
FORMATS = "PNG JPEG MPO GIF WEBP AVIF BMP DIB TIFF JPEG2000 PPM QOI".split()
#: Bytes of memory for each pixel while an image is decoded, as measured with Pillow 12. Of a
#: format that is not named only the image itself is held.
_DECODING_BYTES = {"WEBP": 16, "AVIF": 16, "JPEG2000": 24, "TIFF": 8, "QOI": 8, "PPM": 8}
#: What Pillow keeps of a pixel of three or four channels.
PIXEL_BYTES = 4
#: Pixels of one strip.
_STRIP_PIXELS = 1_000_000

#: Tags of TIFF (TIFF 6.0, section 15).
_TILE_WIDTH, _TILE_LENGTH = 322, 323

Convert = Callable[[Any], Any]


def decoding_bytes(image: Any) -> int:
    """Return how many bytes each pixel takes while an opened image is decoded, at most.

    Of a JPEG it is what no ``draft`` saves: a progressive one keeps two bytes for each number.
    """
    if image.format in ("JPEG", "MPO"):
        return 2 * len(image.getbands()) if image.info.get("progressive") else 1
    return _DECODING_BYTES.get(str(image.format), PIXEL_BYTES)


def decoded_pixels(image: Any) -> int:
    """Return how many pixels an opened image has while it is decoded.

    A TIFF may be cut into tiles that are larger than it is itself, each decoded as a whole.
    """
    pixels = int(image.width * image.height)
    if image.format != "TIFF":
        return pixels
    sides = (image.tag_v2.get(tag) for tag in (_TILE_WIDTH, _TILE_LENGTH))
    across, down = (side if isinstance(side, int) else 0 for side in sides)
    return max(pixels, across * down)


def readable_formats() -> list[str]:
    """Return those of ``FORMATS`` that this Pillow reads.

    Raises:
        ImportError: Pillow is not installed.
    """
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def has_more_pixels(blob: bytes, most: int) -> bool:
    """Say whether the header of an image says so; False where none can be read, or Pillow is
    absent."""
    try:
        from PIL import Image
    except ImportError:
        return False
    try:
        with Image.open(BytesIO(blob), formats=readable_formats()) as image:
            return decoded_pixels(image) > most
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except Exception:  # a reader may raise anything about a stranger's bytes
        return False


def in_strips(image: Any, mode: str, convert: Convert, factor: int = 1) -> Image:
    """Return an image converted, and made smaller by a factor, a strip at a time.

    Args:
        mode: what ``convert`` makes of a strip.
        factor: each square of so many pixels becomes their mean.
    """
    from PIL import Image

    size = math.ceil(image.width / factor), math.ceil(image.height / factor)
    made = Image.new(mode, size)
    for top, strip in _strips(image, factor):
        piece = convert(strip)
        made.paste(piece.reduce(factor) if factor > 1 else piece, (0, top // factor))
    return made


def _strips(image: Any, factor: int = 1) -> Iterator[tuple[int, Any]]:
    """Yield where each strip begins, and the strip; all but the last are multiples of a factor."""
    rows = max(1, _STRIP_PIXELS // image.width // factor) * factor
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def has_levels(image: Any) -> bool:
    """Say whether an image is of one channel of more than 8 bits, which Pillow would cut at 255."""
    return image.mode == "F" or str(image.mode).startswith("I")


def to_8_bits(image: Any) -> Convert:
    """Return what scales a strip of such an image to 8 bits, from black to white.

    Of 16 bits that is what they say. Of 32, or fractions, nobody says what white is, so it is
    what files of 8 or 16 bits, or the brightest point, make it.
    """
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        return lambda strip: Image.fromarray((np.asarray(strip) >> 8).astype(np.uint8))

    def levels(strip: Any) -> Any:
        found = np.asarray(strip).astype(np.float32)
        return np.nan_to_num(found, copy=False, posinf=0.0, neginf=0.0)

    top = max(float(levels(strip).max()) for _, strip in _strips(image))
    white = next((full for full in (1.0, 255.0, 65_535.0) if top <= full), top)
    return lambda strip: Image.fromarray(
        np.clip(levels(strip) * (255 / white), 0, 255).round().astype(np.uint8)
    )
