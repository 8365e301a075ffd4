"""The search in memory finds what the scan of the file finds, whatever changed the file."""

from __future__ import annotations

import math
import random
import struct
from contextlib import closing

import pytest

from datasette_embed.database import open_database, sqlite3
from datasette_embed.errors import DimensionMismatchError, InvalidVectorError
from datasette_embed.records import CollectionRecord
from datasette_embed.schema import TRIGGERS, ensure_schema
from datasette_embed.searching import matrix as matrix_module
from datasette_embed.searching.exact import Hit, Hits, nearest
from datasette_embed.searching.matrix import MatrixSearch
from datasette_embed.store import Store
from tests.storage import execute

DIMENSIONS = 6
NAN, INF = math.nan, math.inf


def encode(vector):
    return struct.pack(f"<{len(vector)}f", *vector)


#: Stored values that are no vector of the collection.
UNUSABLE = [
    None,
    b"",
    b"odd",
    "text",
    5,
    encode([0.0] * DIMENSIONS),
    encode([NAN] + [1.0] * (DIMENSIONS - 1)),
    encode([1.0] * (DIMENSIONS - 1) + [-INF]),
    encode([1.0] * (DIMENSIONS + 1)),
]


class File:
    """One file with the collection ``c``, a search over it, and another connection.

    Attributes:
        entries: ``id -> stored value``, what the file must hold; kept by the methods.
        loads: how often the vectors were read.
    """

    def __init__(self, path, metric, monkeypatch, largest_bytes=2**30):
        self.path = path
        self.conn = open_database(path, writable=True, create=True)
        ensure_schema(self.conn, str(path))
        self.other = sqlite3.connect(path, isolation_level=None)
        for conn in (self.conn, self.other):
            conn.execute("pragma synchronous = off")  # here nobody loses power
        self.store = Store(self.conn)
        self.record = self.store.create_collection(
            CollectionRecord(0, "c", "m", metric=metric, fingerprint="m", dimensions=DIMENSIONS)
        )
        self.search = MatrixSearch(self.store, largest_bytes)
        self.entries = {}
        self.loads = 0
        self.chooser = random.Random(5)
        load = MatrixSearch._load

        def counted(search, *arguments):
            self.loads += 1
            return load(search, *arguments)

        monkeypatch.setattr(MatrixSearch, "_load", counted)

    def close(self):
        self.conn.close()
        self.other.close()

    def vector(self):
        return [self.chooser.uniform(-1, 1) for _ in range(DIMENSIONS)]

    def put(self, entry_id, value="random", conn=None):
        """Write an entry as LLM does."""
        value = encode(self.vector()) if value == "random" else value
        self.entries[entry_id] = value
        (conn or self.conn).execute(
            "insert or replace into embeddings (collection_id, id, embedding) values (?, ?, ?)",
            (self.record.id, entry_id, value),
        )

    def remove(self, entry_id, conn=None):
        del self.entries[entry_id]
        (conn or self.conn).execute("delete from embeddings where id = ?", (entry_id,))

    def oracle(self, query, k, without=None, prefix=""):
        """Return what must be found, in float64, and how many entries cannot be compared."""
        query = struct.unpack(f"<{DIMENSIONS}f", encode(query))
        scored, unusable = [], 0
        for entry_id, value in self.entries.items():
            if not entry_id.startswith(prefix):
                continue
            if not isinstance(value, bytes) or len(value) != 4 * DIMENSIONS:
                unusable += 1
                continue
            vector = struct.unpack(f"<{DIMENSIONS}f", value)
            if not all(map(math.isfinite, vector)) or not any(vector):
                unusable += 1
                continue
            score = math.fsum(a * b for a, b in zip(vector, query, strict=True))
            if self.record.metric == "cosine":
                score /= math.hypot(*vector) * math.hypot(*query)
            if entry_id != without:
                scored.append((entry_id, score))
        scored.sort(key=lambda pair: (-round(pair[1], 12), pair[0]))
        return scored[:k], unusable

    def check(self, k=5, without=None, prefix="", query=None):
        """Compare the search in memory with the scan and with the definition."""
        query = query or self.vector()
        options = {"without": without, "prefix": prefix}
        found = self.search.nearest(self.record, encode(query), k, **options)
        scanned = nearest(self.store, self.record, encode(query), k, **options)
        wanted, unusable = self.oracle(query, k, without, prefix)
        assert found == scanned
        assert [hit.entry_id for hit in found.hits] == [entry_id for entry_id, _ in wanted]
        scores = [hit.score for hit in found.hits]
        assert scores == pytest.approx([score for _, score in wanted], rel=1e-6, abs=1e-6)
        assert found.unusable == unusable

    def check_all(self):
        """Check the whole ranking, and the best few: there old vectors would choose wrongly."""
        self.check(50)
        for _ in range(5):
            self.check(1)


