"""``demo``: a searchable database made of what every Python has, opened in Datasette.

Layer 11. The rows come from ``stdlib_rows``; they are embedded by the same code as a
user's table.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import webbrowser
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlencode

import click

from ..amounts import rows_text
from ..database import open_database, translated, write_transaction
from ..errors import SourceError
from ..schema import columns_of, has_table
from ..sources import SourceSpec
from ..stdlib_rows import StdlibRow, iter_stdlib_rows
from .create import embed_table
from .output import say

TABLE = "functions"
TEMPLATE = "{{ id }} {{ doc }}"
QUERY = "remove a folder and everything in it"


@click.command()
@click.argument("db", type=click.Path(), default="demo.db")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of the server (default: the first free one)",
)
@click.option("-o", "--open", "open_page", is_flag=True, help="Open the page in a browser")
@click.option("--no-serve", is_flag=True, help="Make the file and stop")
def demo(db: str, port: int | None, open_page: bool, no_serve: bool) -> None:
    """Make a database of Python's own functions, and search it by meaning in Datasette.

    It takes about a minute, and no network. Interrupted, it goes on where it was.
    """
    if port and not no_serve:
        _check_free(port)
    _write_rows(db)
    embed_table(db, TABLE, SourceSpec(table=TABLE, template=TEMPLATE))
    if no_serve:
        return
    # Again, for that was a minute ago.
    port = _check_free(port) if port else _free_port()
    url = _url(db, port)
    say(f"\nSearch it at {url}\n")
    if open_page:
        threading.Thread(target=_open_when_up, args=(url, port), daemon=True).start()
    # Datasette's own command, so that every option and message is what a user knows.
    from datasette.cli import cli

    cli.main(args=["serve", db, "--port", str(port)], standalone_mode=False)


def _write_rows(db: str) -> None:
    """Create and fill the table, unless that was done before.

    Raises:
        SourceError: the file exists and is something else than this demo.
    """
    with closing(open_database(db, writable=True, create=True)) as conn, translated(db):
        if has_table(conn, TABLE) and set(StdlibRow._fields) <= columns_of(conn, TABLE):
            return
        # An empty file is what an interruption before the first write leaves behind.
        if conn.execute("select 1 from sqlite_master").fetchone():
            raise SourceError(db, "exists and is not the demo: name another file")
        say("Reading the functions and classes of Python's standard library …")
        rows = list(iter_stdlib_rows())
        if not rows:
            raise SourceError(db, "this Python comes without the sources of its library")
        columns = ", ".join(
            f"{name} text primary key" if name == "id" else f"{name} text"
            for name in StdlibRow._fields
        )
        marks = ", ".join("?" * len(StdlibRow._fields))
        with write_transaction(conn):
            conn.execute(f"create table {TABLE} ({columns})")
            conn.executemany(f"insert into {TABLE} values ({marks})", rows)
        say(f"Wrote {rows_text(len(rows))} to {db}")


def _url(db: str, port: int) -> str:
    """Return the address of the search page, as Datasette encodes it."""
    from datasette.utils import tilde_encode

    page = f"{tilde_encode(Path(db).stem)}/-/embed/c/{TABLE}"
    return f"http://127.0.0.1:{port}/{page}?{urlencode({'q': QUERY})}"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        if os.name == "posix":
            # As the server does: a port whose last user has just gone is free. On other
            # systems the option would take a port away from its user.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def _check_free(port: int) -> int:
    """Return the port.

    Raises:
        SourceError: nothing can listen on it.
    """
    if not _is_free(port):
        raise SourceError(f"port {port}", "is taken or not allowed: name another with --port")
    return port


def _free_port(first: int = 8001, last: int = 8099) -> int:
    for port in range(first, last + 1):
        if _is_free(port):
            return port
    raise SourceError(f"ports {first} to {last}", "are all taken: name one with --port")


def _open_when_up(url: str, port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                webbrowser.open(url)
                return
        time.sleep(0.1)
