"""Compat: the only place that knows Datasette 0.65 from 1.0.

Layer 1: imports nothing of ours. Each function hides one difference; a difference that no
caller meets has no function here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from datasette.app import Datasette
    from datasette.database import Database

Actor = Mapping[str, Any] | None

#: Datasette answers for no more resources at once.
_LARGEST_PAGE = 1_000


def is_version_one(datasette: Datasette | type[Datasette]) -> bool:
    """Return whether this instance, or class, is of Datasette 1.0, alphas included."""
    return hasattr(datasette, "allowed")


def sql_url(
    datasette: Datasette, database: str, sql: str, params: Mapping[str, str] | None = None
) -> str:
    """Return the path of the page that runs this SQL, ``base_url`` included."""
    page = datasette.urls.database(database)
    if is_version_one(datasette):
        page += "/-/query"
    return f"{page}?{urlencode({'sql': sql, **(params or {})})}"


def database_color(database: Database) -> str:
    """Return the colour of a database, as six hexadecimal digits."""
    color = getattr(database, "color", None)
    if color is None:  # 0.65 keeps it in its views
        color = database.hash[:6] if database.hash else "ff0000"
    return str(color)


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


def is_root(datasette: Datasette, actor: Actor) -> bool:
    """Return whether this is who runs the site, with all that is theirs.

    Datasette 1.0 has a root user with ``--root`` only, and tokens that are theirs in part.
    """
    return (
        actor is not None
        and actor.get("id") == "root"
        and "_r" not in actor
        and bool(getattr(datasette, "root_enabled", True))
    )


async def may_debug(datasette: Datasette, actor: Actor) -> bool:
    """Return whether the actor may see what concerns only who runs this site."""
    if is_version_one(datasette):
        return bool(await datasette.allowed(action="debug-menu", actor=actor))
    return bool(await datasette.permission_allowed(actor, "debug-menu", default=False))


async def may_view_database(datasette: Datasette, actor: Actor, database: str) -> bool:
    """Return whether the actor may see this database."""
    if is_version_one(datasette):
        from datasette.resources import DatabaseResource

        resource = DatabaseResource(database)
        return bool(await datasette.allowed(action="view-database", resource=resource, actor=actor))
    visible, _ = await datasette.check_visibility(
        actor, permissions=[("view-database", database), "view-instance"]
    )
    return bool(visible)


async def may_view_table(datasette: Datasette, actor: Actor, database: str, table: str) -> bool:
    """Return whether the actor may see this table or view, as its own page decides."""
    if is_version_one(datasette):
        from datasette.resources import TableResource

        resource = TableResource(database, table)
        return bool(await datasette.allowed(action="view-table", resource=resource, actor=actor))
    visible, _ = await datasette.check_visibility(
        actor,
        permissions=[
            ("view-table", (database, table)),
            ("view-database", database),
            "view-instance",
        ],
    )
    return bool(visible)


async def viewable_tables(datasette: Datasette, actor: Actor, database: str) -> set[str]:
    """Return the tables and views of a database that the actor may see, by one question.

    Datasette 1.0 answers for those of its catalog; 0.65 has no such question. So of a table
    that is not among them ``may_view_table`` has to be asked.
    """
    names: set[str] = set()
    if not is_version_one(datasette):
        return names
    following = None
    while True:
        page = await datasette.allowed_resources(
            "view-table", actor, parent=database, limit=_LARGEST_PAGE, next=following
        )
        names.update(resource.child for resource in page.resources)
        following = page.next
        if not following:
            return names


async def find_query(datasette: Datasette, actor: Actor, database: str, name: str) -> str | None:
    """Return the SQL of a saved query, or None where there is none that the actor may see."""
    if is_version_one(datasette):
        from datasette.resources import QueryResource

        query = await datasette.get_query(database, name)
        resource = QueryResource(database, name)
        may_view = query and await datasette.allowed(
            action="view-query", resource=resource, actor=actor
        )
        return str(query.sql) if query and may_view else None
    found = await datasette.get_canned_query(database, name, actor)
    if not found:
        return None
    visible, _ = await datasette.check_visibility(
        actor,
        permissions=[
            ("view-query", (database, name)),
            ("view-database", database),
            "view-instance",
        ],
    )
    return str(found["sql"]) if visible else None


async def is_allowed(datasette: Datasette, actor: Actor, action: str, resource: str) -> bool:
    """Return whether an action of ours is allowed on a database or a model; no by default."""
    if is_version_one(datasette):
        found = datasette.resource_for_action(action, resource, None)
        return bool(await datasette.allowed(action=action, resource=found, actor=actor))
    return bool(await datasette.permission_allowed(actor, action, resource, default=False))


def context_apart(datasette: Datasette) -> Context:
    """Return a copy of the current context in which no answer about permissions is kept.

    Datasette 1.0 keeps the answers of a request in a ContextVar. It is private: where it is
    gone, an empty context is as good but for ``SkipPermissions``.
    """
    if not is_version_one(datasette):
        return copy_context()
    from datasette import permissions

    cache = getattr(permissions, "_permission_check_cache", None)
    if cache is None:
        return Context()
    context = copy_context()
    context.run(cache.set, None)
    return context


def is_about_tables(datasette: Datasette, action: str) -> bool:
    """Return whether an action is about one table, for Datasette 1.0."""
    from datasette.resources import TableResource

    found = datasette.actions.get(action)
    return found is not None and found.resource_class is TableResource


def has_config_rule(datasette: Datasette, action: str) -> bool:
    """Return whether ``permissions:`` of the whole site names an action; never on 0.65."""
    if not is_version_one(datasette):
        return False
    return action in ((datasette.config or {}).get("permissions") or {})


def may_others_decide(datasette: Datasette, action: str) -> bool:
    """Return whether a plugin, or ``permissions:`` of the site, may decide about an action.

    If not, the answer is ours alone, whoever asks: but for an actor with restrictions.
    """
    from datasette.plugins import pm

    is_one = is_version_one(datasette)
    hook = pm.hook.permission_resources_sql if is_one else pm.hook.permission_allowed
    ours = ("datasette", __name__.partition(".")[0])
    if any(
        found.function.__module__.partition(".")[0] not in ours for found in hook.get_hookimpls()
    ):
        return True
    if not is_one:
        return False
    config = datasette.config or {}
    blocks = [config, *(config.get("databases") or {}).values()]
    return any(action in ((block or {}).get("permissions") or {}) for block in blocks)


def database_action(name: str, description: str) -> Any:
    """Return an action on a database, for Datasette 1.0."""
    from datasette.permissions import Action
    from datasette.resources import DatabaseResource

    return Action(
        name=name,
        description=description,
        resource_class=DatabaseResource,
        also_requires="view-database",
    )


def named_action(
    name: str, description: str, resource: str, list_names: Callable[[Datasette], Iterable[str]]
) -> Any:
    """Return an action on things that have a name and belong to no database, for 1.0.

    Args:
        resource: what one of them is called.
        list_names: returns all their names.
    """
    from datasette.permissions import Action, Resource

    async def resources_sql(cls: Any, datasette: Datasette, actor: Actor = None) -> str:
        # No parameters can be given along.
        text = json.dumps(list(list_names(datasette))).replace("'", "''")
        return f"SELECT value AS parent, NULL AS child FROM json_each('{text}')"

    members = {"name": resource, "parent_class": None, "resources_sql": classmethod(resources_sql)}
    return Action(
        name=name,
        description=description,
        resource_class=type(f"{resource.title()}Resource", (Resource,), members),
    )


def permission_sql(
    action: str, resources: Iterable[tuple[str | None, str | None]], *, allow: bool, reason: str
) -> Any:
    """Return rules that allow or deny an action on (parent, child) pairs, for Datasette 1.0.

    None and None is everything. Returns None when there are no pairs.
    """
    from datasette.permissions import PermissionSQL

    rows = [list(pair) for pair in resources]
    if not rows:
        return None
    # Of one action, since the rules of two may be put into one query.
    key = re.sub(r"\W", "_", f"{action}_{'allow' if allow else 'deny'}_rules")
    return PermissionSQL(
        sql=(
            "SELECT json_extract(value, '$[0]') AS parent, json_extract(value, '$[1]') AS child,"
            f" {int(allow)} AS allow, '{reason}' AS reason FROM json_each(:{key})"
        ),
        params={key: json.dumps(rows)},
    )


def public_plugin_config(datasette: Datasette, plugin: str) -> Mapping[str, Any]:
    """Return the config of a plugin as it stands in a page that anybody may open.

    Datasette 1.0 shows config to nobody, or without what is named like a secret. What was
    left in its metadata is moved into the config before.
    """
    if is_version_one(datasette):
        return {}
    found = (datasette.metadata("plugins") or {}).get(plugin)
    return found if isinstance(found, Mapping) else {}


def forbidden(message: str) -> Exception:
    """Return an exception that Datasette answers with its page of status 403."""
    from datasette import Forbidden

    error: Exception = Forbidden(message)
    return error


def has_background_tasks(datasette: Datasette) -> bool:
    """Return whether this Datasette starts background tasks when it begins to serve."""
    return hasattr(datasette, "add_background_task")


def startup_error(message: str) -> Exception:
    """Return an exception that ``datasette serve`` shows as one line before it stops.

    1.0 makes such a line of a ``StartupError`` wherever it comes from; 0.65 does not of one
    that a plugin raises, and click does it.
    """
    from click import ClickException
    from datasette.utils import StartupError

    class OneLine(StartupError, ClickException):  # type: ignore[misc]
        """A ``StartupError`` that click shows without a traceback."""

    return OneLine(message)


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
