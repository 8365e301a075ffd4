"""Wiring: the runner of each Datasette, started and stopped with its server.

Part of layer 10. A person's request starts the job it is about by itself; what is started
here is going on with interrupted ones, which only a server does, never ``datasette --get``.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from ..compat import has_background_tasks
from ..workers import Clock
from .waking import WAKE_SECONDS, has_collections_of_ours, writable_files

if TYPE_CHECKING:
    from datasette.app import Datasette

    from .core import Runner
    from .watcher import Watcher

#: The events of Datasette 1.0's API for writing rows.
_ROW_EVENTS = frozenset(("insert-rows", "upsert-rows", "update-row", "delete-row"))
logger = logging.getLogger(__name__)

#: Longest wait for the batch in flight when a server stops.
STOP_SECONDS = 3.0

Application = Callable[[Any, Any, Any], Awaitable[None]]

# Reentrant, for the garbage collector may end a Datasette in any thread at any moment.
_lock = threading.RLock()
#: Those of ``datasette --get``, which ends with its answer.
_answering_once: weakref.WeakSet[Any] = weakref.WeakSet()
_runners: weakref.WeakKeyDictionary[Any, Runner] = weakref.WeakKeyDictionary()
_watchers: weakref.WeakKeyDictionary[Any, Watcher] = weakref.WeakKeyDictionary()
_clocks: weakref.WeakKeyDictionary[Any, Clock] = weakref.WeakKeyDictionary()
_stopped: weakref.WeakSet[Any] = weakref.WeakSet()


def get_runner(datasette: Datasette) -> Runner:
    """Return the runner of a Datasette, made on the first call."""
    # Not before there is a job: they import numpy.
    from .core import Runner
    from .site import Site

    with _lock:
        runner = _runners.get(datasette)
        if runner is None:
            runner = _runners[datasette] = Runner(Site(datasette))
            weakref.finalize(datasette, runner.abandon)
        return runner


def get_watcher(datasette: Datasette) -> Watcher:
    """Return what looks at the watched tables of a Datasette, made on the first call."""
    from .site import Site
    from .watcher import Watcher

    with _lock:
        watcher = _watchers.get(datasette)
        if watcher is None:
            submit = get_runner(datasette).submit
            watcher = _watchers[datasette] = Watcher(Site(datasette), submit)
            weakref.finalize(datasette, watcher.stop)
        return watcher


def start_with_server(datasette: Datasette) -> None:
    """Have Datasette 1.0 start the runner when it begins to serve; 0.65 has no such thing."""
    if has_background_tasks(datasette):
        datasette.add_background_task(_start, name="datasette-embed-jobs")
        return
    # The request itself is answered in another thread, where click knows of nothing.
    context = click.get_current_context(silent=True)
    if context is not None and context.params.get("get"):
        _answering_once.add(datasette)


async def _start(datasette: Datasette) -> None:
    """Start what works in the background; the site works without it."""
    try:
        await asyncio.to_thread(_start_when_needed, datasette)
    except Exception:
        logger.exception("no job goes on by itself here")


def _start_when_needed(datasette: Datasette) -> None:
    """Start what looks after collections as soon as there are any, by whoever made them."""
    if not writable_files(datasette):
        return
    # It must neither keep the Datasette alive nor outlive it.
    reference = weakref.ref(datasette)

    def look() -> bool:
        site = reference()
        if site is None or site in _stopped:
            return False
        if not has_collections_of_ours(site):
            return True
        get_runner(site).start()
        get_watcher(site).start()
        return False

    with _lock:
        if datasette not in _clocks and datasette not in _stopped:
            clock = _clocks[datasette] = Clock(WAKE_SECONDS, look, "embed-wake")
            weakref.finalize(datasette, clock.stop)


async def stop(datasette: Datasette) -> None:
    """End the jobs of this server with the batch in flight; the next start goes on."""
    with _lock:
        _stopped.add(datasette)
        runner, watcher = _runners.get(datasette), _watchers.get(datasette)
        clock = _clocks.get(datasette)
    if clock is not None:
        clock.stop()
    if watcher is not None:
        watcher.stop()
    if runner is not None:
        await asyncio.to_thread(runner.stop, STOP_SECONDS)


@atexit.register
def stop_everything() -> None:
    """Let nothing begin another batch or another look while the process ends."""
    with _lock:
        watchers, runners = list(_watchers.values()), list(_runners.values())
        clocks = list(_clocks.values())
    for clock in clocks:
        clock.stop()
    for watcher in watchers:
        watcher.stop()
    for runner in runners:
        runner.stop()


def wrap_application(datasette: Datasette) -> Callable[[Application], Application]:
    """Return an ASGI wrapper that starts the runner of a server of 0.65, and stops it.

    There a task made in the startup hook never runs: ``datasette serve`` throws that event
    loop away.
    """
    if has_background_tasks(datasette):
        return lambda application: application

    def wrap(application: Application) -> Application:
        is_started = False

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            nonlocal is_started

            async def received() -> Any:
                message = await receive()
                if message["type"] == "lifespan.shutdown":
                    await stop(datasette)
                return message

            if not is_started and datasette not in _answering_once:
                is_started = True
                await _start(datasette)
            await application(scope, received if scope["type"] == "lifespan" else receive, send)

        return wrapped

    return wrap


def note_event(datasette: Datasette, event: Any) -> None:
    """Look at watched tables at once when rows were written over the API."""
    watcher = _watchers.get(datasette)
    if watcher is not None and event.name in _ROW_EVENTS:
        watcher.ring()
