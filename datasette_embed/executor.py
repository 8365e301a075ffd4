"""Executor: carries the message of an error out of a SQL function to the user.

Layer 1: imports ``errors``, ``redaction`` and ``rollbacks``. SQLite replaces what a Python
function raises by "user-defined function raised exception". So a function records its message
in this thread, and ``wrap_executor`` makes each call that Datasette submits to its pool put
that message back. One submitted call is one ``Call``: what must be known per query, in the
thread that runs it, belongs there; what must be known per request comes with the context of the
task that submits. What fails only because another connection is rolling back is run once more.
If Datasette changes, the nicer text is lost, and who is asking: then models that cost something
are refused.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import re
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .errors import EmbedError
from .redaction import scrubbed
from .rollbacks import is_rollback

if TYPE_CHECKING:
    from datasette.app import Datasette

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

#: What the sqlite3 module says for any exception in a function or an aggregate
#: (Modules/_sqlite/connection.c, CPython 3.10 to 3.14).
GENERIC_MESSAGE = re.compile(
    r"user-defined (?:function raised exception|aggregate's '\w+' method raised error)"
)
UNEXPECTED = "internal error in {name}: {error}. The server's log has the details"


@dataclass
class Call:
    """What is known of the call that a pool thread is running.

    Attributes:
        error_message: what the SQL function that failed wants to say.
        started_at: when the call began, on the clock of ``time.perf_counter``.
    """

    error_message: str | None = None
    started_at: float = field(default_factory=lambda: perf_counter())


class _Thread(threading.local):
    call: Call | None = None


_thread = _Thread()


def current_call() -> Call | None:
    """Return the call this thread is running; None outside a wrapped executor."""
    return _thread.call


def record_error(error: BaseException) -> None:
    """Keep the error's message for the user of the query that this thread is running.

    For functions too hot to be wrapped by ``reports_errors``: they call it in their own
    except branch and raise again.
    """
    call = _thread.call
    if call is not None:
        call.error_message = error.in_sql if isinstance(error, EmbedError) else str(error)


def reports_errors(
    function: Callable[Arguments, Result], name: str | None = None
) -> Callable[Arguments, Result]:
    """Return a SQL function whose errors reach the user; ``name`` is its name in SQL.

    An ``EmbedError`` is shown as it is. Anything else is logged with its traceback and
    shown by type only, because its text may hold what it should not.
    """

    @functools.wraps(function)
    def reporting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except EmbedError as error:
            record_error(error)
            # Datasette has sqlite3 print what a function raises: a mistake in somebody's
            # SQL is worth a line of the log, not our whole stack.
            error.__traceback__ = None
            raise
        except Exception as error:
            raise unexpected(error, name or function.__name__) from None

    return reporting


def unexpected(error: Exception, name: str) -> EmbedError:
    """Log an exception no one foresaw, and return the error to raise in its place.

    In its place, because sqlite3 turns an OverflowError or a MemoryError into texts of
    its own ("string or blob too big") that would mislead.
    """
    logger.error("internal error in %s", name, exc_info=scrubbed(error))
    shown = EmbedError(UNEXPECTED.format(name=name, error=type(error).__name__))
    record_error(shown)
    return shown


def wrap_executor(datasette: Datasette) -> None:
    """Make errors of SQL functions readable in this Datasette's pages and JSON.

    Calling it again does nothing. It never raises.
    """
    try:
        executor: Any = datasette.executor
        if executor is None or hasattr(executor, "datasette_embed_submit"):
            return  # num_sql_threads=0 has no pool to wrap
        submit = executor.submit

        @functools.wraps(submit)
        def submit_wrapped(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            # Here, in the submitting task, is where its context can be copied.
            context = contextvars.copy_context()
            return submit(context.run, _run, function, *args, **kwargs)

        executor.datasette_embed_submit = submit
        executor.submit = submit_wrapped
    except Exception:
        logger.exception("errors of SQL functions will lack their message")


def _run(function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Result:
    """Run one submitted call, and give a generic SQL error the message it stands for."""
    from datasette.utils.sqlite import sqlite3

    outer, _thread.call = _thread.call, Call()
    try:
        try:
            return function(*args, **kwargs)
        except sqlite3.OperationalError as error:
            if not is_rollback(error):
                raise
            _release_frames(error)
        # Over by now: what Datasette has a pool for only reads, and can be read again.
        return function(*args, **kwargs)
    except sqlite3.OperationalError as error:
        message = _thread.call.error_message
        if message and error.args and GENERIC_MESSAGE.fullmatch(str(error.args[0])):
            error.args = (message,)
        _release_frames(error)
        raise
    except BaseException as error:
        _release_frames(error)
        raise
    finally:
        _thread.call = outer


def _release_frames(error: BaseException) -> None:
    """Let go of what the frames of a failed query hold, its cursor above all.

    Such an error often ends in a reference cycle. A cursor in it would be freed by the
    garbage collector, in any thread, which then waits for that cursor's connection; and if
    the connection is in use by a query that waits for a model, that thread may be the very
    one the model needs.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        current = current.__cause__ or current.__context__
