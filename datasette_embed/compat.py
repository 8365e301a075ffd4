"""Compat: the only place that knows Datasette 0.65 from 1.0.

Layer 1: imports nothing of ours. Each function hides one difference; a difference that no
caller meets has no function here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from datasette.app import Datasette

Actor = Mapping[str, Any] | None


def is_version_one(datasette: Datasette | type[Datasette]) -> bool:
    """Return whether this instance, or class, is of Datasette 1.0, alphas included."""
    return hasattr(datasette, "allowed")


def queries_option() -> str:
    """Return the option of ``datasette serve`` that takes a file with queries in it."""
    from datasette.app import Datasette

    return "--config" if hasattr(Datasette, "allowed") else "--metadata"


def sql_url(
    datasette: Datasette, database: str, sql: str, params: Mapping[str, str] | None = None
) -> str:
    """Return the path of the page that runs this SQL, ``base_url`` included."""
    page = datasette.urls.database(database)
    if is_version_one(datasette):
        page += "/-/query"
    return f"{page}?{urlencode({'sql': sql, **(params or {})})}"


async def may_view_instance(datasette: Datasette, actor: Actor) -> bool:
    """Return whether the actor may see this Datasette at all."""
    if is_version_one(datasette):
        return bool(await datasette.allowed(action="view-instance", actor=actor))
    return bool(await datasette.permission_allowed(actor, "view-instance", default=True))


async def may_execute_sql(datasette: Datasette, actor: Actor, database: str) -> bool:
    """Return whether the actor may see this database and run SQL of their own on it."""
    if is_version_one(datasette):
        from datasette.resources import DatabaseResource

        return bool(
            await datasette.allowed(
                action="execute-sql", resource=DatabaseResource(database), actor=actor
            )
        )
    visible, _ = await datasette.check_visibility(
        actor, permissions=[("execute-sql", database), ("view-database", database), "view-instance"]
    )
    return bool(visible)


async def may_debug(datasette: Datasette, actor: Actor) -> bool:
    """Return whether the actor may see what concerns only who runs this site."""
    if actor is not None and actor.get("id") == "root":
        return True
    if is_version_one(datasette):
        return bool(await datasette.allowed(action="debug-menu", actor=actor))
    return bool(await datasette.permission_allowed(actor, "debug-menu", default=False))


def startup_error(message: str) -> Exception:
    """Return an exception that ``datasette serve`` shows as one line before it stops."""
    from datasette.utils import StartupError

    error: Exception = StartupError(message)
    return error


def find_time_limit() -> Callable[[], None] | None:
    """Return what gives the SQL query of this thread its whole time limit once more.

    For a SQL function that waits for a model. ``Database.execute`` sets a progress handler
    in an inner function ``sql_operation_in_thread`` that holds ``conn`` and
    ``time_limit_ms`` and removes the handler when the statement ends (database.py of 0.65.5
    and 1.0a41). It is found on the stack, because nothing else tells whether there is a
    limit: a limit set where Datasette set none would never be removed. Holding the
    connection in the function instead would keep it open for ever.

    Returns:
        None when the query has no limit, or when Datasette has changed.
    """
    frame = sys._getframe(1) if hasattr(sys, "_getframe") else None
    while frame is not None:
        if (
            frame.f_code.co_name == "sql_operation_in_thread"
            and frame.f_globals.get("__name__") == "datasette.database"
        ):
            names = frame.f_locals
            connection, limit_ms = names.get("conn"), names.get("time_limit_ms")
            if connection is not None and isinstance(limit_ms, int | float):
                return partial(_set_time_limit, connection, limit_ms)
            return None
        frame = frame.f_back
    return None


def _set_time_limit(connection: Any, limit_ms: float) -> None:
    deadline = perf_counter() + limit_ms / 1000

    def is_over() -> bool:
        return perf_counter() >= deadline

    # As often as Datasette itself looks: every 1000 instructions, about 0.08 ms.
    connection.set_progress_handler(is_over, 1000)
