"""Open SQLite files, and say in plain words what SQLite says in its own.

Layer 1: imports ``errors``. Every connection the engine and the command line use is
opened here; Datasette's own connections are not. No table and no query belongs here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

# Datasette prefers pysqlite3 where it is installed; its exceptions are other classes
# than the standard library's, so everybody takes the module from here.
from datasette.utils.sqlite import sqlite3

from .errors import SourceError

__all__ = [
    "check_writable",
    "open_database",
    "quoted",
    "sqlite3",
    "translated",
    "write_transaction",
]

BUSY_TIMEOUT_SECONDS = 5.0

#: What SQLite says, and what a person can do about it.
_REASONS = {
    "is locked": "is locked by another program: wait or close it, then run this again",
    "readonly database": "is read-only: make the file and its folder writable, or put the "
    "vectors in a file of their own with --into",
    "not a database": "is not a SQLite database",
    "file is encrypted": "is not a SQLite database, or is encrypted",
    "malformed": "is damaged: SQLite finds the file malformed",
    "disk is full": "cannot be written: the disk is full",
    "disk I/O error": "cannot be read or written: the disk reports an I/O error",
    "unable to open database file": "cannot be opened: check the path and its permissions",
}


def quoted(name: str) -> str:
    """Return a table or column name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def open_database(
    path: str | Path, *, writable: bool = False, create: bool = False
) -> sqlite3.Connection:
    """Open a SQLite file in autocommit mode; the caller closes it.

    Args:
        path: the file.
        writable: open for writing; otherwise nothing can be written, not even by mistake.
        create: make the file when it is missing (with ``writable``).

    Raises:
        SourceError: a directory, a missing file, no SQLite database, no permission.
    """
    path = Path(path)
    if path.is_dir():
        raise SourceError(str(path), "is a directory, not a SQLite file")
    if not path.exists() and not create:
        raise SourceError(str(path), "no such file")
    mode = ("rwc" if create else "rw") if writable else "ro"
    with translated(path):
        try:
            return _connect(path, f"mode={mode}")
        except sqlite3.OperationalError as error:
            # A file in WAL mode inside a folder nobody may write to cannot be opened
            # read-only, unless we promise that it does not change. We cannot promise it
            # of a file that is locked, or that holds half a transaction.
            is_closed = "unable to open" in str(error)
            left_over = [Path(f"{path}{suffix}") for suffix in ("-wal", "-journal")]
            if writable or not is_closed or any(file.exists() for file in left_over):
                raise
            return _connect(path, "mode=ro&immutable=1")


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{options}"
    conn = sqlite3.connect(
        uri,
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_SECONDS,
        check_same_thread=False,
    )
    try:
        conn.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error:
        conn.close()
        raise
    return conn


@contextmanager
def translated(source: str | Path) -> Iterator[None]:
    """Turn what SQLite raises inside the block into a SourceError about ``source``."""
    try:
        yield
    except sqlite3.Error as error:
        message = str(error)
        for part, reason in _REASONS.items():
            if part in message:
                raise SourceError(str(source), reason) from error
        raise SourceError(str(source), message) from error


def check_writable(conn: sqlite3.Connection) -> None:
    """Raise sqlite3.OperationalError if nothing can be written now; the file stays as it is.

    Taking the write lock is not enough: on a read-only file SQLite quietly begins a
    transaction that only reads.
    """
    conn.execute("begin immediate")
    try:
        conn.execute("create table _embed_probe (x)")
    finally:
        if conn.in_transaction:
            conn.execute("rollback")


@contextmanager
def write_transaction(conn: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one ``BEGIN IMMEDIATE`` transaction: all of it is kept, or nothing.

    IMMEDIATE takes the write lock before anything is read, so that two writers wait for
    each other instead of failing half-way.
    """
    conn.execute("begin immediate")
    try:
        yield
        conn.execute("commit")
    except BaseException:
        if conn.in_transaction:
            conn.execute("rollback")
        raise
