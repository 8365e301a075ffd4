"""Opening files, and what SQLite says in plain words."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

import pytest

from datasette_embed import database, inputs
from datasette_embed.database import (
    adopt_database,
    check_writable,
    is_missing_file,
    open_database,
    patient,
    quoted,
    read_snapshot,
    sqlite3,
    translated,
    write_transaction,
)
from datasette_embed.errors import SourceError
from tests.storage import execute, make_half_written, query


@pytest.fixture
def db(tmp_path):
    """A file with a table t of one row."""
    path = tmp_path / "a.db"
    execute(path, "create table t (x)", "insert into t values (1)")
    return path


@pytest.fixture
def impatient(monkeypatch):
    """Wait for no lock."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0)


@pytest.mark.parametrize(
    ("name", "sql"),
    [("t", '"t"'), ('a "b"', '"a ""b"""'), ("x; drop table t", '"x; drop table t"'), ("é", '"é"')],
)
def test_quoted_any_name_is_identifier(name, sql):
    """The name is the identifier, whatever characters it has."""
    assert quoted(name) == sql
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.execute(f"create table {quoted(name)} (x)")
        assert conn.execute("select name from sqlite_master").fetchall() == [(name,)]


def test_open_database_missing_file_refused_and_not_made(tmp_path):
    """A mistyped path never becomes an empty file."""
    for writable in (False, True):
        with pytest.raises(SourceError, match=r"gone\.db: no such file"):
            open_database(tmp_path / "gone.db", writable=writable)
    assert list(tmp_path.iterdir()) == []


def test_open_database_directory_refused(tmp_path):
    """A folder is named as one."""
    with pytest.raises(SourceError, match="is a directory, not a SQLite file"):
        open_database(tmp_path)


def test_open_database_no_database_refused_unchanged(tmp_path):
    """Another kind of file is refused, and keeps its bytes."""
    path = tmp_path / "notes.txt"
    path.write_text("just some text, long enough to have a header" * 20)
    before = path.read_bytes()
    for writable in (False, True):
        with pytest.raises(SourceError, match="is not a SQLite database"):
            open_database(path, writable=writable)
    assert path.read_bytes() == before


def test_open_database_reading_cannot_write(db):
    """What is opened for reading cannot be written, not even by mistake."""
    with closing(open_database(db)) as conn, pytest.raises(SourceError, match="is read-only"):
        with translated(db):
            conn.execute("insert into t values (2)")
    assert query(db, "select x from t") == [(1,)]


@pytest.mark.parametrize("name", ["with space.db", "100%.db", "a?mode=rw.db", "a#b.db", "é🎉.db"])
def test_open_database_odd_path_opens_that_file(tmp_path, name):
    """Characters with a meaning in a URI are part of the name here."""
    path = tmp_path / name
    with closing(open_database(path, writable=True, create=True)) as conn:
        conn.execute("create table t (x)")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with closing(open_database(path)) as conn:
        assert conn.execute("select name from sqlite_master").fetchall() == [("t",)]


@pytest.mark.parametrize("statement", ["select 1", "insert into t values (2)"])
def test_open_database_locked_says_so_and_is_not_read_anyway(db, impatient, statement):
    """Half-written pages are never read: an exclusive lock is an error."""
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("begin exclusive")
        other.execute(statement)
        with pytest.raises(SourceError, match="is locked by another program"):
            open_database(db)
        other.execute("rollback")


@pytest.mark.parametrize("left_over", ["-wal", "-journal"])
def test_open_database_cannot_open_half_transaction_not_taken_for_constant(
    db, monkeypatch, left_over
):
    """Where SQLite cannot open a file that is in the middle of something, neither do we."""
    attempts = []

    def refuse(path, options):
        attempts.append(options)
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(database, "_connect", refuse)
    (db.parent / f"{db.name}{left_over}").write_bytes(b"x")
    with pytest.raises(SourceError, match="cannot be opened: check the path"):
        open_database(db)
    assert attempts == (["mode=rw"] if left_over == "-journal" else []) + ["mode=ro"]


