"""Image values: what stands in a column of images, turned into the bytes of an image.

Layer 2: imports ``errors``, ``image_types`` and ``threads``. A column holds images themselves,
or paths or addresses of them. Those two lead out of the file, which may be a stranger's, so
they are followed only where the caller says that they may be: a folder that nothing leads out
of, or the network. A server gives neither.
"""

from __future__ import annotations

import http.client
import os
import sqlite3
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath, PureWindowsPath
from time import monotonic
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from .errors import EmbedError, SourceError
from .image_types import KNOWN_TYPES, MOST_IMAGE_BYTES, find_image_type
from .threads import start_thread

#: Longest wait for one step of an answer, and for all of one image, in seconds.
STEP_SECONDS, FETCH_SECONDS = 10.0, 60.0
#: How often an address may send on to another one of its server.
MOST_REDIRECTS = 5
#: Scheme -> the port that an address without one means.
_PORTS = {"http": 80, "https": 443}
_PART_BYTES = 65_536

#: Returns the bytes that a text of a column stands for.
ReadImage = Callable[[str], bytes]


class ImageFrom(StrEnum):
    """What the texts in a column of images are."""

    FILES = "files"
    URLS = "urls"


class ImageError(EmbedError, ValueError):
    """One value that is no image; the message says why, and the other rows go on."""


@dataclass(frozen=True)
class ImageAccess:
    """What a caller lets the texts of a column lead to.

    Attributes:
        folder: the folder that paths are relative to; None follows no path.
        urls: whether addresses are fetched.
    """

    folder: str | None = None
    urls: bool = False

    def reader(self, image_from: str | None, subject: str) -> ReadImage | None:
        """Return what reads the texts of a column; None where it holds the images themselves.

        Args:
            image_from: what the texts are.
            subject: named in the error.

        Raises:
            SourceError: the caller does not let them lead anywhere; no such folder.
        """
        if image_from is None:
            return None
        if image_from == ImageFrom.FILES and self.folder is not None:
            return FolderImages(self.folder)
        if image_from == ImageFrom.URLS and self.urls:
            return UrlImages()
        raise SourceError(subject, not_followed(image_from))


#: Images in the column itself, and nothing else.
NO_ACCESS = ImageAccess()


def not_followed(image_from: str) -> str:
    """Return the reason why images outside of the file are not read."""
    if image_from == ImageFrom.FILES:
        where, option = "files", "--image-files FOLDER"
    else:
        where, option = "on the web", "--image-urls"
    return (
        f"its images are {where}, which only a command that says so reads: run datasette embed "
        f"sync with {option}"
    )


def image_of(value: Any, read_image: ReadImage | None = None) -> bytes:
    """Return the image in a column's value; nothing for NULL and what is blank.

    Raises:
        ImageError: it is none, or cannot be read.
    """
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        return b""
    if isinstance(value, str) and read_image is not None:
        value = read_image(value)
        if not value:
            raise ImageError("the file of the image is empty")
    elif isinstance(value, str):
        raise ImageError(
            "the column of images holds text, not an image: paths take --image-files, and "
            "URLs --image-urls"
        )
    elif not isinstance(value, bytes):
        raise ImageError("the column of images holds a number, not an image")
    if find_image_type(value) is None:
        raise ImageError(f"is no image by its first bytes: expected {KNOWN_TYPES}")
    return bytes(value)


def refuse_large(length: int) -> None:
    """Refuse an image that is longer than is read.

    Raises:
        ImageError: it is.
    """
    if length > MOST_IMAGE_BYTES:
        raise ImageError(f"the image is larger than {MOST_IMAGE_BYTES // 1024**2} MB")