@pytest.fixture(params=["cosine", "dot"])
def file(tmp_path, request, monkeypatch):
    """A file of fifty entries, nine of them unusable."""
    made = File(tmp_path / "a.db", request.param, monkeypatch)
    for n in range(41):
        made.put(f"{'ab'[n % 2]}{n}")
    for n, value in enumerate(UNUSABLE):
        made.put(f"{'ab'[n % 2]}-bad{n}", value)
    yield made
    made.close()


@pytest.fixture
def loaded(file):
    """The same, searched once: its vectors are in memory."""
    file.check()
    assert file.loads == 1
    return file


# What is found


@pytest.mark.parametrize("k", [1, 2, 10, 41, 42, 1000])
@pytest.mark.parametrize("prefix", ["", "a", "b1", "b-bad", "c", "A", "%"])
def test_nearest_random_vectors_as_scan_and_oracle(file, k, prefix):
    """Ids, scores and the count of unusable entries, for every k and prefix."""
    for _ in range(5):
        file.check(k, prefix=prefix)
    assert file.loads == 1


@pytest.mark.parametrize("k", [1, 3, 40, 50])
def test_nearest_without_an_entry_as_scan_and_oracle(file, k):
    """The entry left out costs no place, be it the best, unusable or absent."""
    query = file.vector()
    best = file.oracle(query, 1)[0][0][0]
    for without in (best, "a0", "a-bad0", "gone", ""):
        file.check(k, without=without, query=query)
        file.check(k, without=without, query=query, prefix=best[:1])


def test_nearest_ties_by_id_over_the_edge_of_k(file):
    """Equal vectors, and multiples of one where only the direction counts."""
    vector = file.vector()
    for n, name in enumerate(["é", "Z", "z", "\U0001f389", "aa", "\uffff"]):
        scale = 2.0**n if file.record.metric == "cosine" else 1.0
        file.put(name, encode([4 * scale * x for x in vector]))
    for k in range(1, 8):
        file.check(k, query=vector)
        file.check(k, query=vector, without="aa")


def test_nearest_dot_long_rows_ranked_in_float64(tmp_path, monkeypatch):
    """Sums that are coarse in float32 choose candidates only."""
    file = File(tmp_path / "a.db", "dot", monkeypatch)
    with closing(file):
        for n in range(80):
            size = 10.0 ** file.chooser.randint(-6, 6)
            file.put(f"{n:02}", encode([size * x for x in file.vector()]))
        for _ in range(20):
            for k in (1, 5, 60):
                file.check(k)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_nearest_equal_up_to_float32_ranked_in_float64(tmp_path, monkeypatch, metric):
    """What a float32 product cannot tell apart is a candidate, however many there are."""
    file = File(tmp_path / "a.db", metric, monkeypatch)
    with closing(file):
        base = file.vector()
        for n in range(60):
            steps = [1 + file.chooser.choice([-2, -1, 0, 1, 2]) * 2.0**-23 for _ in base]
            file.put(f"{n:02}", encode([x * step for x, step in zip(base, steps, strict=True)]))
        for query in (base, *(file.vector() for _ in range(10))):
            exact = dict(file.oracle(query, 60)[0])
            for k in (1, 5, 20):
                found = file.search.nearest(file.record, encode(query), k).hits
                assert found == nearest(file.store, file.record, encode(query), k).hits
                worst = sorted(exact.values(), reverse=True)[k - 1]
                assert min(exact[hit.entry_id] for hit in found) >= worst - 1e-12


