"""Open SQLite files, and say in plain words what SQLite says in its own.

Layer 1: imports ``errors`` and ``rollbacks``. Every connection the engine and the command line
use is opened here; Datasette's own connections are not. No table and no query belongs here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

# Datasette prefers pysqlite3 where it is installed; its exceptions are other classes
# than the standard library's, so everybody takes the module from here.
from datasette.utils.sqlite import sqlite3

from .errors import DatabaseLockedError, EmbedError, SourceError
from .rollbacks import is_rollback

if TYPE_CHECKING:
    from sqlite_utils import Database

MEMORY = ":memory:"
#: What a caller may keep collections in: sqlite-utils' object, a connection, a file's path.
DatabaseLike: TypeAlias = "Database | sqlite3.Connection | str | Path"

__all__ = [
    "Connection",
    "DatabaseLike",
    "DeadlineError",
    "adopt_database",
    "check_takes_writes",
    "check_writable",
    "deadline",
    "is_missing_file",
    "lock_of",
    "open_database",
    "patient",
    "quoted",
    "read_snapshot",
    "sqlite3",
    "translated",
    "write_transaction",
]

BUSY_TIMEOUT_SECONDS = 5.0

#: What SQLite says, and what a person can do about it.
_LOCKED = "is locked"
_REASONS = {
    _LOCKED: "is locked by another program: wait or close it, then run this again",
    "readonly database": "is read-only: make the file and its folder writable, or keep the "
    "vectors in another file",
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
    try:
        is_directory, is_there = path.is_dir(), path.exists()
        str(path).encode("utf-8")  # which is how SQLite is given names
    except OSError as error:  # a name that is too long
        raise SourceError(str(path), f"cannot be opened: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise SourceError(ascii(str(path)), "cannot be opened: its name is not UTF-8") from error
    if is_directory:
        raise SourceError(str(path), "is a directory, not a SQLite file")
    if not is_there and not create:
        raise SourceError(str(path), "no such file")
    mode = ("rwc" if create else "rw") if writable else "ro"
    with translated(path):
        if not writable:
            _roll_back_journal(path)
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


def _roll_back_journal(path: Path) -> None:
    """Undo what a killed program left half written, which a reader may not do.

    SQLite does that when the file is opened for writing; where that is not possible, opening
    for reading says why.
    """
    if Path(f"{path}-journal").exists():
        with suppress(sqlite3.Error):
            _connect(path, "mode=rw").close()


def undo_left_over(conn: sqlite3.Connection) -> None:
    """Undo what a killed program left half written in the file of a connection of another's.

    Datasette opens files for reading, and says of such a file that it cannot be used: a site
    that was killed while it wrote would not start again. A connection that takes the file for
    immutable never looks at a journal, so nothing happens to its file.
    """
    path = conn.execute("pragma database_list").fetchone()[2]
    if not path or not Path(f"{path}-journal").exists():
        return
    try:
        conn.execute("select 1 from sqlite_master limit 1").fetchone()
    except sqlite3.Error as error:  # whatever else it is, the next to read will say it
        if is_rollback(error):
            _roll_back_journal(Path(path))


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{options}"
    conn = sqlite3.connect(
        uri,
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_SECONDS,
        check_same_thread=False,
        factory=Connection,
    )
    try:
        conn.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error:
        conn.close()
        raise
    return conn


#: Seconds to wait, try after try, for another connection to finish a rollback.
_ROLLBACK_WAITS = (0.0, 0.001, 0.01, 0.1)


class _Cursor(sqlite3.Cursor):  # type: ignore[misc]  # either module
    """Tries again what SQLite refuses because another connection is rolling back.

    See ``rollbacks.is_rollback``. Nothing was read yet, so trying again is safe.
    """

    def execute(self, *args: Any) -> sqlite3.Cursor:
        for seconds in _ROLLBACK_WAITS:
            try:
                return super().execute(*args)
            except sqlite3.OperationalError as error:
                if not is_rollback(error):
                    raise
            sleep(seconds)
        return super().execute(*args)


class Connection(sqlite3.Connection):  # type: ignore[misc]  # either module
    """A connection that another one's rollback does not disturb.

    That matters where it may not write: it was opened so, or nobody may write to the file.
    """

    def cursor(self, factory: type[sqlite3.Cursor] = _Cursor) -> sqlite3.Cursor:
        return super().cursor(factory)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return self.cursor().execute(*args)


@contextmanager
def translated(source: str | Path) -> Iterator[None]:
    """Turn what SQLite raises inside the block into a SourceError about ``source``.

    That is a DatabaseLockedError where another program holds the file's lock.
    """
    try:
        yield
    except sqlite3.Error as error:
        message = str(error)
        for part, reason in _REASONS.items():
            if part in message:
                kind = DatabaseLockedError if part == _LOCKED else SourceError
                raise kind(str(source), reason) from error
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


def check_takes_writes(conn: sqlite3.Connection) -> None:
    """Raise sqlite3.OperationalError if a collection cannot be written to now.

    Unlike ``check_writable`` it leaves alone what the caller reads over this connection.
    """
    with write_transaction(conn):
        conn.execute("update collections set id = id where 0")


class DeadlineError(EmbedError):
    """SQLite was stopped, for the ``seconds`` it had are over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"takes longer than {seconds:g} seconds")