def test_open_database_wal_in_unwritable_folder_opened_as_constant(db, monkeypatch):
    """A file in WAL mode whose folder cannot be written to is read as one that stands still."""
    connect = database._connect

    def refuse_first(path, options):
        if "immutable" not in options:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, options)

    monkeypatch.setattr(database, "_connect", refuse_first)
    with closing(open_database(db)) as conn:
        assert conn.execute("select x from t").fetchall() == [(1,)]
    with pytest.raises(SourceError, match="cannot be opened"):
        open_database(db, writable=True)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("database is locked", "is locked by another program"),
        ("database table is locked", "is locked by another program"),
        ("attempt to write a readonly database", "is read-only"),
        ("file is not a database", "is not a SQLite database"),
        ("database disk image is malformed", "is damaged"),
        ("database or disk is full", "the disk is full"),
        ("disk I/O error", "the disk reports an I/O error"),
        ("no such table: t", "no such table: t"),
    ],
)
def test_translated_sqlite_error_becomes_source_error(message, words):
    """Each error names the file and says what to do; the original is the cause."""
    with pytest.raises(SourceError, match=rf"^a\.db: .*{words}") as caught:
        with translated("a.db"):
            raise sqlite3.OperationalError(message)
    assert caught.value.source == "a.db"
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


def test_translated_other_error_passes():
    """Only what SQLite raises is translated."""
    with pytest.raises(ZeroDivisionError), translated("a.db"):
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_write_transaction_error_inside_nothing_kept(db, error):
    """All of it is kept, or nothing."""
    with closing(open_database(db, writable=True)) as conn:
        with pytest.raises(type(error)), write_transaction(conn):
            conn.execute("insert into t values (2)")
            raise error
        assert not conn.in_transaction
        with write_transaction(conn):
            conn.execute("insert into t values (3)")
    assert query(db, "select x from t") == [(1,), (3,)]


def test_write_transaction_locks_before_reading(db, impatient):
    """A second writer is refused at the start, not after its work."""
    with closing(open_database(db, writable=True)) as one, write_transaction(one):
        with closing(open_database(db, writable=True)) as two:
            with pytest.raises(sqlite3.OperationalError, match="locked"), write_transaction(two):
                pytest.fail("the block must not run")


def test_check_writable_writable_leaves_bytes(db):
    """Asking changes nothing."""
    before = db.read_bytes()
    with closing(open_database(db, writable=True)) as conn:
        check_writable(conn)
        assert not conn.in_transaction
    assert db.read_bytes() == before
    assert [file.name for file in db.parent.iterdir() if file.is_file()] == ["a.db"]


def test_check_writable_read_only_raises(db):
    """BEGIN IMMEDIATE alone succeeds on a read-only file."""
    with closing(open_database(db)) as conn:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            check_writable(conn)
        assert not conn.in_transaction


def test_check_writable_locked_raises(db, impatient):
    """Another writer's lock is noticed."""
    with closing(open_database(db, writable=True)) as one, write_transaction(one):
        with closing(open_database(db, writable=True)) as two:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                check_writable(two)


# Inside a transaction of the caller


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_write_transaction_inside_another_left_to_the_caller(db, end):
    """It is a savepoint then: nothing is committed, and the caller's transaction goes on."""
    with closing(open_database(db, writable=True)) as conn:
        conn.execute("begin")
        conn.execute("insert into t values (2)")
        with write_transaction(conn):
            conn.execute("insert into t values (3)")
        assert conn.in_transaction
        assert query(db, "select x from t") == [(1,)]
        conn.execute(end)
    assert query(db, "select x from t") == ([(1,), (2,), (3,)] if end == "commit" else [(1,)])


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_write_transaction_inside_another_error_takes_back_its_own_only(db, error):
    """What the caller wrote before is still there to be kept."""
    with closing(open_database(db, writable=True)) as conn:
        conn.execute("begin")
        conn.execute("insert into t values (2)")
        with pytest.raises(type(error)), write_transaction(conn):
            conn.execute("insert into t values (3)")
            raise error
        assert conn.in_transaction
        conn.execute("insert into t values (4)")
        conn.execute("commit")
    assert query(db, "select x from t") == [(1,), (2,), (4,)]


def test_write_transaction_nested_inner_error_outer_kept(db):
    """Each takes back its own, however deep."""
    with closing(open_database(db, writable=True)) as conn:
        with write_transaction(conn):
            with write_transaction(conn):
                conn.execute("insert into t values (2)")
                with pytest.raises(ValueError, match="no"), write_transaction(conn):
                    conn.execute("insert into t values (3)")
                    raise ValueError("no")
            conn.execute("insert into t values (4)")
            with pytest.raises(sqlite3.OperationalError, match="gone"), write_transaction(conn):
                conn.execute("insert into t values (5)")
                conn.execute("insert into gone values (1)")
        assert not conn.in_transaction
    assert query(db, "select x from t") == [(1,), (2,), (4,)]