def test_nearest_random_ids_prefix_is_startswith(tmp_path, monkeypatch):
    """The order of ids in memory is SQLite's; edges of planes and surrogates included."""
    file = File(tmp_path / "a.db", "cosine", monkeypatch)
    with closing(file):
        characters = "aA%_'\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
        for _ in range(150):
            file.put("".join(file.chooser.choices(characters, k=file.chooser.randint(0, 4))))
        for prefix in {entry_id[:n] for entry_id in file.entries for n in (1, 2, 3)}:
            file.check(200, prefix=prefix)
        assert file.loads == 1


@pytest.mark.parametrize("values", [[], [b"odd"], [None, encode([0.0] * DIMENSIONS)]])
def test_nearest_nothing_usable_no_hits(tmp_path, monkeypatch, values):
    """An empty collection, or one of damaged rows."""
    file = File(tmp_path / "a.db", "cosine", monkeypatch)
    with closing(file):
        for n, value in enumerate(values):
            file.put(str(n), value)
        file.check()
        found = file.search.nearest(file.record, encode(file.vector()), 5)
        assert found == Hits([], len(values))


def test_nearest_bad_arguments_as_the_scan(loaded):
    """The errors are those of the scan, whether the vectors are in memory or not."""
    good = encode(loaded.vector())
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k must be at least 1, not {k}"):
            loaded.search.nearest(loaded.record, good, k)
    with pytest.raises(DimensionMismatchError, match="a vector has 2 dimensions instead of 6"):
        loaded.search.nearest(loaded.record, encode([1.0, 2.0]), 5)
    for blob in (b"", b"odd"):
        with pytest.raises(InvalidVectorError, match="blob|bytes"):
            loaded.search.nearest(loaded.record, blob, 5)
    for number in (0.0, NAN, INF):
        with pytest.raises(InvalidVectorError, match="zero, or has NaN"):
            loaded.search.nearest(loaded.record, encode([number] * DIMENSIONS), 5)
    assert not loaded.conn.in_transaction
    loaded.check()


@pytest.mark.parametrize("values", [[], [b"odd"]])
def test_nearest_unknown_dimensions_queries_of_two_lengths(tmp_path, monkeypatch, values):
    """Where no vector tells the length, any query finds nothing, as in a scan."""
    file = File(tmp_path / "a.db", "cosine", monkeypatch)
    with closing(file):
        file.conn.execute("update _embed_collections set dimensions = null")
        for n, value in enumerate(values):
            file.put(str(n), value)
        record = file.store.get_collection("c")
        for query in ([1.0, 2.0], [1.0, 2.0, 3.0]):
            found = file.search.nearest(record, encode(query), 5)
            assert found == nearest(file.store, record, encode(query), 5)


def test_nearest_dimensions_learned_after_first_search(tmp_path, monkeypatch):
    """The first vector that comes decides, for the next search too."""
    file = File(tmp_path / "a.db", "cosine", monkeypatch)
    with closing(file):
        file.conn.execute("update _embed_collections set dimensions = null")
        empty = file.store.get_collection("c")
        assert file.search.nearest(empty, encode([1.0] * 3), 5).hits == []
        file.put("a", encode([1.0, 0.0]))
        record = file.store.get_collection("c")
        assert file.search.nearest(record, encode([2.0, 0.0]), 5).hits == [Hit("a", 1.0)]


# What changes the file


@pytest.mark.parametrize("by_other", [False, True])
def test_nearest_after_every_kind_of_write_is_current(loaded, by_other):
    """Own writes and another connection's: insert, replace, update, delete, damage, repair."""
    conn = loaded.other if by_other else loaded.conn
    loaded.put("new", conn=conn)
    loaded.check()
    loaded.put("a0", conn=conn)
    loaded.check_all()
    value = encode(loaded.vector())
    conn.execute("update embeddings set embedding = ? where id = 'a2'", (value,))
    loaded.entries["a2"] = value
    loaded.check_all()
    loaded.remove("a4", conn=conn)
    loaded.check_all()
    loaded.put("a6", b"odd", conn=conn)
    loaded.put("a-bad0", conn=conn)
    loaded.check_all()
    conn.execute("update embeddings set id = 'renamed' where id = 'a8'")
    loaded.entries["renamed"] = loaded.entries.pop("a8")
    loaded.check_all()
    conn.execute("delete from embeddings")
    loaded.entries.clear()
    loaded.check()
    loaded.put("back", conn=conn)
    loaded.check()
    assert loaded.loads == 9


