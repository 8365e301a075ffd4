"""Multipart: the parts of a form that sends files (RFC 7578, over RFC 2046).

Layer 11: imports its neighbour ``http``. The whole body is in memory, within the limit of every
body; nothing is written to a file, and what a sender says of a file's type is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message

from .http import RequestError

#: More parts than any form of ours has.
_MOST_PARTS = 100
#: Longest header of one part, in bytes.
_MOST_HEADER_BYTES = 8_192


@dataclass(frozen=True)
class Part:
    """One field of a form.

    Attributes:
        name: that of the field.
        filename: the file's, without folders; None for a field that is no file.
        data: the bytes as they were sent.
    """

    name: str
    filename: str | None
    data: bytes


def parse_parts(content_type: str, body: bytes) -> list[Part]:
    """Return the parts of a body.

    Args:
        content_type: the header of the request, which names the boundary.

    Raises:
        RequestError: it is no such form, or broken off.
    """
    header = Message()
    header["content-type"] = content_type.replace("\r", " ").replace("\n", " ")
    boundary = header.get_boundary() if header.get_content_type() == _MULTIPART else None
    if not boundary:
        raise RequestError(f"A file must be sent in a form of the type {_MULTIPART}")
    mark = b"\r\n--" + boundary.encode("utf-8", "replace")
    # What is before the first mark, and behind the last one, is nobody's.
    sections = (b"\r\n" + body).split(mark, _MOST_PARTS + 2)[1:]
    parts: list[Part] = []
    for section in sections:
        if section.startswith(b"--"):
            return parts
        line, found, rest = section.partition(b"\r\n")
        if not found or line.strip(b" \t"):
            break
        parts.append(_part_of(rest))
        if len(parts) > _MOST_PARTS:
            raise RequestError("The form has too many fields")
    raise RequestError("The form cannot be read: it is broken off, or its boundary is another one")


_MULTIPART = "multipart/form-data"


def _part_of(section: bytes) -> Part:
    header, found, data = section.partition(b"\r\n\r\n")
    if not found or len(header) > _MOST_HEADER_BYTES:
        raise RequestError("The form cannot be read: a field of it has no end of its header")
    said = Message()
    for line in header.decode("utf-8", "replace").split("\r\n"):
        field, _, value = line.partition(":")
        if field.strip().lower() == "content-disposition":
            said["content-disposition"] = value.replace("\n", " ").strip()
    name, filename = _parameter(said, "name"), _parameter(said, "filename")
    if name is None:
        raise RequestError("The form cannot be read: a field of it has no name")
    if filename is not None:
        filename = filename.replace("\\", "/").rpartition("/")[2]
    return Part(name, filename, data)


def _parameter(header: Message, name: str) -> str | None:
    found = header.get_param(name, header="content-disposition")
    if found is None:
        return None
    # With a character set it is in three parts (RFC 2231).
    return str(found[2] if isinstance(found, tuple) else found)
