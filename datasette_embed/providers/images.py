"""Images: the bytes of a file as a picture that a model of images can be given.

Layer 3: imports ``errors`` and ``image_pixels``. What is no image, or one that would fill the
memory, is refused by itself, so that the others of its batch go on. Pillow is imported when the
first one is read.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, UnreadableTextError
from ..image_pixels import (
    PIXEL_BYTES,
    decoded_pixels,
    decoding_bytes,
    has_levels,
    in_strips,
    readable_formats,
    to_8_bits,
)

if TYPE_CHECKING:
    from PIL.Image import Image

#: Most pixels of one image, as Pillow itself warns (``Image.MAX_IMAGE_PIXELS``, Pillow 13).
MOST_PIXELS = 89_478_485
#: Memory that reading one image may take.
MOST_BYTES = 400_000_000
#: An image of more pixels is made smaller before a model is given it.
LARGE_PIXELS = 25_000_000
#: What it is made smaller to, and the least length of its shorter side then: models see some 224
#: to 512 pixels of it.
SMALLER_PIXELS, LEAST_SIDE = 6_000_000, 512
#: Longest side over shortest. Models scale the shorter side up to some 224 pixels and with it
#: the longer one, before they cut.
LONGEST_RATIO = 200
#: Pixels of the images that are held at once, unless a single one has more.
GROUP_PIXELS = 32_000_000

#: Filters of warnings are the process's: two threads that change them at once leave them changed.
_quiet = threading.Lock()

#: Usual names of models that embed images and texts. Those that are called clip and embed texts
#: only (clip-ViT-B-32-multilingual-v1) are not meant.
_IMAGE_MODELS = re.compile(
    r"clip-vit(?!.*multilingual)|siglip|jina-clip|jina-embeddings-v4|nomic-embed-vision"
    r"|nomic-embed-multimodal|gme-qwen2-vl|bge-vl|metaclip|altclip|chinese-clip|laion.*clip",
    re.IGNORECASE,
)


def embeds_images(model: str) -> bool:
    """Say whether a model embeds images, as far as its usual name tells."""
    return bool(_IMAGE_MODELS.search(model))


def image_groups(blobs: Sequence[bytes], model_id: str) -> Iterator[tuple[list[int], list[Image]]]:
    """Yield the images and their positions, so many at once as memory is meant to hold.

    Raises:
        UnreadableTextError: as ``read_image``.
        MissingDependencyError: Pillow is not installed.
    """
    positions: list[int] = []
    images: list[Image] = []
    pixels = 0
    for position, blob in enumerate(blobs):
        image = read_image(blob, model_id)
        size = image.width * image.height
        if images and pixels + size > GROUP_PIXELS:
            yield positions, images
            positions, images, pixels = [], [], 0
        positions.append(position)
        images.append(image)
        pixels += size
    if images:
        yield positions, images


def read_image(blob: bytes, model_id: str) -> Image:
    """Return an image as one shows it: upright, its first frame, on white, in RGB of 8 bits.

    One of more than ``LARGE_PIXELS`` is made smaller.

    Args:
        blob: the content of a file, of one of ``FORMATS``.
        model_id: the model that is to embed it, for the message.

    Raises:
        UnreadableTextError: it is no image, a damaged one, or absurdly large.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError("Pillow", "clip") from error
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file's small faults, which are not ours
            with Image.open(BytesIO(blob), formats=readable_formats()) as opened:
                _check_size(opened, model_id)
                factor = _factor_of(opened.width, opened.height)
                if factor == 1:
                    ImageOps.exif_transpose(opened, in_place=True)
                    return _in_rgb(opened)
                # Lets the decoder of JPEG leave out what will not be seen.
                opened.draft(None, (opened.width // factor, opened.height // factor))
                small = _in_rgb(opened, _factor_of(opened.width, opened.height))
                small.getexif()[_ORIENTATION] = opened.getexif().get(_ORIENTATION, 1)
                ImageOps.exif_transpose(small, in_place=True)
                return small
    except UnreadableTextError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(model_id, MOST_PIXELS) from error
    except Exception as error:  # Pillow's readers raise nearly anything
        raise UnreadableTextError(
            model_id, "the content is no image that can be read, or a damaged one"
        ) from error


#: The tag of EXIF that says how the camera was held.
_ORIENTATION = 0x0112


def _factor_of(width: int, height: int) -> int:
    """Return by how much an image is made smaller; 1 for one that is given as it is."""
    if width * height <= LARGE_PIXELS:
        return 1
    wanted = math.ceil(math.sqrt(width * height / SMALLER_PIXELS))
    return max(1, min(wanted, min(width, height) // LEAST_SIDE))


def _check_size(opened: Any, model_id: str) -> None:
    """Refuse an image that would fill the memory, by what its header says.

    Raises:
        UnreadableTextError: it is too large, or a line.
    """
    width, height = opened.width, opened.height
    factor = _factor_of(width, height)
    needed = float(decoding_bytes(opened))
    if opened.format in ("JPEG", "MPO"):
        needed += 2 * PIXEL_BYTES / factor**2
    else:  # what is decoded, and what is made of it
        needed = max(needed, PIXEL_BYTES + PIXEL_BYTES / factor**2)
    most = min(MOST_PIXELS, int(MOST_BYTES / needed))
    if decoded_pixels(opened) > most:
        is_large = width * height > most
        size = f" of {width:,} x {height:,} pixels" if is_large else " in such large tiles"
        raise _too_large(model_id, most, size)
    if max(width, height) > LONGEST_RATIO * min(width, height):
        raise UnreadableTextError(
            model_id,
            f"an image of {width:,} x {height:,} pixels is too narrow to be read: its longer side "
            f"may be at most {LONGEST_RATIO} times the shorter one",
        )


def _too_large(model_id: str, most: int, size: str = "") -> UnreadableTextError:
    return UnreadableTextError(
        model_id,
        f"an image{size} is too large to be read: at most {most:,} pixels are. Make it smaller",
    )


def _in_rgb(image: Any, factor: int = 1) -> Image:
    """Return the image in RGB; what is transparent shows white, as on a page."""
    image.load()
    if image.mode == "RGB" and factor == 1 and "transparency" not in image.info:
        same: Image = image
        return same
    scale = to_8_bits(image) if has_levels(image) else None

    def in_rgb(strip: Any) -> Any:
        return _on_white(scale(strip) if scale else strip)

    return in_strips(image, "RGB", in_rgb, factor)


def _on_white(image: Any) -> Any:
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        ground = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(ground, opaque).convert("RGB")
    return image.convert("RGB")