def test_nearest_collection_made_again_with_as_many_writes_is_current(loaded):
    """Its number does not start where that of the deleted one did."""
    for _ in range(3):
        ids = list(loaded.entries)
        loaded.other.execute("delete from embeddings")
        loaded.other.execute("delete from collections")
        loaded.other.execute("insert into collections values (1, 'c', 'm')")
        loaded.other.execute(
            "insert into _embed_collections (collection_id, name, model, fingerprint, metric,"
            " created_at) values (1, 'c', 'm', 'm', ?, 'now')",
            (loaded.record.metric,),
        )
        for entry_id in ids:
            loaded.put(entry_id, conn=loaded.other)
        loaded.check_all()
        assert loaded.oracle(loaded.vector(), 50)[1] == 0


def test_nearest_nothing_changed_nothing_read_again(loaded):
    """Search after search over the same vectors."""
    for _ in range(20):
        loaded.check()
    assert loaded.loads == 1


@pytest.mark.parametrize("by_other", [False, True])
def test_nearest_other_table_changed_nothing_read_again(loaded, by_other):
    """The file changed, the collection did not."""
    conn = loaded.other if by_other else loaded.conn
    conn.execute("create table t (x)")
    for n in range(5):
        conn.execute("insert into t values (?)", (n,))
        loaded.check()
    assert loaded.loads == 1


@pytest.mark.parametrize("by_other", [False, True])
def test_nearest_other_collection_changed_nothing_read_again(loaded, by_other):
    """Two collections of one file have a search each, and neither disturbs the other."""
    second = loaded.store.create_collection(
        CollectionRecord(0, "d", "m", fingerprint="m", dimensions=DIMENSIONS)
    )
    search = MatrixSearch(loaded.store)
    conn = loaded.other if by_other else loaded.conn
    blob = encode([1.0] * DIMENSIONS)
    for n in range(3):
        conn.execute(
            "insert into embeddings (collection_id, id, embedding) values (?, ?, ?)",
            (second.id, f"a{n}", blob),
        )
        loaded.check_all()
        found = search.nearest(second, blob, 50)
        assert [hit.entry_id for hit in found.hits] == [f"a{m}" for m in range(n + 1)]
    assert loaded.loads == 1 + 3


def test_nearest_entry_moved_to_other_collection_both_are_current(loaded):
    """An update of the collection's number changes two collections."""
    second = loaded.store.create_collection(
        CollectionRecord(0, "d", "m", fingerprint="m", dimensions=DIMENSIONS)
    )
    search = MatrixSearch(loaded.store)
    assert search.nearest(second, encode([1.0] * DIMENSIONS), 5).hits == []
    loaded.other.execute("update embeddings set collection_id = ? where id = 'a0'", (second.id,))
    del loaded.entries["a0"]
    loaded.check_all()
    found = search.nearest(second, encode([1.0] * DIMENSIONS), 5)
    assert [hit.entry_id for hit in found.hits] == ["a0"]


def drop_triggers(conn):
    for name in TRIGGERS:
        conn.execute(f"drop trigger {name}")


@pytest.mark.parametrize("by_other", [False, True])
def test_nearest_triggers_dropped_every_change_is_seen(loaded, by_other):
    """Without triggers nobody counts, so every change of the file is one of the vectors."""
    conn = loaded.other if by_other else loaded.conn
    drop_triggers(conn)
    loaded.put("a0", conn=conn)
    loaded.check_all()
    loaded.remove("a2", conn=conn)
    loaded.check_all()
    loads = loaded.loads
    loaded.check_all()
    assert loaded.loads == loads


@pytest.mark.parametrize("name", sorted(TRIGGERS))
def test_nearest_one_trigger_dropped_every_change_is_seen(loaded, name):
    """One that is missing is as bad as all."""
    loaded.other.execute(f"drop trigger {name}")
    loaded.put("a0", conn=loaded.other)
    loaded.check_all()
    loaded.remove("a2", conn=loaded.other)
    loaded.put("a4", conn=loaded.other)
    loaded.check_all()


