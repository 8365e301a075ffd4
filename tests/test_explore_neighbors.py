"""The nearest entries of every entry, against float64 loops in pure Python."""

from __future__ import annotations

import math
import struct
from contextlib import closing

import numpy as np
import pytest

from datasette_embed.database import open_database
from datasette_embed.explore import neighbors
from datasette_embed.explore.neighbors import find_neighbors, read_vectors
from datasette_embed.records import CollectionRecord, NewEntry
from datasette_embed.schema import ensure_schema
from datasette_embed.store import Store
from tests.storage import execute


def blob(numbers):
    """Write the blob without the module under test."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def write(path, vectors, metric="cosine", name="docs"):
    """Make a collection of ``entry id -> numbers or blob``."""
    with closing(open_database(path, writable=True, create=True)) as conn:
        ensure_schema(conn, str(path))
        store = Store(conn)
        dimensions = max((len(v) for v in vectors.values() if isinstance(v, list)), default=None)
        record = store.create_collection(
            CollectionRecord(0, name, "m", dimensions, metric=metric, fingerprint="f")
        )
        store.write_entries(
            record.id,
            [
                NewEntry(entry_id, value if isinstance(value, bytes) else blob(value), b"")
                for entry_id, value in vectors.items()
            ],
        )
    return path


def read(path, name="docs"):
    with closing(open_database(path)) as conn:
        store = Store(conn)
        return read_vectors(store, store.get_collection(name))


def listed(vectors, found, rows=None):
    """Return ``id -> [(other id, score)]``."""
    rows = range(len(vectors.ids)) if rows is None else rows
    return {
        vectors.ids[row]: [
            (vectors.ids[place], score)
            for place, score in zip(places, scores, strict=True)
            if place >= 0
        ]
        for row, places, scores in zip(
            rows, found.places.tolist(), found.scores.tolist(), strict=True
        )
    }


def oracle(vectors, k, metric="cosine"):
    """Return the same for ``id -> numbers``, in pure Python; ids that are usable only."""

    def score(a, b):
        product = math.fsum(x * y for x, y in zip(a, b, strict=True))
        if metric == "dot":
            return product
        squares = [math.fsum(x * x for x in v) for v in (a, b)]
        return min(1.0, max(-1.0, product / math.sqrt(squares[0] * squares[1])))

    usable = {i: v for i, v in vectors.items() if any(v)}
    return {
        i: sorted(
            ((other, score(v, w)) for other, w in usable.items() if other != i),
            key=lambda pair: (-pair[1], pair[0]),
        )[:k]
        for i, v in usable.items()
    }


def whole_numbers(count, dimensions, seed=0, largest=3):
    """Return vectors whose products are exact, whatever the order of summing."""
    drawn = np.random.default_rng(seed).integers(-largest, largest + 1, (count, dimensions))
    return {f"id{n:03}": [float(x) for x in row] for n, row in enumerate(drawn)}


def gaussian(count, dimensions, seed=0):
    drawn = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return {f"id{n:03}": row.tolist() for n, row in enumerate(drawn)}


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 4, 59, 200])
def test_find_neighbors_is_the_oracle_with_ties_by_id(tmp_path, metric, k):
    """Scores equal to the last bit, never itself, ties by id; many vectors are the same."""
    vectors = whole_numbers(60, 3)
    vectors |= {"z": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0], "é%_": [1.0, 2.0, 3.0]}
    stored = read(write(tmp_path / "a.db", vectors, metric))
    assert listed(stored, find_neighbors(stored, k)) == oracle(vectors, k, metric)


@pytest.mark.parametrize("block_bytes", [1, 700, 5_000])
def test_find_neighbors_small_blocks_same_bits(tmp_path, monkeypatch, block_bytes):
    """How the work is cut up changes nothing."""
    stored = read(write(tmp_path / "a.db", gaussian(50, 33)))
    whole = listed(stored, find_neighbors(stored, 5))
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", block_bytes)
    again = read(tmp_path / "a.db")
    assert again.squares.tolist() == stored.squares.tolist()
    assert listed(again, find_neighbors(again, 5)) == whole


@pytest.mark.parametrize("dimensions", [1, 2, 3, 7, 8, 9, 33, 384])
def test_score_of_a_pair_same_bits_in_any_company_and_order(tmp_path, dimensions):
    """One at a time, three at a time, all at once, and the other way round."""
    stored = read(write(tmp_path / "a.db", gaussian(40, dimensions)))
    first, second = np.random.default_rng(1).integers(0, 40, (2, 90))
    together = stored.score(first, second)
    assert stored.score(second, first).tolist() == together.tolist()
    for size in (1, 3, 7):
        parts = [
            stored.score(first[at : at + size], second[at : at + size]) for at in range(0, 90, size)
        ]
        assert np.concatenate(parts).tolist() == together.tolist()


def test_score_of_equal_vectors_is_exactly_one(tmp_path):
    """Also of one and its multiple by a power of two; and of opposites minus one."""
    vector = gaussian(1, 384)["id000"]
    vectors = {"a": vector, "b": vector, "c": [x / 4 for x in vector], "d": [-x for x in vector]}
    stored = read(write(tmp_path / "a.db", vectors))
    assert listed(stored, find_neighbors(stored, 3))["a"] == [("b", 1.0), ("c", 1.0), ("d", -1.0)]


def test_score_of_multiples_is_never_above_one(tmp_path):
    """Rounding would give 1.0000000000000002 for some of them."""
    random = np.random.default_rng(0)
    drawn = random.integers(1, 2**20, (100, 33)) * 2.0 ** random.integers(-9, 9, (100, 33))
    vectors = {f"{n:03}": row.tolist() for n, row in enumerate(drawn)}
    vectors |= {f"{i}x": [3.0 * x for x in v] for i, v in vectors.items()}
    stored = read(write(tmp_path / "a.db", vectors))
    first = np.arange(0, 200, 2)
    squares = stored.squares[first] * stored.squares[first + 1]
    products = neighbors._inner_products(stored.matrix, first, first + 1)
    assert (products / np.sqrt(squares)).max() > 1.0
    best = find_neighbors(stored, 1).scores
    assert best.max() == 1.0
    assert best.min() > 0.999999


@pytest.mark.parametrize("most_candidates", [0, 1_000])
def test_find_neighbors_nearer_than_float32_tells_apart_is_the_oracle(
    tmp_path, monkeypatch, most_candidates
):
    """Vectors that float32 cannot order are ordered in float64, by both ways."""
    monkeypatch.setattr(neighbors, "_MOST_CANDIDATES", most_candidates)
    base = gaussian(1, 20)["id000"]
    noise = np.random.default_rng(2).standard_normal((80, 20)) * 1e-5
    near = (np.array(base) + noise).astype(np.float32)
    vectors = {f"n{at:02}": row.tolist() for at, row in enumerate(near)} | gaussian(20, 20, 3)
    stored = read(write(tmp_path / "a.db", vectors))
    found, expected = listed(stored, find_neighbors(stored, 6)), oracle(vectors, 6)
    scores = {i: dict(others) for i, others in oracle(vectors, 99).items()}
    for entry_id, others in found.items():
        wanted = [score for _, score in expected[entry_id]]
        # Two that float64 cannot order either may change places.
        assert [scores[entry_id][other] for other, _ in others] == pytest.approx(wanted, abs=1e-15)
        assert [score for _, score in others] == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_find_neighbors_extreme_lengths_do_not_overflow(tmp_path, metric):
    """The largest and smallest floats, beside ordinary ones."""
    vectors = {
        "huge": [3e38, 3e38, 3e38],
        "huge2": [3e38, 0.0, -3e38],
        "one": [1.0, 2.0, 3.0],
        "tiny": [1e-38, 2e-38, -1e-38],
        "subnormal": [1e-44, 0.0, 0.0],
    }
    stored = read(write(tmp_path / "a.db", vectors, metric))
    found = listed(stored, find_neighbors(stored, 4))
    narrow = {i: list(struct.unpack("<3f", blob(v))) for i, v in vectors.items()}
    for entry_id, others in oracle(narrow, 4, metric).items():
        assert [other for other, _ in found[entry_id]] == [other for other, _ in others]
        wanted = [score for _, score in others]
        assert [score for _, score in found[entry_id]] == pytest.approx(wanted, rel=1e-12)


def test_find_neighbors_some_rows_some_columns(tmp_path):
    """Only those are answered, only from those, and still never itself."""
    vectors = whole_numbers(30, 4)
    stored = read(write(tmp_path / "a.db", vectors))
    rows, columns = np.array([0, 3, 29]), np.array([3, 4, 17, 29])
    found = listed(stored, find_neighbors(stored, 3, rows=rows, columns=columns), rows.tolist())
    everything = oracle(vectors, 99)
    allowed = {stored.ids[column] for column in columns}
    assert found == {
        stored.ids[row]: [p for p in everything[stored.ids[row]] if p[0] in allowed][:3]
        for row in rows
    }


def test_find_neighbors_many_equal_vectors_smallest_ids(tmp_path, monkeypatch):
    """All have score 1; the smallest ids win, without comparing each with each."""
    compared = []
    inner_products = neighbors._inner_products

    def counting(matrix, first, second):
        compared.append(len(first))
        return inner_products(matrix, first, second)

    vectors = {f"{n:03}": [1.0, 2.0, 2.0] for n in range(300)}
    stored = read(write(tmp_path / "a.db", vectors))
    monkeypatch.setattr(neighbors, "_inner_products", counting)
    found = listed(stored, find_neighbors(stored, 2))
    assert found["000"] == [("001", 1.0), ("002", 1.0)]
    assert found["001"] == [("000", 1.0), ("002", 1.0)]
    assert found["299"] == [("000", 1.0), ("001", 1.0)]
    assert sum(compared) <= 300 * 3


def test_read_vectors_unusable_left_out_and_counted(tmp_path):
    """Wrong length, odd length, zero, NaN, infinity, text and NULL."""
    vectors = {
        "good": [1.0, 2.0],
        "long": blob([1.0, 2.0, 3.0]),
        "odd": b"\0\0\0\1\1",
        "zero": [0.0, 0.0],
        "nan": blob([math.nan, 1.0]),
        "signalling": bytes.fromhex("0100a07f") + blob([1.0]),
        "inf": blob([1.0, math.inf]),
        "empty": b"",
        "also good": [3.0, 4.0],
    }
    path = write(tmp_path / "a.db", vectors)
    execute(
        path,
        "insert into embeddings (collection_id, id, embedding) values (1, 'text', 'abcdefgh')",
        "insert into embeddings (collection_id, id, embedding) values (1, 'null', null)",
        "insert into embeddings (collection_id, id, embedding)"
        " values (1, x'01', x'0000803f0000803f')",
    )
    stored = read(path)
    assert stored.ids == ["also good", "good"]
    # Not the one without a text for an id, which ``check`` counts.
    assert stored.left_out == 9
    assert stored.matrix.tolist() == [[0.375, 0.5], [0.25, 0.5]]
    assert stored.exponents.tolist() == [3, 2]


@pytest.mark.parametrize("vectors", [{}, {"a": [1.0, 2.0]}, {"a": [0.0, 0.0]}])
def test_find_neighbors_none_or_one_entry_has_no_neighbors(tmp_path, vectors):
    """Nobody is their own neighbour."""
    stored = read(write(tmp_path / "a.db", vectors))
    found = find_neighbors(stored, 3)
    assert found.places.shape == (len(stored.ids), 3)
    assert (found.places == -1).all()


def test_read_vectors_absurd_dimensions_take_no_memory(tmp_path):
    """What the file says of itself is not believed."""
    path = write(tmp_path / "a.db", {"a": [1.0, 2.0]})
    execute(path, "update _embed_collections set dimensions = 9000000000000")
    stored = read(path)
    assert (stored.ids, stored.left_out) == ([], 1)


def test_find_neighbors_reports_up_to_the_end(tmp_path, monkeypatch):
    """Progress ends with all of them."""
    stored = read(write(tmp_path / "a.db", whole_numbers(10, 4)))
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", 4 * len(stored.ids) * 4)
    said = []
    find_neighbors(stored, 2, report=lambda done, total: said.append((done, total)))
    assert said == [(4, 10), (8, 10), (10, 10)]
