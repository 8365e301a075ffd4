"""Workers: work in the background, one piece after the other, at a low priority."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from datasette_embed.workers import NICENESS, Clock, Workers


def test_submit_runs_in_order_and_wait_waits():
    """One worker does one thing at a time."""
    workers, done = Workers(1, "embed-test"), []
    for number in range(5):
        assert workers.submit(number, lambda number=number: done.append(number))
    assert workers.wait(30)
    assert done == [0, 1, 2, 3, 4]


def test_submit_key_that_waits_or_runs_is_refused_until_it_has_ended():
    """The same job is not queued twice."""
    workers, gate, started, done = Workers(1, "embed-test"), *map(make_event, "ab"), []
    workers.submit("runs", lambda: (started.set(), gate.wait(30)))
    started.wait(30)
    workers.submit("waits", lambda: done.append("waits"))
    assert not workers.submit("runs", lambda: done.append("again"))
    assert not workers.submit("waits", lambda: done.append("again"))
    assert workers.has("runs") and workers.has("waits") and not workers.has("other")
    assert not workers.wait(0.001)
    gate.set()
    assert workers.wait(30)
    assert workers.submit("waits", lambda: done.append("later"))
    assert workers.wait(30)
    assert done == ["waits", "later"]


def test_submit_again_while_it_runs_is_done_after_it():
    """Once, however often it was asked for; not where the first still waits for its turn."""
    workers, gate, started, done = Workers(1, "embed-test"), *map(make_event, "ab"), []
    workers.submit("runs", lambda: (started.set(), gate.wait(30)))
    started.wait(30)
    workers.submit("waits", lambda: done.append("waits"))
    for number in range(3):
        assert workers.submit("runs", lambda number=number: done.append(number), again=True)
        assert not workers.submit("waits", lambda: done.append("twice"), again=True)
    assert workers.waits("waits") and not workers.waits("runs")
    gate.set()
    assert workers.wait(30)
    assert done == ["waits", 2]


def test_give_up_lets_another_thread_take_its_place():
    """What hangs takes nothing more when it comes back, and its key is free at once."""
    workers, gate, started, done = Workers(1, "embed-test"), *map(make_event, "ab"), []
    workers.submit("hangs", lambda: (started.set(), gate.wait(30), done.append("late")))
    started.wait(30)
    workers.submit("next", lambda: done.append("next"))
    assert workers.give_up("hangs") and not workers.give_up("hangs")
    assert workers.wait(30)
    assert done == ["next"]
    assert workers.submit("hangs", lambda: done.append("anew"))
    assert workers.wait(30)
    gate.set()
    assert workers.submit("last", lambda: done.append("last"))
    assert workers.wait(30)
    assert [name for name in done if name != "late"] == ["next", "anew", "last"]


def make_event(name):
    """Return an event; the name is only for reading."""
    return threading.Event()


@pytest.mark.parametrize("count", [1, 2])
def test_submit_runs_so_many_at_once_and_no_more(count):
    """Both threads are at work, or the one."""
    workers, gate = Workers(count, "embed-test"), threading.Event()
    started = threading.Semaphore(0)
    for number in range(3):
        workers.submit(number, lambda: (started.release(), gate.wait(30)))
    for _ in range(count):
        assert started.acquire(timeout=30)
    assert not started.acquire(timeout=0.005)
    gate.set()
    assert workers.wait(30)


def test_work_that_raises_is_logged_and_the_worker_goes_on(caplog):
    """Even what no one may catch elsewhere."""
    workers, done = Workers(1, "embed-test"), []

    def fail():
        raise SystemExit("no")

    workers.submit(1, fail)
    workers.submit(2, lambda: done.append(2))
    assert workers.wait(30)
    assert done == [2]
    assert "work in the background failed" in caplog.text


def test_stop_forgets_what_waits_and_takes_nothing_more():
    """What runs is left to end."""
    workers, gate, started, done = Workers(1, "embed-test"), *map(make_event, "ab"), []
    workers.submit(1, lambda: (started.set(), gate.wait(30), done.append(1)))
    started.wait(30)
    workers.submit(2, lambda: done.append(2))
    workers.stop()
    assert not workers.submit(3, lambda: done.append(3))
    gate.set()
    assert workers.wait(30)
    assert done == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the process's")
def test_worker_yields_to_other_threads():
    """It and the threads it starts have a lower priority; the caller keeps its own."""
    workers, seen = Workers(1, "embed-test"), []

    def look():
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def look_twice():
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    workers.submit(1, look_twice)
    assert workers.wait(30)
    assert seen == [min(19, NICENESS)] * 2
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_clock_calls_at_once_then_when_rung_until_false(caplog):
    """An error is logged and does not end it."""
    calls, called = [], threading.Semaphore(0)

    def function():
        calls.append(1)
        called.release()
        if len(calls) == 1:
            raise ValueError("once")
        return len(calls) < 3

    clock = Clock(1_000, function, "embed-test")
    for _ in range(3):
        assert called.acquire(timeout=30)
        clock.ring()
    clock.ring()
    assert not called.acquire(timeout=0.005)
    assert "looking for work in the background failed" in caplog.text


def test_clock_stopped_calls_no_more():
    """Not even when it is rung."""
    called = threading.Semaphore(0)
    clock = Clock(1_000, lambda: called.release() is None, "embed-test")
    assert called.acquire(timeout=30)
    clock.stop()
    clock.ring()
    assert not called.acquire(timeout=0.005)
