"""Plugin: every Datasette hook of this package, each a few lines that call the rest.

Layer 12. Imported by every ``datasette`` command, so it imports only what is light, and
the rest inside the hooks. Hooks of one version of Datasette stand beside those of the
other: a hook that is unknown to the running one is never called. No logic belongs here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

from .hookspecs import add_hookspecs_when_loading

# Datasette's own marker is this one; importing it would load Datasette into every tool
# that knows this package as a plugin.
hookimpl = HookimplMarker("datasette")

if TYPE_CHECKING:
    import click
    from datasette import Request
    from datasette.app import Datasette

    from .compat import Actor

add_hookspecs_when_loading()


# Last in, so that our functions replace those of the same name of datasette-llm-embed.
@hookimpl(trylast=True)
def prepare_connection(conn: sqlite3.Connection, datasette: Datasette) -> None:
    """Make the file readable if a program was killed, and give the SQL functions."""
    from .database import undo_left_over
    from .sql_functions import prepare

    undo_left_over(conn)
    prepare(conn, datasette)


@hookimpl
def startup(datasette: Datasette) -> None:
    """Refuse a wrong config, and make errors of SQL functions readable."""
    from .server import start

    start(datasette)


@hookimpl(specname="startup")
def start_jobs(datasette: Datasette) -> None:
    """Go on with interrupted jobs once the server runs (Datasette 1.0)."""
    from .runner import start_with_server

    start_with_server(datasette)


@hookimpl
def shutdown(datasette: Datasette) -> Awaitable[None]:
    """Let the jobs of this server end with the batch in flight (Datasette 1.0)."""
    from .runner import stop

    return stop(datasette)


@hookimpl
def asgi_wrapper(datasette: Datasette) -> Callable[[Any], Any]:
    """Know which request asks for what, and work in the background once a server runs."""
    from .server import wrap_application

    return wrap_application(datasette)


@hookimpl(specname="asgi_wrapper")
def run_jobs(datasette: Datasette) -> Callable[[Any], Any]:
    """Go on with interrupted jobs once a server runs, and end them with it (Datasette 0.65)."""
    from .runner import wrap_application

    return wrap_application(datasette)


# First, because the first hook that knows the actor ends the round.
@hookimpl(tryfirst=True)
def actor_from_request(request: Request) -> None:
    """Keep the request where a SQL function can see who is asking; names no actor."""
    from .budgets import note_request

    note_request(request)


@hookimpl
def register_commands(cli: click.Group) -> None:
    """Add ``datasette embed``."""
    from .cli import register

    register(cli)


@hookimpl
def register_routes() -> list[tuple[str, Callable[..., Any]]]:
    """Add the pages and the API."""
    from .web import routes

    return routes()


@hookimpl
def register_actions(datasette: Datasette) -> list[Any]:
    """Name the actions that can be allowed or denied (Datasette 1.0)."""
    from .access import actions

    return actions()


@hookimpl
def permission_resources_sql(
    datasette: Datasette, actor: Actor, action: str
) -> Awaitable[Any] | None:
    """Say who may do what (Datasette 1.0)."""
    from .access import permission_rules

    return permission_rules(datasette, actor, action)


# First: whatever another plugin says about our actions counts for more.
@hookimpl(tryfirst=True)
def permission_allowed(
    datasette: Datasette, actor: Actor, action: str, resource: Any
) -> Awaitable[bool | None] | None:
    """Say who may create collections and use models (Datasette 0.65)."""
    from .access import default_verdict

    return default_verdict(datasette, actor, action, resource)


# Last: nobody else's yes opens the tables that hold what came from a private one.
@hookimpl(specname="permission_allowed", trylast=True)
def hidden_tables(
    datasette: Datasette, actor: Actor, action: str, resource: Any
) -> Awaitable[bool | None] | None:
    """Hide our own tables from those who may not see a source (Datasette 0.65)."""
    from .access import hiding_verdict

    return hiding_verdict(datasette, actor, action, resource)


@hookimpl
def filters_from_request(
    request: Request, database: str, table: str, datasette: Datasette
) -> Awaitable[Any] | None:
    """Filter a table page by ``?_similar=`` and ``?_similar_to=``."""
    from .web.table_filters import similar_filter

    return similar_filter(datasette, request, database, table)


@hookimpl(specname="filters_from_request")
def hidden_search_tables(
    request: Request, database: str, datasette: Datasette
) -> Awaitable[None] | None:
    """Search no hidden table by ``?_fts_table=`` (Datasette 0.65)."""
    from .access import refuse_hidden_search

    return refuse_hidden_search(datasette, request, database)


@hookimpl
def render_cell(
    row: Any, value: Any, column: str, table: str | None, database: str, datasette: Datasette
) -> Awaitable[str | None] | str | None:
    """Show a vector as what it is."""
    from .web.cells import render_vector

    return render_vector(datasette, database, table, column, value, row)


@hookimpl
def register_column_types(datasette: Datasette) -> list[Any]:
    """Add the column type ``embedding`` (Datasette 1.0)."""
    from .web.column_types import column_types

    return column_types()


@hookimpl
def track_event(datasette: Datasette, event: Any) -> None:
    """Bring watched collections up to date when rows were written (Datasette 1.0)."""
    from .runner import note_event

    note_event(datasette, event)


# -- links to our pages from Datasette's -----------------------------------------------


@hookimpl
def menu_links(datasette: Datasette, actor: Actor, request: Request) -> Any:
    """Link the collections in the menu of every page."""
    from .web.entry_points import menu_links

    return menu_links(datasette, request)


@hookimpl
def homepage_actions(datasette: Datasette, request: Request) -> Any:
    """Link the collections on the first page (Datasette 1.0)."""
    from .web.entry_points import menu_links

    return menu_links(datasette, request)


@hookimpl
def database_actions(datasette: Datasette, database: str, request: Request) -> Any:
    """Link the collections of a database."""
    from .web.entry_points import database_actions

    return database_actions(datasette, request, database)


@hookimpl
def table_actions(datasette: Datasette, database: str, table: str, request: Request) -> Any:
    """Offer to embed a table, and to search it by meaning."""
    from .web.entry_points import table_actions

    return table_actions(datasette, request, database, table)


@hookimpl
def view_actions(datasette: Datasette, database: str, view: str, request: Request) -> Any:
    """Offer the same for a view (Datasette 1.0)."""
    from .web.entry_points import table_actions

    return table_actions(datasette, request, database, view)


@hookimpl
def query_actions(
    datasette: Datasette, database: str, query_name: str | None, request: Request, sql: str
) -> Any:
    """Offer to embed what a query returns (Datasette 1.0)."""
    from .web.entry_points import query_actions

    return query_actions(datasette, request, database, query_name, sql)


@hookimpl
def row_actions(datasette: Datasette, request: Request, database: str, table: str, row: Any) -> Any:
    """Link the rows like this one (Datasette 1.0)."""
    from .web.entry_points import row_actions

    return row_actions(datasette, request, database, table, row)


@hookimpl
def top_row(datasette: Datasette, request: Request, database: str, table: str, row: Any) -> Any:
    """Show the rows nearest to this one above it (Datasette 1.0)."""
    from .web.entry_points import top_row

    return top_row(datasette, request, database, table, row)


@hookimpl
def jump_items_sql(datasette: Datasette, actor: Actor, request: Request) -> Any:
    """Find collections in the jump menu (Datasette 1.0)."""
    from .web.entry_points import jump_items_sql

    return jump_items_sql(datasette, request)


@hookimpl
def extra_body_script(
    database: str | None, table: str | None, view_name: str, request: Request, datasette: Datasette
) -> Any:
    """Link the rows like this one under the title of its page (Datasette 0.65)."""
    from .web.entry_points import row_page_script

    return row_page_script(datasette, request, database, table, view_name)


@hookimpl
def skip_csrf(scope: Any) -> bool:
    """Look at the token of a form with an image ourselves (Datasette 0.65)."""
    from .web.uploads import is_upload

    return is_upload(scope)


@hookimpl
def extra_template_vars(request: Request, datasette: Datasette) -> dict[str, Any]:
    """Give templates of a site the rows nearest to a text or a row."""
    from .web.template_functions import template_functions

    return template_functions(datasette, request)
