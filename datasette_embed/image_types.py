"""Image types: which bytes are an image, told by how they begin.

Layer 1: imports nothing. What a name or a sender says of them is not asked. SVG is none of
these: it is a document that can hold programs.
"""

from __future__ import annotations

#: Longest image that is read to be embedded, in bytes.
MOST_IMAGE_BYTES = 50 * 1024 * 1024
#: How many of the first bytes tell the type.
HEADER_BYTES = 32
#: Types that every browser shows (https://developer.mozilla.org/docs/Web/Media/Formats/Image_types).
SHOWN_BY_BROWSERS = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"})
#: What messages call all types there are.
KNOWN_TYPES = "PNG, JPEG, GIF, WebP, AVIF, TIFF and BMP"

_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
#: Lengths of the header that follows that of a BMP file, by which its versions are told.
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})


def find_image_type(data: bytes) -> str | None:
    """Return the media type of an image, None of anything else.

    Args:
        data: all of it, or at least the first ``HEADER_BYTES``.
    """
    for beginning, media_type in _BEGINNINGS.items():
        if data.startswith(beginning):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    # Two letters alone would take many a text for an image.
    is_bmp = data[:2] == b"BM" and data[6:10] == b"\0\0\0\0"
    if is_bmp and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    return None
