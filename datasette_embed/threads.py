"""Threads: work that goes on when whoever asked for it has given up.

Layer 1: imports nothing of ours. The threads are daemons, so that a provider that hangs
cannot keep the process from ending. But a daemon thread that is inside onnxruntime or
torch when the interpreter ends aborts the process (before Python 3.14, it is unwound
through C++ that does not allow it): so the end waits a moment for them. No pool of the
standard library: those are joined at the end, however long that takes.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

#: Longest wait for all our threads at the end of the process.
EXIT_WAIT_SECONDS = 3.0

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def start_thread(target: Callable[..., object], *args: Any, name: str) -> None:
    """Run the target in a daemon thread of this name.

    Raises:
        RuntimeError: no thread can be started here.
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    _threads.add(thread)


def wait_for_threads(seconds: float = EXIT_WAIT_SECONDS) -> bool:
    """Wait until all our threads have ended, at most so long; return whether they have."""
    deadline = monotonic() + seconds
    for thread in list(_threads):
        thread.join(max(0.0, deadline - monotonic()))
    return not any(thread.is_alive() for thread in _threads)


atexit.register(wait_for_threads)
