"""Exact search against plain Python arithmetic."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from contextlib import closing

import pytest

from datasette_embed.database import open_database
from datasette_embed.entries import end_of_prefix
from datasette_embed.errors import DimensionMismatchError, InvalidVectorError
from datasette_embed.records import CollectionRecord
from datasette_embed.schema import ensure_schema
from datasette_embed.searching.exact import Hit, nearest
from datasette_embed.store import Store

NAN, INF = float("nan"), float("inf")


def encode(vector):
    return struct.pack(f"<{len(vector)}f", *vector)


@pytest.fixture
def conn(tmp_path):
    """A connection to a file with the tables."""
    with closing(open_database(tmp_path / "a.db", writable=True, create=True)) as conn:
        ensure_schema(conn, "a.db")
        yield conn


def fill(conn, entries, *, metric="cosine", dimensions=None):
    """Make the collection ``c`` of (id, stored value)."""
    store = Store(conn)
    record = store.create_collection(
        CollectionRecord(0, "c", "m", metric=metric, fingerprint="m", dimensions=dimensions)
    )
    conn.executemany(
        "insert into embeddings (collection_id, id, embedding) values (?, ?, ?)",
        [(record.id, entry_id, value) for entry_id, value in entries],
    )
    return store, store.get_collection("c")


def oracle(entries, query, metric):
    """Return the scores in float64, best first, ties by id."""

    def score(vector):
        dot = math.fsum(a * b for a, b in zip(vector, query, strict=True))
        return dot if metric == "dot" else dot / math.hypot(*vector) / math.hypot(*query)

    return sorted(((score(v), i) for i, v in entries), key=lambda pair: (-pair[0], pair[1]))


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 5, 40, 1000])
def test_nearest_random_vectors_as_oracle(conn, metric, k, monkeypatch):
    """The order and the scores are those of the definition, over several windows."""
    original = Store.iter_embeddings
    monkeypatch.setattr(Store, "iter_embeddings", lambda self, i, **kw: original(self, i, 7, **kw))
    chooser = random.Random(1)
    entries = [(f"id{n}", [chooser.uniform(-1, 1) for _ in range(6)]) for n in range(40)]
    query = [chooser.uniform(-1, 1) for _ in range(6)]
    store, record = fill(conn, [(i, encode(v)) for i, v in entries], metric=metric)
    found = nearest(store, record, encode(query), k)
    expected = oracle(entries, query, metric)[:k]
    assert [hit.entry_id for hit in found.hits] == [entry_id for _, entry_id in expected]
    assert [hit.score for hit in found.hits] == pytest.approx([s for s, _ in expected], abs=1e-6)
    assert found.unusable == 0


def test_nearest_ties_by_entry_id(conn):
    """Equal scores come in the order of ids, also where k cuts through them."""
    entries = [(name, encode([2.0, 0.0])) for name in "dbca"] + [("z", encode([0.0, 1.0]))]
    store, record = fill(conn, entries)
    found = nearest(store, record, encode([1.0, 0.0]), 3)
    assert found.hits == [Hit("a", 1.0), Hit("b", 1.0), Hit("c", 1.0)]


def test_nearest_without_itself_still_k_hits(conn):
    """The entry that is left out costs no place, even among equals."""
    entries = [(name, encode([1.0, 0.0])) for name in "abcd"]
    store, record = fill(conn, entries)
    found = nearest(store, record, encode([1.0, 0.0]), 3, without="b")
    assert [hit.entry_id for hit in found.hits] == ["a", "c", "d"]
    assert nearest(store, record, encode([1.0, 0.0]), 1, without="a").hits == [Hit("b", 1.0)]


def test_nearest_empty_collection_nothing(conn):
    """A collection without entries has no hits."""
    store, record = fill(conn, [])
    found = nearest(store, record, encode([1.0]), 5)
    assert (found.hits, found.unusable) == ([], 0)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_nearest_damaged_values_counted_not_ranked(conn, metric):
    """What is no vector of this collection is left out and counted, in either metric."""
    entries = [
        ("good", encode([1.0, 2.0])),
        ("odd", b"abc"),
        ("empty", b""),
        ("long", encode([1.0, 2.0, 3.0])),
        ("null", None),
        ("text", "abcdefgh"),
        ("number", 5),
        ("zero", encode([0.0, 0.0])),
        ("nan", encode([1.0, NAN])),
        ("infinite", encode([INF, 1.0])),
        ("negative", encode([-INF, 1.0])),
        ("worse", encode([-1.0, 2.0])),
    ]
    store, record = fill(conn, entries, metric=metric)
    found = nearest(store, record, encode([1.0, 1.0]), 20)
    assert [hit.entry_id for hit in found.hits] == ["good", "worse"]
    assert found.unusable == 10


@pytest.mark.parametrize(
    "query", [[0.0, 0.0], [NAN, 1.0], [INF, 0.0]], ids=["zero", "nan", "infinite"]
)
def test_nearest_query_without_direction_refused(conn, query):
    """The query is at fault then, not the entries."""
    store, record = fill(conn, [("a", encode([1.0, 0.0]))])
    with pytest.raises(InvalidVectorError, match="zero, or has NaN or infinity"):
        nearest(store, record, encode(query), 5)


@pytest.mark.parametrize("k", [0, -1, -5])
def test_nearest_k_below_one_refused(conn, k):
    """Nothing is no number of neighbours, in an empty collection either."""
    store, record = fill(conn, [])
    with pytest.raises(ValueError, match=f"k must be at least 1, not {k}"):
        nearest(store, record, encode([1.0]), k)


def test_nearest_other_dimensions_refused(conn):
    """Both lengths are named."""
    store, record = fill(conn, [("a", encode([1.0, 0.0]))])
    with pytest.raises(DimensionMismatchError, match="a vector has 3 dimensions instead of 2"):
        nearest(store, record, encode([1.0, 0.0, 0.0]), 5)
    for blob in (b"", b"abc"):
        with pytest.raises(InvalidVectorError, match="blob|bytes"):
            nearest(store, record, blob, 5)


def test_nearest_other_collection_not_looked_at(conn):
    """Only this collection's entries are compared."""
    store, record = fill(conn, [("a", encode([1.0, 0.0]))])
    conn.execute("insert into embeddings (collection_id, id, embedding) values (99, 'b', x'00')")
    found = nearest(store, record, encode([1.0, 0.0]), 5)
    assert (found.hits, found.unusable) == ([Hit("a", 1.0)], 0)


