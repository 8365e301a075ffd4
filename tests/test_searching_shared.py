"""One matrix for all connections of a server: shared, bounded, and never of yesterday."""

from __future__ import annotations

import random
import struct
import threading
from contextlib import closing

import pytest

from datasette_embed.database import open_database, sqlite3
from datasette_embed.errors import DimensionMismatchError, OutdatedCollectionError
from datasette_embed.records import CollectionRecord
from datasette_embed.schema import TRIGGERS, ensure_schema
from datasette_embed.searching import shared as shared_module
from datasette_embed.searching.exact import nearest
from datasette_embed.searching.shared import FileKey, SharedMatrices
from datasette_embed.store import Store

DIMENSIONS = 4
#: What one entry counts for: its numbers, and an id of 20 characters with its place.
ENTRY_BYTES = 4 * DIMENSIONS + shared_module._ID_BYTES


def encode(vector):
    return struct.pack(f"<{len(vector)}f", *vector)


class Files:
    """Files with collections in them, searched through one cache.

    Attributes:
        loads: how often vectors were read into memory.
    """

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.chooser = random.Random(3)
        self.loads = 0
        self.opened = []
        load = shared_module.load

        def counted(*arguments):
            self.loads += 1
            return load(*arguments)

        monkeypatch.setattr(shared_module, "load", counted)

    def blob(self):
        return encode([self.chooser.uniform(-1, 1) for _ in range(DIMENSIONS)])

    def make(self, name="a.db", entries=30, collections=("c",), triggers=True):
        """Make a file, or add to it; return a connection that writes."""
        conn = self.open(name, writable=True, create=True)
        ensure_schema(conn, name)
        for collection in collections:
            record = Store(conn).create_collection(
                CollectionRecord(0, collection, "m", fingerprint="m", dimensions=DIMENSIONS)
            )
            for number in range(entries):
                self.put(conn, record.id, str(number))
        if not triggers:
            for trigger in TRIGGERS:
                conn.execute(f"drop trigger {trigger}")
        return conn

    def open(self, name="a.db", **options):
        conn = open_database(self.folder / name, **options)
        self.opened.append(conn)
        return conn

    def put(self, conn, collection_id, entry_id, blob=None):
        conn.execute(
            "insert or replace into embeddings (collection_id, id, embedding) values (?, ?, ?)",
            (collection_id, entry_id, blob or self.blob()),
        )

    def agree(self, matrices, conn, name="c", file="a.db", k=7, version=None, **options):
        """Search, and compare with a scan of the file; return the ids found."""
        store, query = Store(conn), self.blob()
        record = store.get_collection(name)
        key = FileKey(file, version)
        found = matrices.nearest(key, store, record, query, k, **options)
        assert found == nearest(store, record, query, k, **options)
        return [hit.entry_id for hit in found.hits]


@pytest.fixture
def files(tmp_path, monkeypatch):
    made = Files(tmp_path, monkeypatch)
    yield made
    for conn in made.opened:
        conn.close()


def test_nearest_two_connections_one_matrix(files):
    """The second connection finds what the first has read, and the same entries."""
    files.make()
    matrices = SharedMatrices(10**6)
    for conn in (files.open(), files.open()):
        assert len(files.agree(matrices, conn)) == 7
        files.agree(matrices, conn, without="3", prefix="1")
    assert files.loads == 1
    assert matrices.used_bytes == 30 * ENTRY_BYTES


def test_nearest_rows_as_datasette_gives_them(files):
    """Datasette's connections have a row factory and a text factory of their own."""
    files.make()
    conn = files.open()
    conn.row_factory = sqlite3.Row
    conn.text_factory = lambda data: str(data, "utf-8", "replace")
    assert len(files.agree(SharedMatrices(10**6), conn)) == 7


