"""Lasting writes: what was paid for is written, however long another program has the file.

Layer 2: imports ``database`` and ``errors``. What is written is decided elsewhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from .database import sqlite3, translated, write_transaction
from .errors import DatabaseLockedError

logger = logging.getLogger(__name__)

#: Longest wait for another program to let go of the file.
LONGEST_WAIT_SECONDS = 3_600.0
#: Between two tries, each of which waits as long as its connection does.
PAUSE_SECONDS = 0.05


def write_lasting(
    conn: sqlite3.Connection,
    path: str,
    write: Callable[[], None],
    undo: Callable[[], None],
    pause: threading.Event,
) -> None:
    """Run ``write`` in one transaction, as soon as no other program holds the file's lock.

    Args:
        path: the file, named in errors.
        undo: called before another try: takes back what ``write`` changed in memory.
        pause: once it is set, one more try is made and no other.

    Raises:
        DatabaseLockedError: the lock is still held, and it is not to be waited for longer.
        SourceError: it cannot be written for another reason.
    """
    end = monotonic() + LONGEST_WAIT_SECONDS
    is_told = False
    while True:
        is_last = pause.is_set() or monotonic() >= end
        try:
            with translated(path), write_transaction(conn):
                write()
            return
        except DatabaseLockedError as error:
            undo()
            if is_last:
                raise
            if not is_told:
                logger.warning("what was embedded waits to be written: %s", error)
            is_told = True
            pause.wait(PAUSE_SECONDS)
