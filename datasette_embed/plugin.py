"""Plugin: every Datasette hook of this package, each a few lines that call the rest.

Layer 11. Imported by every ``datasette`` command, so it imports only what is light, and
the rest inside the hooks. No logic belongs here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

from .hookspecs import add_hookspecs_when_loading

# Datasette's own marker is this one; importing it would load Datasette into every tool
# that knows this package as a plugin.
hookimpl = HookimplMarker("datasette")

if TYPE_CHECKING:
    import click
    from datasette.app import Datasette

add_hookspecs_when_loading()


# Last in, so that our functions replace those of the same name of datasette-llm-embed.
@hookimpl(trylast=True)
def prepare_connection(conn: sqlite3.Connection, datasette: Datasette) -> None:
    """Give the connection the SQL functions."""
    from .sql_functions import prepare

    prepare(conn, datasette)


@hookimpl
def startup(datasette: Datasette) -> None:
    """Refuse a wrong config, and make errors of SQL functions readable."""
    from .server import start

    start(datasette)


@hookimpl
def asgi_wrapper(datasette: Datasette) -> Callable[[Any], Any]:
    """Load the models that SQL will call, once a server runs."""
    from .server import warm_when_serving

    return warm_when_serving(datasette)


@hookimpl
def register_commands(cli: click.Group) -> None:
    """Add ``datasette embed``."""
    from .cli import register

    register(cli)


@hookimpl
def register_routes() -> list[tuple[str, Callable[..., Any]]]:
    """Add the page of models."""
    from .web import routes

    return routes()
