"""The sqlite-utils plugin: the SQL functions in ``sqlite-utils`` commands and ``Database``.

Layer 12: imports ``sql_functions``. sqlite-utils loads this module for every command, and
calls its hook for every ``Database`` that any program makes, LLM and Datasette's plugins
among them. So it imports only what is light, it adds functions and does nothing else: it
reads no file and changes no setting of the connection.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import hookimpl


@hookimpl
def prepare_connection(conn: sqlite3.Connection) -> None:
    """Give the connection the SQL functions, unless it has them."""
    if not _is_registered(conn):
        from .sql_functions import register

        register(conn, widen_page_cache=False)


def _is_registered(conn: sqlite3.Connection) -> bool:
    """Say whether the connection has our functions.

    A plugin of Datasette may wrap one of its connections in a ``Database``: the functions
    there keep that Datasette's models and limits, which those of a script do not have.
    """
    try:
        conn.execute("select llm_embed_dimensions(null)").close()
    except Exception:  # of sqlite3, pysqlite3 or sqlean, each with errors of its own
        return False
    return True