def test_write_transaction_legacy_connection_joins_what_it_began(db):
    """Python begins a transaction by itself before a write, unless told not to."""
    with closing(sqlite3.connect(db)) as conn:
        conn.execute("insert into t values (2)")
        with write_transaction(conn):
            conn.execute("insert into t values (3)")
        conn.rollback()
        with write_transaction(conn):
            conn.execute("insert into t values (4)")
    assert query(db, "select x from t") == [(1,), (4,)]


def test_read_snapshot_one_moment_and_nothing_left_open(db):
    """Another connection's commit in the meantime is not seen, and afterwards it is."""
    execute(db, "pragma journal_mode = wal")
    with closing(open_database(db)) as conn:
        with read_snapshot(conn):
            assert conn.execute("select count(*) from t").fetchone() == (1,)
            execute(db, "insert into t values (2)")
            assert conn.execute("select count(*) from t").fetchone() == (1,)
        assert not conn.in_transaction
        assert conn.execute("select count(*) from t").fetchone() == (2,)
        with pytest.raises(ZeroDivisionError), read_snapshot(conn):
            raise ZeroDivisionError
        assert not conn.in_transaction


def test_read_snapshot_inside_a_transaction_leaves_it(db):
    """What the caller has written stays, and is the caller's."""
    with closing(open_database(db, writable=True)) as conn:
        conn.execute("begin")
        conn.execute("insert into t values (2)")
        with read_snapshot(conn):
            assert conn.execute("select count(*) from t").fetchone() == (2,)
        assert conn.in_transaction
        conn.execute("commit")
    assert query(db, "select count(*) from t") == [(2,)]


# Databases of callers


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_adopt_database_path_opened_in_autocommit_and_ours(db, kind):
    """Its own connection is the one to close."""
    database, path, is_ours = adopt_database(kind(db), create=False)
    with closing(database.conn) as conn:
        assert (path, is_ours, conn.isolation_level) == (str(db), True, None)
        conn.execute("insert into t values (2)")
    assert query(db, "select x from t") == [(1,), (2,)]


def test_adopt_database_missing_path_made_only_when_asked(tmp_path):
    """A mistyped path never becomes an empty file."""
    path = tmp_path / "new.db"
    assert is_missing_file(path)
    assert is_missing_file(str(path))
    with pytest.raises(SourceError, match=r"new\.db: no such file"):
        adopt_database(path, create=False)
    assert list(tmp_path.iterdir()) == []
    database, _, _ = adopt_database(path, create=True)
    with closing(database.conn) as conn:
        conn.execute("create table t (x)")
    assert not is_missing_file(path)


@pytest.mark.parametrize("memory", [None, ":memory:"])
def test_adopt_database_memory_ours_and_alone(memory, tmp_path, monkeypatch):
    """Nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    assert not is_missing_file(memory)
    database, path, is_ours = adopt_database(memory, create=False)
    with closing(database.conn) as conn:
        conn.execute("create table t (x)")
    assert (path, is_ours) == ("the database in memory", True)
    assert list(tmp_path.iterdir()) == []


def test_adopt_database_callers_objects_taken_as_they_are(db):
    """Neither settings nor functions of a caller's connection are touched, and it stays open."""
    with closing(sqlite3.connect(db)) as conn:
        conn.row_factory = sqlite3.Row
        database, path, is_ours = adopt_database(conn, create=True)
        assert (database.conn is conn, path, is_ours) == (True, str(db), False)
        assert (conn.row_factory, conn.isolation_level) == (sqlite3.Row, "")
        assert conn.execute("pragma recursive_triggers").fetchone()[0] == 0
        assert not conn.in_transaction
        again, path, is_ours = adopt_database(database, create=True)
        assert (again is database, path, is_ours) == (True, str(db), False)


def test_adopt_database_unwritable_file_opened_for_reading(db, monkeypatch):
    """It can be searched at least."""
    connect = database._connect

    def refuse_writing(path, options):
        if options != "mode=ro":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, options)

    monkeypatch.setattr(database, "_connect", refuse_writing)
    adopted, path, _ = adopt_database(db, create=False)
    with closing(adopted.conn) as conn:
        assert conn.execute("select x from t").fetchall() == [(1,)]
        with pytest.raises(SourceError, match="is read-only"), translated(path):
            conn.execute("insert into t values (2)")


@pytest.mark.parametrize("given", [5, object(), ["a.db"]])
def test_adopt_database_something_else_refused(given):
    """What it is is named by its type."""
    with pytest.raises(TypeError, match=f"a path or None, not {type(given).__name__}"):
        adopt_database(given, create=True)