@pytest.mark.parametrize("restored_by_other", [False, True])
@pytest.mark.parametrize("by_other", [False, True])
def test_nearest_triggers_restored_after_untracked_writes_read_again(
    loaded, by_other, restored_by_other
):
    """The number stood still in the meantime; restoring the triggers moves it."""
    conn = loaded.other if by_other else loaded.conn
    drop_triggers(conn)
    loaded.put("a0", conn=conn)
    loaded.put("new", conn=conn)
    loaded.remove("a2", conn=conn)
    ensure_schema(loaded.other if restored_by_other else loaded.conn, "a.db")
    loaded.check_all()
    loads = loaded.loads
    loaded.check_all()
    assert loaded.loads == loads


def test_nearest_foreign_file_without_triggers_every_change_is_seen(tmp_path, monkeypatch):
    """A file of LLM's tables only: current after every write, and nothing is written to it."""
    file = File(tmp_path / "a.db", "cosine", monkeypatch)
    with closing(file):
        drop_triggers(file.conn)
        for table in ("_embed_collections", "_embed_generations", "_embed_warnings"):
            file.conn.execute(f"drop table {table}")
        for n in range(5):
            file.put(f"a{n}", conn=file.other)
            before = file.path.read_bytes()
            file.check_all()
            assert file.path.read_bytes() == before


def test_nearest_own_rollback_seen_at_each_moment(loaded):
    """Inside the transaction its rows are found, afterwards they are not."""
    before = dict(loaded.entries)
    loaded.conn.execute("begin")
    loaded.put("a0")
    loaded.remove("a2")
    loaded.check_all()
    loaded.conn.execute("rollback")
    loaded.entries = before
    loaded.check_all()
    loaded.conn.execute("begin")
    loaded.put("a0")
    loaded.conn.execute("savepoint s")
    kept = dict(loaded.entries)
    loaded.put("a4")
    loaded.conn.execute("rollback to s")
    loaded.entries = kept
    loaded.check_all()
    loaded.conn.execute("commit")
    loaded.check_all()


def test_nearest_transaction_of_caller_left_open(loaded):
    """Searching ends no transaction of the caller, and leaves none behind."""
    loaded.check()
    assert not loaded.conn.in_transaction
    loaded.conn.execute("begin")
    loaded.check()
    assert loaded.conn.in_transaction
    loaded.conn.execute("rollback")


def test_nearest_rolled_back_then_others_write_is_seen(loaded):
    """The number after a rollback is not mistaken for that of another write."""
    before = dict(loaded.entries)
    for n in range(20):
        loaded.conn.execute("begin")
        loaded.put("a0")
        loaded.conn.execute("rollback")
        loaded.entries = dict(before)
        if n % 2:
            loaded.put("a0", conn=loaded.other)
            before = dict(loaded.entries)
        loaded.check_all()


def test_nearest_other_uncommitted_not_seen(loaded):
    """What another connection has not committed is not there."""
    before = dict(loaded.entries)
    loaded.other.execute("pragma journal_mode = wal")
    loaded.other.execute("begin immediate")
    loaded.put("a0", conn=loaded.other)
    after, loaded.entries = loaded.entries, before
    loaded.check_all()
    loaded.other.execute("commit")
    loaded.entries = after
    loaded.check_all()


def test_nearest_metric_learned_after_first_search_is_current(tmp_path, monkeypatch):
    """A collection of another tool is compared by cosine until its model's metric is known."""
    file = File(tmp_path / "a.db", "cosine", monkeypatch)
    with closing(file):
        for n in range(20):
            file.put(f"a{n}", encode([(n + 1) * x for x in file.vector()]))
        file.check_all()
        file.conn.execute("update _embed_collections set metric = 'dot'")
        file.record = file.store.get_collection("c")
        for _ in range(10):
            file.check(1)


def test_nearest_too_large_scanned_instead(tmp_path, monkeypatch):
    """Over the limit nothing is kept, and the answer is the same."""
    limit = 20 * DIMENSIONS * 4
    file = File(tmp_path / "a.db", "cosine", monkeypatch, limit)
    scans = []
    scan = matrix_module.nearest
    monkeypatch.setattr(
        matrix_module, "nearest", lambda *a, **kw: (scans.append(1), scan(*a, **kw))[1]
    )
    with closing(file):
        for n in range(20):
            file.put(f"a{n}")
        file.check_all()
        assert scans == []
        file.put("one more")
        for k in (1, 5, 50):
            file.check(k, without="a3", prefix="a")
        assert len(scans) == 3
        file.remove("a0")
        file.check_all()
        assert len(scans) == 3


