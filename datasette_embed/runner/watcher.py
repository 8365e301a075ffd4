"""Watcher: looks whether the tables of watched collections changed, and has that embedded.

Part of layer 10. A look at a file in which nothing changed is one question to SQLite
(``PRAGMA data_version``), over a connection that is kept. The embedding is ``draining``, on
the threads of the runner.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol

from ..batches import first_line
from ..database import open_database, sqlite3, translated
from ..draining import drain
from ..errors import EmbedError, JobStateError
from ..job_records import JobStatus
from ..watching import due, unsigned
from ..workers import Clock
from .site import Site, SiteClosedError

logger = logging.getLogger(__name__)

#: How long a collection that cannot be brought up to date is left alone; doubled each time.
FIRST_WAIT_SECONDS = 15.0
LONGEST_WAIT_SECONDS = 600.0
#: How long one is whose other job has yet to end.
BUSY_WAIT_SECONDS = 5.0


class Submit(Protocol):
    """What queues work: ``Runner.submit``."""

    def __call__(self, key: Hashable, work: Callable[[threading.Event], None]) -> bool:
        """Queue work, unless work of this key waits or runs; return whether it is queued."""
        ...


@dataclass
class _File:
    """One file that is looked at.

    Attributes:
        identity: tells it from another file put in its place.
        version: SQLite's number of its changes at the last look.
        has_work: whether something was due then.
    """

    conn: sqlite3.Connection
    identity: tuple[int, int]
    version: int = -1
    has_work: bool = False


@dataclass
class _Wait:
    """How long a collection is left alone, and why."""

    until: float
    seconds: float
    reason: str


class Watcher:
    """Looks at the files of one Datasette server.

    Args:
        site: the Datasette.
        submit: queues work in the background.
    """

    def __init__(self, site: Site, submit: Submit) -> None:
        self._site = site
        self._submit = submit
        self._files: dict[str, _File] = {}
        self._waits: dict[tuple[str, str], _Wait] = {}
        self._told: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._clock: Clock | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Look now, and every ``watch_seconds``."""
        with self._lock:
            if not self._clock and not self._is_stopped:
                self._clock = Clock(self._site.settings.watch_seconds, self.look, "embed-watch")

    def ring(self) -> None:
        """Look at once, if it was started; waits for nothing."""
        clock = self._clock
        if clock:
            clock.ring()

    def stop(self) -> None:
        """Look no more; the last look closes the files.

        Takes no lock: the garbage collector may call it in any thread.
        """
        self._is_stopped = True
        self.ring()

    def look(self) -> bool:
        """Queue what is due; return whether to look again."""
        with self._lock:
            try:
                paths = tuple(self._site.list_files().values())
            except SiteClosedError:
                paths, self._is_stopped = (), True
            self._keep_only(paths)
            for path in paths if not self._is_stopped else ():
                try:
                    with translated(path):
                        self._look_at(path)
                except EmbedError as error:
                    logger.debug("nothing can be watched: %s", error)
            if self._is_stopped:
                self._keep_only(())
        return not self._is_stopped

    def _look_at(self, path: str) -> None:
        file = self._opened(path)
        version = file.conn.execute("pragma data_version").fetchone()[0]
        if version == file.version and not file.has_work:
            return
        for record in unsigned(file.conn):
            self._tell_once(path, record.name)
        names = [record.name for record in due(file.conn)]
        file.version, file.has_work = version, bool(names)
        for name in names:
            wait = self._waits.get((path, name))
            if wait is None or monotonic() >= wait.until:
                self._submit(("watch", path, name), partial(self._drain, path, name))

    def _opened(self, path: str) -> _File:
        found = os.stat(path) if os.path.exists(path) else None
        identity = (found.st_dev, found.st_ino) if found else (0, 0)
        file = self._files.get(path)
        if file is not None and file.identity != identity:
            self._close(path)
            file = None
        if file is None:
            file = self._files[path] = _File(open_database(path), identity)
        return file

    def _keep_only(self, paths: tuple[str, ...]) -> None:
        for path in [path for path in self._files if path not in paths]:
            self._close(path)

    def _close(self, path: str) -> None:
        self._files.pop(path).conn.close()

    def _tell_once(self, path: str, name: str) -> None:
        if (path, name) not in self._told:
            self._told.add((path, name))
            logger.warning(
                "%s: collection '%s' is not kept up to date: its watch was not set up for this "
                "file on this machine. To do that: datasette embed watch",
                path,
                name,
            )

    # -- on a thread of the runner -------------------------------------------------

    def _drain(self, path: str, name: str, stopping: threading.Event) -> None:
        """Bring one collection up to date; what goes wrong is tried again later."""
        try:
            status = drain(
                path,
                name,
                self._site.registry,
                key_for=self._site.key_for,
                pause=stopping,
            )
        except SiteClosedError:
            return
        except JobStateError as error:
            logger.info("%s: %s", path, error)
            self._waits[path, name] = _Wait(monotonic() + BUSY_WAIT_SECONDS, 0.0, "")
            return
        except EmbedError as error:
            self._leave_alone(path, name, first_line(error))
            return
        except Exception as error:
            logger.exception("%s: the changes of '%s' could not be embedded", path, name)
            self._leave_alone(path, name, type(error).__name__)
            return
        if status in (None, JobStatus.FINISHED):
            self._waits.pop((path, name), None)
        elif not stopping.is_set():
            self._leave_alone(path, name, f"its job was {status}")

    def _leave_alone(self, path: str, name: str, reason: str) -> None:
        before = self._waits.get((path, name))
        seconds = min(LONGEST_WAIT_SECONDS, 2 * before.seconds if before else 0.0)
        seconds = max(FIRST_WAIT_SECONDS, seconds)
        if before is None or before.reason != reason:
            logger.warning(
                "%s: collection '%s' could not be brought up to date: %s", path, name, reason
            )
        self._waits[path, name] = _Wait(monotonic() + seconds, seconds, reason)
