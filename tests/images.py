"""Images for tests: real ones, made without a package for images."""

from __future__ import annotations

import struct
import zlib

#: An image that is a program, and a page that begins like an image.
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<html><script>alert(1)</script></html>"


def png(red: int = 200, green: int = 30, blue: int = 30, width: int = 8, height: int = 8) -> bytes:
    """Return a PNG of one colour (https://www.w3.org/TR/png-3/#5PNG-file-signature)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    line = b"\0" + bytes((red, green, blue)) * width
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(line * height, 9))
        + chunk(b"IEND", b"")
    )


#: A GIF of one pixel (https://www.w3.org/Graphics/GIF/spec-gif89a.txt).
GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\x00\x00\xff\xff\xff"
    b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
#: The header of a JPEG; enough to be told from others, not to be drawn.
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9"
