"""Workers: threads of low priority that do one piece of work after the other.

Layer 2: imports ``threads``. They are made when there is something to do. Work is a
function without arguments that handles its own errors; one that raises all the same is
logged, and the worker goes on. What the work is, is said elsewhere.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from queue import Empty, SimpleQueue

from .threads import start_thread

logger = logging.getLogger(__name__)

#: How much a worker yields to the threads that answer requests: the "nice" value of Linux.
NICENESS = 10

Work = Callable[[], None]


class Workers:
    """A queue of work, and the threads that take from it.

    Args:
        count: most threads.
        name: what the threads are called.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._changed = threading.Condition()
        self._queue: deque[tuple[Hashable, Work]] = deque()
        self._keys: set[Hashable] = set()
        self._running: dict[Hashable, object] = {}
        self._again: dict[Hashable, Work] = {}
        self._threads: set[object] = set()
        self._is_stopped = False

    def submit(self, key: Hashable, work: Work, *, again: bool = False) -> bool:
        """Queue work, unless work of this key waits or runs; return whether it is queued.

        Args:
            again: where work of this key runs, do this one after it: what has changed may
                have come too late for it.
        """
        with self._changed:
            if self._is_stopped:
                return False
            if key in self._keys:
                if again and key in self._running:
                    self._again[key] = work
                return key in self._again
            self._append(key, work)
            return True

    def has(self, key: Hashable) -> bool:
        """Say whether work of this key waits or runs."""
        with self._changed:
            return key in self._keys

    def waits(self, key: Hashable) -> bool:
        """Say whether work of this key waits for its turn."""
        with self._changed:
            return key in self._keys and key not in self._running

    def give_up(self, key: Hashable) -> bool:
        """Let another thread take the place of the one that does the work of this key.

        That one is left to end by itself, and takes nothing more. Returns whether work of
        this key runs.
        """
        with self._changed:
            if key not in self._running:
                return False
            self._threads.discard(self._running.pop(key))
            self._keys.discard(key)
            if again := self._again.pop(key, None):
                self._append(key, again)
            self._add_threads()
            self._changed.notify_all()
            return True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing waits or runs, at most so long; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._keys, seconds)

    def stop(self) -> None:
        """Take no work any more and forget what waits; what runs is left to end."""
        with self._changed:
            self._is_stopped = True
            self._keys.difference_update(key for key, _ in self._queue)
            self._queue.clear()
            self._again.clear()
            self._changed.notify_all()

    def _append(self, key: Hashable, work: Work) -> None:
        self._queue.append((key, work))
        self._keys.add(key)
        self._add_threads()

    def _add_threads(self) -> None:
        """Start the threads that there is something to do for."""
        while len(self._threads) < min(self._count, len(self._keys)):
            thread = object()
            start_thread(self._run, thread, name=self._name)
            self._threads.add(thread)

    def _run(self, thread: object) -> None:
        _lower_priority()
        while True:
            with self._changed:
                if thread not in self._threads or not self._queue:
                    self._threads.discard(thread)
                    return
                key, work = self._queue.popleft()
                self._running[key] = thread
            try:
                work()
            except BaseException:
                logger.exception("work in the background failed")
            finally:
                # What the work holds must not live until the next one comes.
                del work
                with self._changed:
                    self._end(key, thread)

    def _end(self, key: Hashable, thread: object) -> None:
        if self._running.get(key) is not thread:
            return  # it was given up, and the key may be another's
        del self._running[key]
        self._keys.discard(key)
        if again := self._again.pop(key, None):
            self._append(key, again)
        self._changed.notify_all()


class Clock:
    """Calls a function every so many seconds, in a thread of its own, until it is stopped.

    Args:
        seconds: the time from one call to the next.
        function: what is called; False ends it.
        name: what the thread is called.
    """

    def __init__(self, seconds: float, function: Callable[[], bool], name: str) -> None:
        self._seconds = seconds
        self._function = function
        # Not an event: the garbage collector may ring or stop a clock in any thread, also in
        # one that is just about to wait, and only such a queue can be put to then.
        self._rings: SimpleQueue[None] = SimpleQueue()
        self._is_stopped = False
        #: Whether the function has said that it is not to be called any more.
        self.has_ended = False
        start_thread(self._run, name=name)

    def ring(self) -> None:
        """Call the function now."""
        self._rings.put(None)

    def stop(self) -> None:
        """Call it no more."""
        self._is_stopped = True
        self._rings.put(None)

    def _run(self) -> None:
        _lower_priority()
        while not self._is_stopped:
            try:
                if self._function() is False:
                    self.has_ended = True
                    return
            except Exception:
                logger.exception("looking for work in the background failed")
            self._wait()

    def _wait(self) -> None:
        """Wait until it is time, or until it rings; of several rings one is enough."""
        with suppress(Empty):
            self._rings.get(timeout=self._seconds)
            while True:
                self._rings.get_nowait()


def _lower_priority() -> None:
    """Let this thread, and those it starts, yield to the others where the system can."""
    if sys.platform == "linux":
        try:
            # Linux gives each thread a priority of its own; elsewhere it is the process's.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        except OSError:
            logger.debug("the priority of a background thread cannot be lowered")
