"""Watcher: looks whether the tables of watched collections changed, and has that embedded.

Part of layer 10. A look at a file in which nothing changed is one question to SQLite
(``PRAGMA data_version``), over a connection that is kept. The embedding is ``draining``, on
the threads of the runner.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol

from ..batches import Stopped, first_line
from ..database import open_database, sqlite3, translated
from ..draining import drain
from ..errors import EmbedError, JobStateError
from ..job_records import JobStatus
from ..watching import mend, survey
from ..workers import Clock
from .file_watch import FileWatch, identity_of
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
        """Queue work, unless work of this key waits; return whether it is queued.

        Where work of this key runs, it is done after that: the change may have come too late.
        """
        ...


@dataclass
class _File:
    """One file that is looked at.

    Attributes:
        identity: tells it from another file put in its place.
        version: SQLite's number of its changes at the last look.
        schema: the number of its schema when all triggers were last what they should be.
        has_work: whether something was due then.
    """

    conn: sqlite3.Connection
    identity: tuple[int, int] | None
    version: int = -1
    schema: int = -1
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
                except Exception as error:
                    # A file may hold anything; the others are looked at all the same.
                    if (path, type(error).__name__) not in self._told:
                        self._told.add((path, type(error).__name__))
                        logger.exception("%s: nothing can be watched", path)
            if self._is_stopped:
                self._keep_only(())
        return not self._is_stopped

    def _look_at(self, path: str) -> None:
        file = self._opened(path)
        version = file.conn.execute("pragma data_version").fetchone()[0]
        if version == file.version and not file.has_work:
            return
        schema = file.conn.execute("pragma schema_version").fetchone()[0]
        found = survey(file.conn, path, compares_triggers=schema != file.schema)
        for name in found.strangers:
            self._tell_once(path, name)
        for name in found.held:  # once it goes on, it need not wait
            self._waits.pop((path, name), None)
        file.version, file.has_work = version, bool(found.due) or found.is_broken
        if not file.has_work:
            file.schema = schema
        if found.is_broken and self._has_waited(path, ""):
            self._submit(("mend", path), partial(self._mend, path))
        for name in found.due:
            if self._has_waited(path, name):
                self._submit(("watch", path, name), partial(self._drain, path, name))

    def _has_waited(self, path: str, name: str) -> bool:
        wait = self._waits.get((path, name))
        return wait is None or monotonic() >= wait.until

    def _opened(self, path: str) -> _File:
        identity = identity_of(path)
        file = self._files.get(path)
        if file is not None and file.identity != identity:
            self._close(path)
            self._waits = {key: wait for key, wait in list(self._waits.items()) if key[0] != path}
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

    def _mend(self, path: str, stopping: threading.Event) -> None:
        """Free tables that nobody can write, for what their triggers write is gone."""
        try:
            with closing(open_database(path, writable=True)) as conn:
                dropped = mend(conn, path)
        except EmbedError as error:
            self._leave_alone(path, "", first_line(error))
        else:
            logger.warning("%s: removed %d triggers whose tables are gone", path, dropped)

    def _drain(self, path: str, name: str, stopping: threading.Event) -> None:
        """Bring one collection up to date; what goes wrong is tried again later."""
        if not self._has_waited(path, name):
            return  # queued while another attempt ran, which failed
        try:
            status = drain(
                path,
                name,
                self._site.registry,
                key_for=self._site.key_for,
                pause=stopping,
                report=FileWatch(path, self._site, _stop),
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
        if status in (None, JobStatus.FINISHED, JobStatus.PENDING):  # that is, to go on
            self._waits.pop((path, name), None)
        elif not stopping.is_set():
            self._leave_alone(path, name, f"its job was {status}")

    def _leave_alone(self, path: str, name: str, reason: str) -> None:
        """Wait longer than before, and say so once; without a name it is about the file."""
        before = self._waits.get((path, name))
        seconds = min(LONGEST_WAIT_SECONDS, 2 * before.seconds if before else 0.0)
        seconds = max(FIRST_WAIT_SECONDS, seconds)
        if before is None or before.reason != reason:
            what = f"collection '{name}' could not be brought up to date" if name else "not mended"
            logger.warning("%s: %s: %s", path, what, reason)
        self._waits[path, name] = _Wait(monotonic() + seconds, seconds, reason)


def _stop() -> None:
    """End a run with the batch that was just stored; whoever serves the file next goes on.

    Raises:
        Stopped: always.
    """
    raise Stopped
