"""File watch: notices that a file is no longer what the site serves, while it is written to.

Part of layer 10.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..errors import SourceError
from ..job_records import JobCounts
from .site import Site, SiteClosedError

#: What is said of a file that is no longer the one a job began with.
GONE = "was deleted or replaced while a job wrote to it"


class FileWatch:
    """Called after every step of a run: notices that its file is no longer the site's.

    A file that is deleted or replaced while it is open would otherwise go on to be filled,
    for money, and be gone in the end.

    Args:
        pause: what to call where the site serves it no longer.
    """

    def __init__(self, path: str, site: Site, pause: Callable[[], None]) -> None:
        self._path = path
        self._site = site
        self._pause = pause
        self.is_closed = False
        self._identity = identity_of(path)

    @property
    def is_gone(self) -> bool:
        """Whether the file was deleted or replaced."""
        return identity_of(self._path) != self._identity

    def __call__(self, counts: JobCounts) -> None:
        """Stop the run where its file is not the one it began with.

        Raises:
            SourceError: the file was deleted or replaced.
        """
        if self.is_gone:
            raise SourceError(self._path, GONE)
        try:
            is_served = self._path in self._site.list_files().values()
        except SiteClosedError:
            is_served = False
        if not is_served:
            self.is_closed = True
            self._pause()  # it stays pending, for whoever serves the file next


def identity_of(path: str) -> tuple[int, int] | None:
    """Return what tells a file from another one put in its place; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