@pytest.mark.parametrize("entry_id", ["é🎉", "100%", "a_b", "a'b", "", " "])
def test_nearest_odd_ids_come_back(conn, entry_id):
    """Ids are text that is never parsed."""
    store, record = fill(conn, [(entry_id, encode([1.0, 0.0]))])
    assert nearest(store, record, encode([2.0, 0.0]), 5).hits == [Hit(entry_id, 1.0)]


IDS = ["a", "A", "a_", "aXb", "a%", "ab", "%", "_", "é", "É", "e\u0301", "\ud7ff", "\ud7ffx"]
IDS += ["\ue000", "\U0010ffff", "\U0010ffffx", "a\U0010ffff", "b", "ÿ", "Ā", "", "z"]


@pytest.mark.parametrize("window", [1, 3, 10_000])
@pytest.mark.parametrize("prefix", [*IDS, "a\U0010ffff\U0010ffff", "zz"])
def test_nearest_prefix_exact_and_case_sensitive(conn, prefix, window, monkeypatch):
    """Only ids that begin with it, whatever characters it has, over any windows."""
    original = Store.iter_embeddings
    monkeypatch.setattr(
        Store, "iter_embeddings", lambda self, i, **kw: original(self, i, window, **kw)
    )
    store, record = fill(conn, [(name, encode([1.0, n])) for n, name in enumerate(IDS)])
    found = nearest(store, record, encode([1.0, 0.0]), 100, prefix=prefix)
    wanted = [name for name in IDS if name.startswith(prefix)]  # the scores fall with n
    assert [hit.entry_id for hit in found.hits] == wanted
    best = nearest(store, record, encode([1.0, 0.0]), 1, prefix=prefix)
    assert [hit.entry_id for hit in best.hits] == wanted[:1]


