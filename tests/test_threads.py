"""Threads: daemons that the end of the process waits for, but not for ever."""

from __future__ import annotations

import threading

from datasette_embed.threads import start_thread, wait_for_threads


def test_wait_for_threads_until_they_have_ended():
    """What is nearly done is let finish."""
    gate, done = threading.Event(), []
    start_thread(lambda: (gate.wait(30), done.append(1)), name="embed-test")
    gate.set()
    assert wait_for_threads(30)
    assert done == [1]


def test_wait_for_threads_hanging_one_is_given_up():
    """It is a daemon, with the name it was given."""
    gate, seen = threading.Event(), []
    start_thread(lambda: (seen.append(threading.current_thread()), gate.wait(30)), name="embed-x")
    assert not wait_for_threads(0.01)
    assert (seen[0].daemon, seen[0].name) == (True, "embed-x")
    gate.set()
    assert wait_for_threads(30)
