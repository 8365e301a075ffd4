"""Calls: how many are under way, and what begins no more."""

from __future__ import annotations

import threading
from time import monotonic

import pytest

from datasette_embed.calls_in_flight import Calls
from datasette_embed.threads import wait_for_threads

#: So long a broken test waits for what does not come.
SECONDS = 10.0


class Gate:
    """Work that waits until it is let through, and knows what was begun."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.open = threading.Event()
        self._changed = threading.Condition()

    def __call__(self, thing: int) -> int:
        with self._changed:
            self.begun.append(thing)
            self._changed.notify_all()
        self.open.wait(SECONDS)
        return -thing

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, SECONDS)


def ended(calls: Calls[int, int]) -> dict[int, int | BaseException]:
    """Return everything that is pending, once it has ended."""
    found: dict[int, int | BaseException] = {}
    while calls.pending:
        found |= dict(calls.wait(SECONDS))
    return found


def test_one_at_a_time_in_the_thread_that_begins_it():
    """A model on this machine is not called from a thread of its own."""
    calls = Calls(lambda thing: threading.get_ident(), 1)
    assert calls.has_room
    calls.begin(1)
    assert not calls.has_room
    assert calls.wait(0) == [(1, threading.get_ident())]
    assert (calls.pending, calls.has_room) == (0, True)


def test_several_at_once_what_waits_is_taken_without_being_asked():
    """Two run, two wait; whoever began them need not look for the others to begin."""
    gate = Gate()
    calls = Calls(gate, 2)
    for thing in (1, 2, 3, 4):
        assert calls.has_room
        calls.begin(thing)
    assert not calls.has_room
    gate.wait_for(2)
    assert sorted(gate.begun) == [1, 2]
    gate.open.set()
    gate.wait_for(4)
    assert ended(calls) == {1: -1, 2: -2, 3: -3, 4: -4}


@pytest.mark.parametrize("most", [1, 2])
def test_what_is_raised_is_handed_over(most):
    """An error belongs to the call that raised it."""
    error = ValueError("no")

    def work(thing):
        raise error

    calls = Calls(work, most)
    calls.begin(1)
    assert ended(calls) == {1: error}


@pytest.mark.parametrize("how", ["halt", "may_begin", "drop"])
def test_what_waits_is_not_begun_once_it_must_not(how):
    """Those under way end; the others are left, and forgotten by ``drop``."""
    gate, is_over = Gate(), threading.Event()
    calls = Calls(gate, 2, lambda: not is_over.is_set())
    for thing in (1, 2, 3, 4):
        calls.begin(thing)
    gate.wait_for(2)
    if how == "halt":
        calls.halt()
    elif how == "may_begin":
        is_over.set()
    else:
        calls.drop()
        assert calls.pending == 2
    gate.open.set()
    assert wait_for_threads(SECONDS)
    calls.drop()
    assert sorted(ended(calls)) == sorted(gate.begun) == [1, 2]


def test_hold_nothing_begins_before_its_time():
    """What waits is begun when the time has come, without another word."""
    times: list[float] = []
    calls = Calls(lambda thing: times.append(monotonic()), 2)
    held = monotonic()
    calls.hold(0.3)
    calls.hold(0.1)  # a shorter one changes nothing
    assert calls.is_held
    for thing in (1, 2, 3):
        calls.begin(thing)
    assert sorted(ended(calls)) == [1, 2, 3]
    assert min(times) >= held + 0.3


def test_wait_nothing_has_ended_nothing_comes():
    """It waits as long as it was told, not for ever."""
    gate = Gate()
    calls = Calls(gate, 2)
    calls.begin(1)
    assert calls.wait(0.01) == []
    assert calls.pending == 1
    gate.open.set()
    assert ended(calls) == {1: -1}