class FolderImages:
    """Images in files below one folder, whatever links lead where.

    Args:
        folder: paths are relative to it.

    Raises:
        SourceError: there is no such folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).resolve()
        if not self._folder.is_dir():
            raise SourceError(f"--image-files {folder}", "there is no such folder")

    def __call__(self, path: str) -> bytes:
        """Return the content of a file.

        Raises:
            ImageError: the path leads out of the folder, or the file cannot be read.
        """
        for kind in (PurePosixPath(path), PureWindowsPath(path)):
            if kind.is_absolute() or kind.drive or kind.root or ".." in kind.parts:
                raise ImageError("the path of the image leads out of the folder of --image-files")
        if "\0" in path:
            raise ImageError("the path of the image holds the character NUL")
        try:
            file = (self._folder / path).resolve()
            if not file.is_relative_to(self._folder):
                raise ImageError("the path of the image leads out of the folder of --image-files")
            found = os.stat(file)
            # Reading a pipe or a device might never end.
            if not stat.S_ISREG(found.st_mode):
                raise ImageError("the path of the image is not that of a regular file")
            refuse_large(found.st_size)
            with file.open("rb") as opened:
                data = opened.read(MOST_IMAGE_BYTES + 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            reason = getattr(error, "strerror", None) or "its links lead in a circle"
            raise ImageError(f"the file of the image cannot be read: {reason}") from error
        refuse_large(len(data))
        return data


class UrlImages:
    """Images fetched from where their addresses lead, each address once.

    What was fetched is kept in a temporary file until the object goes, since a source is read
    twice: for the plan and for the run.
    """

    def __init__(self) -> None:
        # SQLite keeps a database without a name in a file that it deletes itself.
        self._kept = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._kept.execute("create table images (url text primary key, data blob, problem text)")

    def __call__(self, url: str) -> bytes:
        """Return what an address leads to.

        Raises:
            ImageError: it leads nowhere, to another server, to too much or takes too long.
        """
        kept = self._kept.execute(
            "select data, problem from images where url = ?", (url,)
        ).fetchone()
        if kept is None:
            kept = self._fetch(url)
            self._kept.execute("insert into images values (?, ?, ?)", (url, *kept))
        data, problem = kept
        if problem is not None:
            raise ImageError(problem)
        return bytes(data)

    def _fetch(self, url: str) -> tuple[bytes | None, str | None]:
        """Return the image, or why there is none, after at most ``FETCH_SECONDS``."""
        fetched: Future[bytes] = Future()

        def run() -> None:
            try:
                fetched.set_result(_fetched(url))
            except BaseException as error:
                fetched.set_exception(error)

        # In a thread: each step has a limit, but a server can make any number of them.
        start_thread(run, name="embed-image")
        try:
            return fetched.result(FETCH_SECONDS + 1), None
        except ImageError as error:
            return None, str(error)
        except TimeoutError:
            return None, _TOO_SLOW
        except Exception as error:  # an address may be wrong in ways that only its use shows
            return None, f"the image cannot be fetched: {type(error).__name__}"


_TOO_SLOW = f"the image did not arrive within {FETCH_SECONDS:g} seconds"


def _fetched(url: str) -> bytes:
    """Fetch an address.

    Raises:
        ImageError: as ``UrlImages``.
    """
    until, server = monotonic() + FETCH_SECONDS, _server_of(url)
    opener = _opener()
    for _ in range(MOST_REDIRECTS + 1):
        server = server.sent_on(_server_of(url))
        try:
            # As it is: what is packed can be far larger than what arrives.
            headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
            request = urllib.request.Request(_quoted(url), headers=headers)
            with opener.open(request, timeout=STEP_SECONDS) as response:
                return _body_of(response, until)
        except urllib.error.HTTPError as error:
            with error:
                location = error.headers.get("location")
                if error.code not in _REDIRECTS or not location:
                    reason = f"its server answers {error.code}"
                    raise ImageError(f"the image cannot be fetched: {reason}") from None
            url = urljoin(url, location)
        except ImageError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            name = type(cause if isinstance(cause, Exception) else error).__name__
            raise ImageError(f"the image cannot be fetched: {name}") from error
    raise ImageError(f"the address of the image sends on more than {MOST_REDIRECTS} times")


_REDIRECTS = (301, 302, 303, 307, 308)


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens addresses of the web, and of nothing else, and follows none by itself."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _quoted(url: str) -> str:
    """Return an address without spaces and letters that no request can hold, nor a fragment."""
    parts = urlsplit(url)
    host = parts.netloc.encode("idna").decode("ascii") if not url.isascii() else parts.netloc
    path, query = (quote(part, safe="/%:=&?~#+!$,;'@()*[]") for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host, path, query, ""))


@dataclass(frozen=True)
class _Server:
    """What answers at an address."""

    scheme: str
    host: str
    port: int

    def sent_on(self, other: _Server) -> _Server:
        """Return where a redirect leads: this server, or its encrypted address.

        Another port of a machine is another service, which the file's author may have chosen
        because the reader's machine can reach it.

        Raises:
            ImageError: it leads elsewhere.
        """
        schemes, ports = (self.scheme, other.scheme), (self.port, other.port)
        is_upgrade = schemes == ("http", "https")
        if self.host != other.host:
            raise ImageError("the address of the image sends on to another host")
        if self.scheme != other.scheme and not is_upgrade:
            raise ImageError("the address of the image sends on from https:// to http://")
        if self.port != other.port and not (is_upgrade and ports == (80, 443)):
            raise ImageError("the address of the image sends on to another port")
        return other


def _server_of(url: str) -> _Server:
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
        port = parts.port
    except ValueError as error:
        raise ImageError("the address of the image is none") from error
    if scheme not in _PORTS or not host:
        raise ImageError("the address of the image must begin with http:// or https://")
    return _Server(scheme, host, _PORTS[scheme] if port is None else port)


def _body_of(response: http.client.HTTPResponse, until: float) -> bytes:
    announced = response.headers.get("content-length", "")
    refuse_large(int(announced) if announced.isdecimal() and len(announced) < 19 else 0)
    data = bytearray()
    while part := response.read1(_PART_BYTES):
        data += part
        refuse_large(len(data))
        if monotonic() > until:
            raise ImageError(_TOO_SLOW)
    if announced.isdecimal() and len(data) != int(announced):
        raise ImageError("the image cannot be fetched: it is broken off")
    return bytes(data)