@contextmanager
def deadline(conn: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Stop what the block asks of a connection after so many seconds.

    For what a file says that may be a stranger's: a view or a condition can be made to run
    for ever.

    Raises:
        DeadlineError: instead of what the block raises when it is stopped.
    """
    end = perf_counter() + seconds
    conn.set_progress_handler(lambda: perf_counter() > end, _INSTRUCTIONS_PER_LOOK)
    try:
        yield
    except (sqlite3.Error, SourceError) as error:
        if perf_counter() > end:
            raise DeadlineError(seconds) from error
        raise
    finally:
        conn.set_progress_handler(None, 0)


#: SQLite's instructions between two looks at the clock, about 0.1 ms.
_INSTRUCTIONS_PER_LOOK = 1_000


@contextmanager
def read_snapshot(conn: sqlite3.Connection) -> Iterator[None]:
    """Let everything the block reads be of one moment."""
    if conn.in_transaction:
        yield
        return
    conn.execute("begin")
    try:
        yield
    finally:
        if conn.in_transaction:  # some errors end it
            conn.execute("rollback")


#: How long something paid for waits to be written while another program is writing.
PATIENCE_MS = 60_000


@contextmanager
def patient(conn: sqlite3.Connection) -> Iterator[None]:
    """Let the block wait for other writers longer than a connection usually does."""
    before = conn.execute("pragma busy_timeout").fetchone()[0]
    conn.execute(f"pragma busy_timeout = {max(before, PATIENCE_MS)}")
    try:
        yield
    finally:
        conn.execute(f"pragma busy_timeout = {before}")


# A connection takes no weak reference, so locks are found by its address. Two connections
# that meet in one lock wait for each other now and then, and no harm is done.
_LOCKS = [threading.RLock() for _ in range(1_024)]


def lock_of(conn: sqlite3.Connection) -> AbstractContextManager[object]:
    """Return the lock of a connection, for objects in several threads that share it.

    To be held around statements, not while a model computes.
    """
    return _LOCKS[(id(conn) >> 4) % len(_LOCKS)]


@contextmanager
def write_transaction(conn: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one ``BEGIN IMMEDIATE`` transaction: all of it is kept, or nothing.

    IMMEDIATE takes the write lock before anything is read, so that two writers wait for
    each other instead of failing half-way. Inside a transaction of the caller it is a
    savepoint, and whether anything is kept stays the caller's decision.
    """
    if conn.in_transaction:
        begin, end, undo = _SAVEPOINT
    else:
        begin, end, undo = "begin immediate", "commit", "rollback"
    conn.execute(begin)
    try:
        yield
        conn.execute(end)
    except BaseException:
        # Some errors have ended the transaction already.
        if conn.in_transaction:
            for statement in undo.split(";"):
                conn.execute(statement)
        raise


_SAVEPOINT = (
    "savepoint _embed_write",
    "release _embed_write",
    "rollback to _embed_write; release _embed_write",
)


def adopt_database(db: Any, *, create: bool) -> tuple[Database, str, bool]:
    """Return a database, what to call it in errors, and whether it was opened here.

    Args:
        db: a ``DatabaseLike``, or None for one in memory.
        create: make a file that is missing.

    Raises:
        SourceError: the file cannot be opened.
        TypeError: it is nothing that could be a database.
    """
    import sqlite_utils

    is_ours = db is None or isinstance(db, str | Path)
    if isinstance(db, sqlite_utils.Database):
        _refuse_row_factory(db.conn)
        return db, _path_of(db.conn), False
    if db is None or str(db) == MEMORY:
        conn = sqlite3.connect(MEMORY, isolation_level=None, check_same_thread=False)
    elif isinstance(db, str | Path):
        try:
            conn = open_database(db, writable=True, create=create)
        except SourceError:
            conn = open_database(db)  # it can be searched at least
    elif hasattr(db, "execute") and hasattr(db, "total_changes"):
        _refuse_row_factory(db)
        conn = db
    else:
        raise TypeError(
            "db must be a sqlite_utils.Database, a sqlite3 connection, a path or None, "
            f"not {type(db).__name__}"
        )
    # Neither plugins nor pragmas: the connection may be the caller's.
    database = sqlite_utils.Database(conn, recursive_triggers=False, execute_plugins=False)
    return database, _path_of(conn), is_ours


def is_missing_file(db: Any) -> bool:
    """Say whether this is the path of a file that is not there."""
    return isinstance(db, str | Path) and str(db) != MEMORY and not Path(db).exists()


def _path_of(conn: sqlite3.Connection) -> str:
    return str(conn.execute("pragma database_list").fetchone()[2]) or "the database in memory"


def _refuse_row_factory(conn: sqlite3.Connection) -> None:
    """Refuse a connection whose rows have no positions.

    Raises:
        TypeError: it makes dicts of them, for example.
    """
    row = conn.execute("select 1").fetchone()
    if not isinstance(row, tuple) and type(row).__name__ != "Row":
        raise TypeError(
            f"this connection returns rows of type {type(row).__name__}: open one without "
            "a row_factory, or with sqlite3.Row"
        )
