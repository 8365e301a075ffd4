"""Calls in flight: a function called for one thing after the other, several at once.

Layer 2: imports ``threads``. The caller's thread begins calls and waits for those that have
ended; between the two, threads take what waits without asking it, so that all are busy while
it writes. A kill costs those that run, and those that have ended and are not written yet. What
is called, and what becomes of a call that fails, is decided elsewhere.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Generic, TypeVar

from .threads import start_thread

Thing = TypeVar("Thing")
Result = TypeVar("Result")


class Calls(Generic[Thing, Result]):
    """The calls of one run.

    Args:
        work: what is called for each thing; whatever it raises is handed over.
        most: most calls at once. With 1 they are made in the thread that begins them.
        may_begin: asked before each call; once it says no, what waits is left.

    Attributes:
        pending: calls that were begun, or wait for a thread, and are not handed over yet.
        held_until: no call begins before this time of the monotonic clock.
    """

    def __init__(
        self,
        work: Callable[[Thing], Result],
        most: int,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._work = work
        self._most = most
        self._may_begin = may_begin
        self.pending = 0
        self.held_until = 0.0
        self._is_halted = False
        self._active = 0
        self._waiting: deque[Thing] = deque()
        self._lock = threading.Lock()
        self._ended: SimpleQueue[tuple[Thing, Result | BaseException]] = SimpleQueue()

    @property
    def has_room(self) -> bool:
        """Whether another call may be begun: of several at once, as many as run may wait."""
        return self.pending < (1 if self._most == 1 else 2 * self._most)

    @property
    def is_held(self) -> bool:
        """Whether it is too early for any call."""
        return monotonic() < self.held_until

    def begin(self, thing: Thing) -> None:
        """Make a call, now or as soon as a thread is free."""
        self.pending += 1
        if self._most == 1:
            self._run(thing)
            return
        with self._lock:
            self._waiting.append(thing)
            self._add_threads()

    def wait(self, seconds: float) -> list[tuple[Thing, Result | BaseException]]:
        """Return the calls that have ended, waiting at most so long for the first of them."""
        with self._lock:
            self._add_threads()
            if self._waiting and self.is_held:
                seconds = min(seconds, self.held_until - monotonic())
        found = []
        try:
            found.append(self._ended.get(timeout=max(0.0, seconds)))
            while True:
                found.append(self._ended.get_nowait())
        except Empty:
            self.pending -= len(found)
        return found

    def hold(self, seconds: float) -> None:
        """Begin no call for so long; from any thread."""
        with self._lock:
            self.held_until = max(self.held_until, monotonic() + seconds)

    def halt(self) -> None:
        """Begin no call any more; from any thread."""
        self._is_halted = True

    def drop(self) -> None:
        """Forget what waits for a thread, and begin no call any more."""
        self.halt()
        with self._lock:
            self.pending -= len(self._waiting)
            self._waiting.clear()

    def _add_threads(self) -> None:
        """Start the threads that there is something to do for; the caller holds the lock."""
        for _ in range(min(self._most - self._active, len(self._waiting))):
            if self._is_idle():
                return
            self._active += 1
            start_thread(self._run_what_waits, name="embed-call")

    def _is_idle(self) -> bool:
        return self._is_halted or self.is_held or not self._may_begin()

    def _run_what_waits(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._is_idle():
                    self._active -= 1
                    return
                thing = self._waiting.popleft()
            self._run(thing)

    def _run(self, thing: Thing) -> None:
        result: Result | BaseException
        try:
            result = self._work(thing)
        except BaseException as error:  # raised again where the results are looked at
            result = error
        self._ended.put((thing, result))