def test_nearest_random_changes_as_scan_and_oracle(loaded):
    """Any order of writes by both connections, transactions and searches."""
    chooser = random.Random(11)
    for _ in range(150):
        conn = chooser.choice([loaded.conn, loaded.other])
        action = chooser.choice(["put", "put", "damage", "remove", "rollback", "triggers", "table"])
        some = chooser.choice([f"a{n}" for n in range(0, 60, 2)])
        if action == "put":
            loaded.put(some, conn=conn)
        elif action == "damage":
            loaded.put(some, chooser.choice(UNUSABLE), conn=conn)
        elif action == "remove" and some in loaded.entries:
            loaded.remove(some, conn=conn)
        elif action == "rollback":
            before = dict(loaded.entries)
            conn.execute("begin immediate")
            loaded.put(some, conn=conn)
            conn.execute("rollback")
            loaded.entries = before
        elif action == "triggers":
            name = chooser.choice(sorted(TRIGGERS))
            conn.execute(f"drop trigger if exists {name}")
            if chooser.random() < 0.7:
                loaded.put(some, conn=conn)
            if chooser.random() < 0.5:
                ensure_schema(chooser.choice([loaded.conn, loaded.other]), "a.db")
        else:
            conn.execute("create table if not exists t (x)")
            conn.execute("insert into t values (1)")
        if chooser.random() < 0.7:
            loaded.check(chooser.choice([1, 5, 100]), prefix=chooser.choice(["", "a", "b", "a1"]))
    loaded.check(100)


NOCASE_FILE = (
    "create table collections (id integer primary key, name text, model text)",
    "create table embeddings (collection_id integer, id text collate nocase, embedding blob,"
    " content text, content_blob blob, content_hash blob, metadata text, updated integer)",
    "insert into collections values (1, 'c', 'm')",
)


@pytest.mark.parametrize(
    ("ids", "prefix"),
    [
        *((("a1", "B1", "b2", "C1", "a2"), prefix) for prefix in ("", "a", "A", "b", "B", "c")),
        (("a1", "A1", "b", "B", "c"), ""),
    ],
)
def test_nearest_ids_of_a_column_without_case_are_taken_as_they_are(tmp_path, ids, prefix):
    """A stranger's column may compare otherwise; prefixes, order and vectors do not care."""
    path = tmp_path / "nocase.db"
    numbers = {entry_id: [1.0, 2.0, 3.0, float(n)] for n, entry_id in enumerate(ids)}
    execute(path, *NOCASE_FILE)
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.executemany(
            "insert into embeddings (collection_id, id, embedding) values (1, ?, ?)",
            [(entry_id, encode(vector)) for entry_id, vector in numbers.items()],
        )
    query = encode([1.0, 2.0, 3.0, 4.0])
    # The farther along, the nearer to the query.
    wanted = [entry_id for entry_id in reversed(ids) if entry_id.startswith(prefix)]
    with closing(open_database(path)) as conn:
        store = Store(conn)
        record = store.get_collection("c")
        scan = nearest(store, record, query, 9, prefix=prefix)
        assert [hit.entry_id for hit in scan.hits] == wanted
        assert MatrixSearch(store).nearest(record, query, 9, prefix=prefix) == scan


def test_nearest_smallest_of_numbers_have_a_direction_too(tmp_path, monkeypatch):
    """A vector of the smallest float32s points where its query points: cosine 1."""
    file = File(tmp_path / "tiny.db", "cosine", monkeypatch)
    try:
        file.put("tiny", encode([1e-45] * DIMENSIONS))
        file.put("near", encode([1.0] * (DIMENSIONS - 1) + [0.9]))
        file.put("large", encode([3e38] * (DIMENSIONS - 1) + [-3.4e38]))
        query = encode([1.0] * DIMENSIONS)
        for k in (1, 2, 3):
            scan = nearest(file.store, file.record, query, k)
            assert [hit.entry_id for hit in scan.hits] == ["tiny", "near", "large"][:k]
            assert scan.hits[0].score == pytest.approx(1.0, abs=1e-12)
            assert scan.unusable == 0
            assert file.search.nearest(file.record, query, k) == scan
    finally:
        file.close()