@pytest.mark.parametrize("change", ["insert", "replace", "update", "delete"])
def test_nearest_written_over_another_connection_found_at_once(files, change):
    """Whoever writes: the next search on any connection sees it."""
    writer = files.make()
    matrices, reader = SharedMatrices(10**6), files.open()
    files.agree(matrices, reader)
    query = encode([1.0, 2.0, 3.0, 4.0])
    if change == "insert":
        files.put(writer, 1, "new", query)
    elif change == "replace":
        files.put(writer, 1, "5", query)
    elif change == "update":
        writer.execute("update embeddings set embedding = ? where id = '5'", (query,))
    else:
        writer.execute("delete from embeddings where id = '5'")
    store = Store(reader)
    found = matrices.nearest(FileKey("a.db"), store, store.get_collection("c"), query, 30)
    assert found == nearest(store, store.get_collection("c"), query, 30)
    best = found.hits[0]
    if change == "delete":
        assert "5" not in [hit.entry_id for hit in found.hits]
    else:
        assert (best.entry_id, round(best.score, 5)) == ("new" if change == "insert" else "5", 1.0)
    assert files.loads == 2


def test_nearest_older_snapshot_sees_its_own_moment(files):
    """A reader inside a read transaction is not given what was committed after it began."""
    writer = files.make()
    writer.execute("pragma journal_mode = wal")  # or the reader would keep the writer out
    matrices, old, new = SharedMatrices(10**6), files.open(), files.open()
    old.execute("begin")
    old.execute("select count(*) from embeddings").fetchone()
    files.put(writer, 1, "new", encode([9.0] * DIMENSIONS))
    assert "new" in files.agree(matrices, new, k=31)
    assert "new" not in files.agree(matrices, old, k=31)
    old.execute("rollback")
    assert "new" in files.agree(matrices, old, k=31)


def test_nearest_without_triggers_scans(files):
    """Where nobody counts the changes nothing is kept, and what is written is found."""
    writer = files.make(triggers=False)
    matrices, reader = SharedMatrices(10**6), files.open()
    files.agree(matrices, reader)
    files.put(writer, 1, "new", encode([9.0] * DIMENSIONS))
    assert "new" in files.agree(matrices, reader, k=31)
    assert (files.loads, matrices.used_bytes) == (0, 0)


def test_nearest_triggers_lost_and_restored_reads_again(files):
    """What was written while nobody counted is found once somebody does."""
    writer = files.make()
    matrices, reader = SharedMatrices(10**6), files.open()
    files.agree(matrices, reader)
    for trigger in TRIGGERS:
        writer.execute(f"drop trigger {trigger}")
    files.put(writer, 1, "new", encode([9.0] * DIMENSIONS))
    assert "new" in files.agree(matrices, reader, k=31)
    ensure_schema(writer, "a.db")
    assert "new" in files.agree(matrices, reader, k=31)
    assert files.loads == 2


def test_nearest_immutable_file_without_triggers_kept(files):
    """A file that cannot change needs nobody to count; another version of it is read."""
    files.make(triggers=False)
    matrices, reader = SharedMatrices(10**6), files.open()
    for _ in range(2):
        files.agree(matrices, reader, version=1)
    assert files.loads == 1
    files.agree(matrices, reader, version=2)
    assert files.loads == 2


def test_nearest_id_of_a_deleted_collection_reused(files):
    """SQLite gives the id away again: the vectors of the old collection are not searched."""
    writer = files.make()
    matrices, reader = SharedMatrices(10**6), files.open()
    before = Store(reader).get_collection("c")
    files.agree(matrices, reader)
    writer.execute("delete from embeddings")
    writer.execute("delete from collections")
    files.make(collections=("d",), entries=2)
    assert Store(reader).get_collection("d").id == before.id
    assert sorted(files.agree(matrices, reader, name="d")) == ["0", "1"]


def test_nearest_two_files_do_not_meet(files):
    """Collection 1 of one file is not collection 1 of another."""
    matrices = SharedMatrices(10**6)
    for name in ("a.db", "b.db"):
        files.make(name)
    for name in ("a.db", "b.db", "a.db", "b.db"):
        files.agree(matrices, files.open(name), file=name)
    assert files.loads == 2