def test_open_database_half_written_by_a_killed_program_is_read(tmp_path):
    """A journal that is left over is rolled back first, which a reader alone may not do."""
    make_half_written(tmp_path / "killed.db")
    with closing(open_database(tmp_path / "killed.db")) as conn:
        assert conn.execute("select x from t").fetchall() == [("before",)]
    assert not (tmp_path / "killed.db-journal").exists()


def test_reader_during_rollbacks_reads_on(db):
    """SQLite takes a journal just let go for a killed program's; dozens of errors without."""
    end = time.monotonic() + 1.5

    def roll_back():
        with closing(open_database(db, writable=True)) as conn:
            while time.monotonic() < end:
                check_writable(conn)
                time.sleep(0.0002)

    def read(_):
        with closing(open_database(db)) as conn:
            while time.monotonic() < end:
                assert conn.execute("select x from t").fetchall() == [(1,)]
                assert conn.cursor().execute("select x from t").fetchall() == [(1,)]

    with ThreadPoolExecutor(4) as pool:
        writer = pool.submit(roll_back)
        list(pool.map(read, range(3)))
        writer.result()


@pytest.fixture
def waits(db, monkeypatch):
    """The seconds waited so far; the journal goes after ``tries`` of them."""
    waits = SimpleNamespace(made=[], tries=1)

    def wait(seconds):
        waits.made.append(seconds)
        if len(waits.made) == waits.tries:
            db.with_name("a.db-journal").unlink()

    monkeypatch.setattr(database, "sleep", wait)
    return waits


@pytest.mark.parametrize("tries", range(1, len(database._ROLLBACK_WAITS) + 1))
def test_reader_tries_again_until_the_journal_is_gone(db, waits, tries):
    """As often as there are waits."""
    waits.tries = tries
    journal = db.with_name("a.db-journal")
    with closing(open_database(db)) as conn:
        journal.write_bytes(b"a journal to SQLite, which looks at the first byte")
        assert conn.execute("select x from t").fetchall() == [(1,)]
    assert waits.made == list(database._ROLLBACK_WAITS[:tries])


def test_reader_of_an_attached_file_tries_again_too(db, waits, monkeypatch):
    """A query over several files needs none of its own."""
    journal = db.with_name("a.db-journal")
    looked = SimpleNamespace(close=lambda: journal.write_bytes(b"a journal"))
    monkeypatch.setattr(inputs, "open_database", lambda path: looked)
    rows = inputs.open_query("select x, x from q.t", None, [("q", db)])
    (window,) = rows.iter_windows()
    assert [row.entry_id for row in window] == ["1"]
    assert waits.made == [0.0]


@pytest.mark.parametrize("writable", [False, True])
def test_reader_is_whoever_opens_a_file(db, writable):
    """SQLite may open for reading what was to be written: the file may be another user's."""
    with closing(open_database(db, writable=writable)) as conn:
        assert isinstance(conn, database.Connection)


def test_reader_real_write_refused_at_once(db, waits):
    """That is no rollback."""
    with closing(open_database(db)) as conn:
        with pytest.raises(sqlite3.OperationalError, match="readonly database"):
            conn.execute("insert into t values (2)")
    assert waits.made == []


def test_reader_journal_that_stays_is_an_error_until_a_writer_undoes_it(db):
    """A reader cannot."""
    with closing(open_database(db)) as conn, closing(open_database(db, writable=True)) as writer:
        db.with_name("a.db-journal").write_bytes(b"a journal")
        with pytest.raises(sqlite3.OperationalError, match="readonly database"):
            conn.execute("select x from t")
        assert writer.execute("select x from t").fetchall() == [(1,)]
        assert conn.execute("select x from t").fetchall() == [(1,)]


def test_patient_waits_longer_inside_and_as_before_after(db):
    """The longer wait is for what the block writes, whether it goes well or not."""
    with closing(open_database(db, writable=True)) as conn:

        def timeout():
            return conn.execute("pragma busy_timeout").fetchone()[0]

        assert timeout() == 1_000 * database.BUSY_TIMEOUT_SECONDS
        with patient(conn):
            assert timeout() == database.PATIENCE_MS
        assert timeout() == 1_000 * database.BUSY_TIMEOUT_SECONDS
        with pytest.raises(KeyError, match="boom"), patient(conn):
            raise KeyError("boom")
        assert timeout() == 1_000 * database.BUSY_TIMEOUT_SECONDS
        conn.execute(f"pragma busy_timeout = {database.PATIENCE_MS + 1}")
        with patient(conn):
            assert timeout() == database.PATIENCE_MS + 1