def test_nearest_prefix_counts_unusable_inside_it_only(conn):
    """What cannot be compared elsewhere is not this search's concern."""
    entries = [("a1", encode([1.0, 0.0])), ("a2", b"odd"), ("a3", None), ("b1", b"odd")]
    store, record = fill(conn, entries, dimensions=2)
    found = nearest(store, record, encode([1.0, 0.0]), 9, prefix="a")
    assert (found.hits, found.unusable) == ([Hit("a1", 1.0)], 2)
    found = nearest(store, record, encode([1.0, 0.0]), 9, prefix="a", without="a1")
    assert (found.hits, found.unusable) == ([], 2)


@pytest.mark.parametrize("characters", ["ab", "a%_A", "\ud7ff\ue000\U0010ffff"])
def test_end_of_prefix_divides_all_texts(characters):
    """It is above all that begin with the prefix, and not above anything behind those."""
    texts = [""]
    for _ in range(4):
        texts += [text + c for text in texts for c in characters if len(text) < 4]
    texts = sorted({*texts, *(text + "\0" for text in texts)})
    for prefix in {text for text in texts if len(text) <= 2}:
        end = end_of_prefix(prefix)
        found = [text for text in texts if text >= prefix and (end is None or text < end)]
        assert found == [text for text in texts if text.startswith(prefix)], repr(prefix)


@pytest.mark.parametrize("window", [3, 10_000])
def test_nearest_dot_lengths_far_apart_as_oracle(conn, window, monkeypatch):
    """Long rows make float32 coarse: what is near the k-th is ranked in float64."""
    original = Store.iter_embeddings
    monkeypatch.setattr(
        Store, "iter_embeddings", lambda self, i, **kw: original(self, i, window, **kw)
    )
    chooser = random.Random(2)
    entries = []
    for n in range(60):
        size = 10.0 ** chooser.randint(-6, 6)
        entries.append((f"id{n:02}", [chooser.uniform(-1, 1) * size for _ in range(12)]))
    entries = [(i, list(struct.unpack("<12f", encode(v)))) for i, v in entries]
    store, record = fill(conn, [(i, encode(v)) for i, v in entries], metric="dot")
    for _ in range(20):
        query = list(struct.unpack("<12f", encode([chooser.uniform(-1, 1) for _ in range(12)])))
        for k in (1, 7, 59):
            found = nearest(store, record, encode(query), k)
            wanted = oracle(entries, query, "dot")[:k]
            assert [hit.entry_id for hit in found.hits] == [i for _, i in wanted]
            scores = [hit.score for hit in found.hits]
            assert scores == pytest.approx([s for s, _ in wanted], rel=1e-9, abs=1e-9)


def test_nearest_equal_up_to_float32_ranked_in_float64(conn):
    """Rows whose float32 scores are the same, or in the wrong order, come in the right one."""
    chooser = random.Random(3)
    base = [chooser.uniform(-1, 1) for _ in range(32)]
    entries = []
    for n in range(50):
        vector = [x * (1 + chooser.choice([-1, 0, 1]) * 2**-23) for x in base]
        entries.append((f"id{n:02}", list(struct.unpack("<32f", encode(vector)))))
    query = list(struct.unpack("<32f", encode([chooser.uniform(-1, 1) for _ in range(32)])))
    store, record = fill(conn, [(i, encode(v)) for i, v in entries])
    exact = dict((i, s) for s, i in oracle(entries, query, "cosine"))
    for k in (1, 5, 20):
        found = [hit.entry_id for hit in nearest(store, record, encode(query), k).hits]
        worst = sorted(exact.values(), reverse=True)[k - 1]
        assert all(exact[entry_id] >= worst - 1e-12 for entry_id in found)
        assert len(set(found)) == k


def test_nearest_values_of_megabytes_are_counted_and_not_read(conn):
    """A stranger's file may hold gigabytes in the place of vectors."""
    store, record = fill(conn, [("a", encode([1.0, 0.0])), ("z", encode([0.0, 1.0]))], dimensions=2)
    for n in range(8):
        conn.execute(
            "insert into embeddings (collection_id, id, embedding) values (?, ?, zeroblob(?))",
            (record.id, f"m{n}", 5_000_000),
        )
    tracemalloc.start()
    try:
        found = nearest(store, record, encode([1.0, 0.0]), 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.hits == [Hit("a", 1.0), Hit("z", 0.0)]
    assert found.unusable == 8
    assert peak < 5_000_000
