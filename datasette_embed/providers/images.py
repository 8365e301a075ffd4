"""Images: the bytes of a file as a picture that a model of images can be given.

Layer 3: imports ``errors``. What is no image, or one that would fill the memory, is refused by
itself, so that the others of its batch go on. Pillow is imported when the first one is read.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, UnreadableTextError

if TYPE_CHECKING:
    from PIL.Image import Image

#: What is read, in Pillow's names. Not among them is what Pillow hands to another program
#: (PostScript), and what it tells by nothing but a name.
FORMATS = "PNG JPEG MPO GIF WEBP AVIF BMP DIB TIFF ICO ICNS JPEG2000 PPM QOI".split()
#: Most pixels of one image, as Pillow itself warns (``Image.MAX_IMAGE_PIXELS``, Pillow 13): three
#: bytes each, a quarter of a gigabyte.
MOST_PIXELS = 89_478_485
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
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file's small faults, which are not ours
            with Image.open(BytesIO(blob), formats=formats) as opened:
                _check_size(opened.width, opened.height, model_id)
                return _in_rgb(ImageOps.exif_transpose(opened))
    except UnreadableTextError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(model_id) from error
    except Exception as error:  # Pillow's readers raise nearly anything
        raise UnreadableTextError(
            model_id, "the content is no image that can be read, or a damaged one"
        ) from error


def _check_size(width: int, height: int, model_id: str) -> None:
    """Refuse an image that would fill the memory, by what its header says.

    Raises:
        UnreadableTextError: it is too large, or a line.
    """
    if width * height > MOST_PIXELS:
        raise _too_large(model_id, f" of {width:,} x {height:,} pixels")
    if max(width, height) > LONGEST_RATIO * min(width, height):
        raise UnreadableTextError(
            model_id,
            f"an image of {width:,} x {height:,} pixels is too narrow to be read: its longer side "
            f"may be at most {LONGEST_RATIO} times the shorter one",
        )


def _too_large(model_id: str, size: str = "") -> UnreadableTextError:
    return UnreadableTextError(
        model_id,
        f"an image{size} is too large to be read: at most {MOST_PIXELS:,} pixels are. "
        "Make it smaller",
    )


def _in_rgb(image: Any) -> Image:
    """Return the image in RGB; what is transparent shows white, as on a page."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        image = _in_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        ground = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(ground, opaque).convert("RGB")
    converted: Image.Image = image.convert("RGB")
    return converted


def _in_8_bits(image: Any) -> Image:
    """Return an image of one channel of 16 bits or more, whose numbers Pillow would cut at 255."""
    import numpy as np
    from PIL import Image

    levels = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((levels >> 8).astype(np.uint8))
    # Of 32 bits, or fractions: nobody says what white is, so it is what files of 8 or 16 bits, or
    # the brightest point, make it.
    levels = np.nan_to_num(levels.astype(np.float32), posinf=0.0, neginf=0.0)
    top = float(levels.max())
    white = next((full for full in (1.0, 255.0, 65_535.0) if top <= full), top)
    return Image.fromarray(np.clip(levels * (255 / white), 0, 255).round().astype(np.uint8))