def test_nearest_bounded_drops_the_least_recently_used(files):
    """Two of three fit: the one not searched for longest goes."""
    files.make(collections=("c", "d", "e"))
    matrices, conn = SharedMatrices(2 * 30 * ENTRY_BYTES), files.open()
    for name in ("c", "d", "c", "e"):
        files.agree(matrices, conn, name)
    assert files.loads == 3
    assert matrices.used_bytes == 2 * 30 * ENTRY_BYTES
    files.agree(matrices, conn, "c")
    assert files.loads == 3
    files.agree(matrices, conn, "d")
    assert files.loads == 4


def test_nearest_too_large_scans_and_drops_nothing(files):
    """One collection larger than all the memory does not throw the others out."""
    files.make(collections=("small",), entries=3)
    files.make(collections=("large",), entries=40)
    matrices, conn = SharedMatrices(20 * ENTRY_BYTES), files.open()
    for name in ("small", "large", "small", "large"):
        files.agree(matrices, conn, name)
    assert files.loads == 1
    assert matrices.used_bytes == 3 * ENTRY_BYTES


def test_nearest_load_fails_nothing_is_kept(files, monkeypatch):
    """A failure reaches the caller, takes no memory, and the next search tries again."""
    files.make()
    matrices, conn = SharedMatrices(10**6), files.open()
    load = shared_module.load
    monkeypatch.setattr(shared_module, "load", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        files.agree(matrices, conn)
    assert matrices.used_bytes == 0
    assert not conn.in_transaction
    monkeypatch.setattr(shared_module, "load", load)
    files.agree(matrices, conn)
    assert files.loads == 1


def test_nearest_several_threads_read_once(files, monkeypatch):
    """Those who come while the vectors are read wait for them."""
    files.make()
    matrices, load = SharedMatrices(10**6), shared_module.load
    reading, may_go_on = threading.Event(), threading.Event()

    def slow(*arguments):
        reading.set()
        assert may_go_on.wait(10)
        return load(*arguments)

    monkeypatch.setattr(shared_module, "load", slow)
    query, found = files.blob(), []

    def search():
        with closing(open_database(files.folder / "a.db")) as conn:
            store = Store(conn)
            record = store.get_collection("c")
            found.append(matrices.nearest(FileKey("a.db"), store, record, query, 5))

    threads = [threading.Thread(target=search) for _ in range(5)]
    threads[0].start()
    assert reading.wait(10)
    for thread in threads[1:]:
        thread.start()
    may_go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(found) == 5
    assert all(hits == found[0] for hits in found)
    assert files.loads == 1


def test_nearest_searching_while_others_write_is_never_stale(files):
    """Each search equals a scan in a snapshot of its own, whatever is written meanwhile."""
    writer = files.make(entries=5)
    writer.execute("pragma journal_mode = wal")
    matrices, wrong, is_over = SharedMatrices(10**6), [], threading.Event()
    query = encode([1.0, 1.0, 1.0, 1.0])

    def search():
        with closing(open_database(files.folder / "a.db")) as conn:
            store = Store(conn)
            while not is_over.is_set():
                conn.execute("begin")
                record = store.get_collection("c")
                found = matrices.nearest(FileKey("a.db"), store, record, query, 50)
                if found != nearest(store, record, query, 50):
                    wrong.append(found)
                conn.execute("rollback")

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(60):
        files.put(writer, 1, f"n{number % 20}")
    is_over.set()
    for thread in threads:
        thread.join(10)
    assert wrong == []


def test_nearest_bad_question_refused(files):
    """What the scan refuses is refused here, with nothing read."""
    conn = files.make()
    matrices, store = SharedMatrices(10**6), Store(conn)
    record = store.get_collection("c")
    with pytest.raises(DimensionMismatchError, match="m: a vector has 5 dimensions instead of 4"):
        matrices.nearest(FileKey("a.db"), store, record, encode([1.0] * 5), 3)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        matrices.nearest(FileKey("a.db"), store, record, files.blob(), 0)
    store.set_fingerprint(record, "m2")
    with pytest.raises(OutdatedCollectionError, match="only partly embedded"):
        matrices.nearest(FileKey("a.db"), store, store.get_collection("c"), files.blob(), 3)
    assert files.loads == 0
