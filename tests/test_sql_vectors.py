"""Tests of datasette_embed.sql_vectors: the SQL functions, most of them through SQLite."""

import json
import math
import sqlite3
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasette_embed import sql_vectors, vectors
from datasette_embed.errors import DimensionMismatchError, InvalidVectorError

NAN, INF = float("nan"), float("inf")


def blob_of(numbers):
    """Write the blob without the code under test."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def floats_of(blob):
    """Read a blob without the code under test."""
    return list(struct.unpack(f"<{len(blob) // 4}f", blob))


def float32(number):
    """Round to float32."""
    return struct.unpack("<f", struct.pack("<f", number))[0]


def oracle_dot(a, b):
    """Return the inner product in float64."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def oracle_cosine(a, b):
    """Return the cosine in float64."""
    return oracle_dot(a, b) / (math.sqrt(oracle_dot(a, a)) * math.sqrt(oracle_dot(b, b)))


def oracle_l2(a, b):
    """Return the distance in float64."""
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


ORACLES = {"cosine": oracle_cosine, "dot": oracle_dot, "l2": oracle_l2}
#: What no function can use; every one of them gives NULL.
UNUSABLE = [
    None,
    "",
    " \n",
    "[]",
    "[0, 0]",
    "[NaN, 1]",
    "[1e400, 1]",
    "[1" + "0" * 400 + ", 1]",
    b"",
    b"123",
    b"1234567",
    blob_of([0.0, 0.0]),
    blob_of([NAN, 1.0]),
    blob_of([1.0, INF]),
    blob_of([-INF, 1.0]),
]
#: What is no vector at all.
WRONG = [
    (1, "a BLOB of float32 or a JSON array, not integer"),
    (1.5, "a BLOB of float32 or a JSON array, not real"),
    ("hello", "this text is not JSON"),
    ("[1, 2", "this text is not JSON"),
    ("[" * 100_000, "this text is not JSON"),
    ("3", "this JSON is something else"),
    ('{"a": 1}', "this JSON is something else"),
    ('["1"]', "this JSON is something else"),
    ("[[1, 2]]", "this JSON is something else"),
    ("[1, null]", "this JSON is something else"),
    ("[true]", "this JSON is something else"),
]


@pytest.fixture(params=["numkong", "numpy"])
def kernels(request, monkeypatch):
    """The kernels of each package in turn, also as the package's own."""
    found = vectors.numkong_kernels() if request.param == "numkong" else vectors.numpy_kernels()
    if found is None:
        pytest.skip("numkong is not installed")
    monkeypatch.setattr(vectors, "kernels", lambda: found)
    return found


@pytest.fixture
def functions(kernels):
    """The three measures as one connection gets them, the kernel not yet loaded."""
    return {
        "cosine": sql_vectors.cosine_function(),
        "dot": sql_vectors.dot_function(),
        "l2": sql_vectors.l2_function(),
    }


@pytest.fixture
def db(functions):
    """A connection with every function, and a table of vectors of two dimensions."""
    connection = sqlite3.connect(":memory:")
    for name, function in functions.items():
        connection.create_function(name, 2, function, deterministic=True)
    connection.create_aggregate("average", 1, sql_vectors.Average)
    connection.create_aggregate("total", 1, sql_vectors.Sum)
    connection.create_aggregate("top", 4, sql_vectors.Top)
    connection.execute("create table v (id, vector)")
    yield connection
    connection.close()


def one(db, sql, *values):
    """Return the one value a query gives."""
    return db.execute(sql, values).fetchone()[0]


# cosine, dot, l2


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("size", [1, 2, 3, 17, 384, 1536])
def test_measure_agrees_with_the_oracle_in_every_form(functions, name, size):
    """BLOB or JSON text on either side, first call or later."""
    a, b = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32).tolist()
    expected = pytest.approx(ORACLES[name](a, b), rel=1e-6, abs=1e-9)
    measure = functions[name]
    for first in (blob_of(a), json.dumps(a)):
        for second in (blob_of(b), json.dumps(b)):
            assert measure(first, second) == expected
            assert measure(second, first) == expected


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("bad", UNUSABLE)
def test_measure_of_an_unusable_value_is_null(functions, name, bad):
    """On either side or both, before and after the kernel is loaded."""
    good, measure = blob_of([1.0, 2.0]), functions[name]
    for _ in range(2):
        assert measure(bad, good) is None
        assert measure(good, bad) is None
        assert measure(bad, bad) is None
        assert measure(good, good) is not None


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_measure_of_what_is_no_vector_raises(functions, name, wrong, message):
    """The message says what is expected, and does not repeat the text."""
    for a, b in ((wrong, blob_of([1])), (blob_of([1]), wrong), (wrong, wrong)):
        with pytest.raises(InvalidVectorError, match=message) as caught:
            functions[name](a, b)
        assert "hello" not in str(caught.value)


@pytest.mark.parametrize("name", ORACLES)
def test_measure_of_two_lengths_raises_naming_both(functions, name):
    """The order of the message is the order of the arguments."""
    long, short = blob_of([1.0] * 6), blob_of([1.0] * 4)
    for _ in range(2):
        with pytest.raises(DimensionMismatchError, match="vectors of 6 and 4 dimensions: made"):
            functions[name](long, short)
        with pytest.raises(DimensionMismatchError, match="of 1 and 6 .* filter by collection_id"):
            functions[name]("[1]", long)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("odd", [5, 6, 7, 9, 10, 11])
def test_measure_of_equally_odd_blobs_is_null(functions, name, odd):
    """The kernel would read the whole floats before the odd bytes."""
    for _ in range(2):
        assert functions[name](b"abcdefghijkl"[:odd], b"AAAAlkjihgfe"[:odd]) is None
        assert functions[name](b"abcdefghijkl"[:odd], b"abcdefghijkl") is None


def test_cosine_of_exact_ends_is_exact(functions):
    """0, 1 and -1 are also what kernels say for zero vectors."""
    cosine = functions["cosine"]
    assert cosine(blob_of([1, 0]), blob_of([0, 1])) == 0.0
    assert cosine(blob_of([2, 0]), blob_of([1, 0])) == 1.0
    assert cosine(blob_of([2, 0]), blob_of([-1, 0])) == -1.0
    assert functions["dot"](blob_of([1, 0]), blob_of([0, 1])) == 0.0
    assert functions["l2"](blob_of([1, 0]), blob_of([1, 0])) == 0.0


def test_cosine_never_leaves_its_range(functions):
    """For equal and opposite vectors, where rounding could."""
    random = np.random.default_rng(9)
    for _ in range(300):
        vector = random.standard_normal(50).astype(np.float32)
        same = functions["cosine"](vector.tobytes(), (vector * np.float32(3)).tobytes())
        opposite = functions["cosine"](vector.tobytes(), (-vector).tobytes())
        assert 0.999999 < same <= 1.0
        assert -1.0 <= opposite < -0.999999


@pytest.mark.parametrize("distance", [-1e-15, 2 + 1e-15, NAN, INF, -INF])
def test_cosine_of_a_kernel_that_leaves_its_range_is_calculated_again(distance):
    """Another build of the kernel may round otherwise."""
    odd = vectors.Kernels("odd", lambda a, b, dtype: distance, None, None)
    assert -1.0 <= sql_vectors.cosine_function(odd)("[3, 1]", "[-3, -1]") < -0.999999
    assert -1.0 <= sql_vectors.cosine_function(odd)(blob_of([3, 1]), blob_of([-3, -1])) < -0.9


@pytest.mark.parametrize("magnitude", [1e-44, 1e-30, 1e-19, 1.0, 1e19, 1e38])
def test_cosine_is_right_for_every_magnitude(functions, magnitude):
    """Where float32 sums would vanish or overflow."""
    a = [float32(magnitude * x) for x in (3, 1, 0, 2)]
    b = [float32(magnitude * x) for x in (1, 2, 3, -1)]
    assert functions["cosine"](blob_of(a), blob_of(b)) == pytest.approx(oracle_cosine(a, b))


def test_order_by_cosine_puts_the_best_first_and_null_last(db):
    """The query of the manual, in both orders of the arguments, as parameter and as CTE."""
    random = np.random.default_rng(3)
    rows = {f"r{at}": random.standard_normal(24).astype(np.float32).tolist() for at in range(60)}
    query = random.standard_normal(24).astype(np.float32).tolist()
    db.executemany("insert into v values (?, ?)", [(i, blob_of(x)) for i, x in rows.items()])
    db.executemany("insert into v values (?, ?)", [("nan", blob_of([NAN] * 24)), ("null", None)])
    expected = sorted(rows, key=lambda i: -oracle_cosine(rows[i], query))
    for call in ("cosine(vector, ?)", "cosine(?, vector)"):
        for value in (blob_of(query), json.dumps(query)):
            sql = f"select id from v order by {call} desc"
            ids = [row[0] for row in db.execute(sql, [value])]
            assert ids[:-2] == expected
            assert set(ids[-2:]) == {"nan", "null"}
    cte = "with q as (select ? as q) select id from v, q order by cosine(vector, q) desc limit 10"
    assert [row[0] for row in db.execute(cte, [blob_of(query)])] == expected[:10]


def test_query_that_changes_between_rows_is_followed(db):
    """Nothing of the row before is remembered: a self join compares every pair."""
    rows = {"a": [1.0, 2.0], "b": [2.0, 1.0], "c": [-1.0, 3.0]}
    db.executemany("insert into v values (?, ?)", [(i, blob_of(x)) for i, x in rows.items()])
    found = db.execute("select x.id, y.id, cosine(x.vector, y.vector) from v x, v y").fetchall()
    assert len(found) == 9
    for first, second, score in found:
        assert score == pytest.approx(oracle_cosine(rows[first], rows[second]))


def test_table_of_mixed_dimensions_is_an_error_not_an_answer(db, functions):
    """The row that differs is refused, wherever it stands, and only that one."""
    refused = []

    def checked(a, b):
        try:
            return functions["cosine"](a, b)
        except DimensionMismatchError as error:
            refused.append(str(error))
            return None

    db.create_function("checked", 2, checked)
    db.executemany("insert into v values (?, ?)", [(at, blob_of([1, 2])) for at in range(5)])
    db.execute("insert into v values (2.5, ?)", [blob_of([1, 2, 3])])
    scores = db.execute("select checked(vector, ?) from v order by id", [blob_of([1, 2])])
    assert [row[0] for row in scores] == [pytest.approx(1)] * 3 + [None] + [pytest.approx(1)] * 2
    assert len(refused) == 1 and refused[0].startswith("vectors of 3 and 2 dimensions: made by")


# Functions of one vector or two


@pytest.mark.parametrize(
    ("function", "others"),
    [
        (sql_vectors.dimensions, []),
        (sql_vectors.normalize, []),
        (sql_vectors.truncate, [1]),
        (sql_vectors.scale, [2.0]),
        (sql_vectors.add, [blob_of([1, 2])]),
        (sql_vectors.subtract, [blob_of([1, 2])]),
        (sql_vectors.decode_json, []),
        (sql_vectors.encode_json, []),
    ],
)
def test_every_function_follows_the_input_table(kernels, function, others):
    """Unusable is NULL, something else is an error, a blob and its JSON are the same."""
    for bad in UNUSABLE:
        assert function(bad, *others) is None
    for wrong, message in WRONG:
        with pytest.raises(InvalidVectorError, match=message):
            function(wrong, *others)
    assert function(blob_of([3, 4]), *others) == function("[3, 4]", *others) is not None


def test_dimensions_counts_numbers(kernels):
    """Not bytes."""
    assert sql_vectors.dimensions(blob_of([1.0] * 384)) == 384


def test_json_round_trip_keeps_every_bit(kernels):
    """The text is a JSON array that SQLite and Python can read."""
    blob = blob_of([0.1, -2.0, 1e-45, 3e38])
    text = sql_vectors.decode_json(blob)
    assert json.loads(text) == floats_of(blob)
    assert sql_vectors.encode_json(text) == blob
    assert sql_vectors.encode_json("[1, 2.5]") == blob_of([1, 2.5])
    assert sql_vectors.decode_json(blob_of([1, 0.5])) == "[1.0, 0.5]"


def test_normalize_and_truncate_have_length_one(kernels):
    """truncate keeps the first numbers; n may arrive as text or as a real."""
    assert floats_of(sql_vectors.normalize("[3, 4]")) == pytest.approx([0.6, 0.8])
    for n in (2, "2", 2.0, " 2 "):
        assert floats_of(sql_vectors.truncate("[3, 4, 12]", n)) == pytest.approx([0.6, 0.8])
    assert sql_vectors.truncate("[3, 4]", None) is None
    assert sql_vectors.truncate("[0, 4]", 1) is None


@pytest.mark.parametrize("n", [0, -1, 1.5, "x", "", b"2", INF, NAN])
def test_truncate_to_no_positive_integer_raises(n):
    """A blob is no number either."""
    with pytest.raises(InvalidVectorError, match="n must be a (positive integer|number)"):
        sql_vectors.truncate("[3, 4]", n)


def test_truncate_beyond_the_vector_raises():
    """Silence would make vectors of the wrong length."""
    with pytest.raises(InvalidVectorError, match="2 dimensions has no first 3"):
        sql_vectors.truncate("[3, 4]", 3)


def test_add_subtract_and_scale_are_arithmetic(kernels):
    """germany + paris - france."""
    assert floats_of(sql_vectors.add("[1, 2]", blob_of([3, -5]))) == [4, -3]
    assert floats_of(sql_vectors.subtract("[1, 2]", blob_of([3, -5]))) == [-2, 7]
    for factor in (2, 2.0, "2"):
        assert floats_of(sql_vectors.scale("[1, -2]", factor)) == [2, -4]


def test_results_that_are_no_usable_vector_are_null(kernels):
    """Zero, or beyond float32."""
    assert sql_vectors.subtract("[1, 2]", "[1, 2]") is None
    assert sql_vectors.scale("[1, 2]", 0) is None
    assert sql_vectors.scale("[1, 2]", INF) is None
    assert sql_vectors.scale("[1, 2]", None) is None
    assert sql_vectors.scale("[1, 2]", 1e300) is None
    assert sql_vectors.add("[3e38, 1]", "[3e38, 1]") is None


def test_arithmetic_refuses_two_lengths_and_factors_that_are_no_number():
    """Both errors name what was wrong."""
    for function in (sql_vectors.add, sql_vectors.subtract):
        with pytest.raises(DimensionMismatchError, match="of 1 and 2 dimensions"):
            function("[1]", "[1, 2]")
    for factor, sql_type in (("x", "text"), (b"2", "blob")):
        with pytest.raises(InvalidVectorError, match=f"factor must be a number, not {sql_type}"):
            sql_vectors.scale("[1]", factor)


# Aggregates


def test_average_and_sum_skip_unusable_rows(db):
    """NULL and its kin neither count nor spoil the mean."""
    values = [*UNUSABLE, blob_of([1, 2]), "[3, -6]"]
    db.executemany("insert into v values (1, ?)", [[value] for value in values])
    assert floats_of(one(db, "select average(vector) from v")) == [2, -2]
    assert floats_of(one(db, "select total(vector) from v")) == [4, -4]


def test_average_and_sum_of_nothing_are_null(db):
    """No rows, no usable rows, and rows that cancel out."""
    for function in ("average", "total"):
        assert one(db, f"select {function}(vector) from v") is None
        assert one(db, f"select {function}(x) from (select null as x)") is None
        assert one(db, f"select {function}(value) from json_each('[[1, 2], [-1, -2]]')") is None


def test_average_of_two_lengths_raises():
    """It names the first length and the one that differs."""
    aggregate = sql_vectors.Average()
    aggregate.step("[1, 2]")
    with pytest.raises(DimensionMismatchError, match="of 2 and 3 dimensions"):
        aggregate.step("[1, 2, 3]")


@given(st.lists(st.lists(st.integers(-1000, 1000), min_size=3, max_size=3), max_size=20))
def test_average_is_the_mean_of_the_usable(rows):
    """Against sums in pure Python."""
    aggregate = sql_vectors.Average()
    for row in rows:
        aggregate.step(json.dumps(row))
    usable = [row for row in rows if any(row)]
    mean = [float32(sum(column) / len(usable)) for column in zip(*usable, strict=True)]
    result = aggregate.finalize()
    assert (result and floats_of(result)) == (mean if any(mean) else None)


def test_top_is_the_head_of_a_full_sort(db):
    """For many rows, small and large k, against the oracle."""
    random = np.random.default_rng(4)
    rows = {f"r{at:03}": random.standard_normal(8).astype(np.float32).tolist() for at in range(400)}
    db.executemany("insert into v values (?, ?)", [(i, blob_of(x)) for i, x in rows.items()])
    query = random.standard_normal(8).astype(np.float32).tolist()
    expected = sorted(rows, key=lambda i: -oracle_cosine(rows[i], query))
    for k in (1, 2, 10, 399, 400, 1000, "10"):
        found = json.loads(one(db, "select top(id, vector, ?, ?) from v", blob_of(query), k))
        assert [entry["id"] for entry in found] == expected[: int(k)]
        assert [entry["score"] for entry in found] == pytest.approx(
            [oracle_cosine(rows[entry["id"]], query) for entry in found], abs=1e-6
        )


def test_top_breaks_ties_by_id_in_the_order_of_sqlite(db):
    """NULL, numbers, text, blobs; every type comes back as JSON can hold it."""
    ids = ["b", 10, b"\xff", "é", 9.5, None, "a_%", "B", 2]
    surplus = [f"z{at}" for at in range(300)]  # sorted away more than once
    rows = [(i, blob_of([1, 1])) for i in [*surplus[:150], *ids, *surplus[150:]]]
    db.executemany("insert into v values (?, ?)", rows)
    db.execute("insert into v values ('a', ?)", [blob_of([0, 0])])
    found = json.loads(one(db, "select top(id, vector, '[2, 2]', 8) from v"))
    usable = "select id from v where cosine(vector, '[1, 1]') is not null order by id"
    in_order = [row[0] for row in db.execute(usable)]
    assert (
        [entry["id"] for entry in found]
        == in_order[:8]
        == [None, 2, 9.5, 10, *"B a_% b z0".split()]
    )
    alone = json.loads(one(db, "select top(id, vector, '[2, 2]', 9) from v where id = ?", b"\xff"))
    assert [entry["id"] for entry in alone] == [{"$base64": True, "encoded": "/w=="}]


def test_top_text_is_json_that_sqlite_can_join(db):
    """Unicode and quotes in ids survive json_each."""
    db.executemany("insert into v values (?, '[1, 2]')", [('quo"te',), ("日本",), (INF,)])
    sql = "select json_extract(value, '$.id') from json_each((select top(id, vector, ?, 5) from v))"
    assert [row[0] for row in db.execute(sql, ["[1, 2]"])] == ["inf", 'quo"te', "日本"]


def test_top_of_nothing_has_no_elements(db):
    """No usable row is an empty array; no row at all is NULL, as sqlite3 never calls us."""
    assert one(db, "select top(id, vector, '[1]', 3) from v") is None
    assert sql_vectors.Top().finalize() == "[]"
    db.execute("insert into v values (1, '[1]')")
    assert one(db, "select top(id, vector, null, 3) from v") == "[]"


@pytest.mark.parametrize("k", [0, -3, 1.5, "many", "", None, b"3", INF])
def test_top_of_a_bad_k_raises(k):
    """Even before there is anything to rank."""
    with pytest.raises(InvalidVectorError, match="k must be a (positive integer|number)"):
        sql_vectors.Top().step("a", None, None, k)


def test_top_keeps_few_rows_in_memory():
    """Memory grows with k, not with the table."""
    top = sql_vectors.Top()
    for at in range(5000):
        top.step(at, blob_of([1.0, at / 5000]), "[0, 1]", 5)
        assert len(top.best) <= 110
    assert [entry["id"] for entry in json.loads(top.finalize())] == [4999, 4998, 4997, 4996, 4995]


def test_text_of_a_constant_query_is_parsed_once(functions, monkeypatch):
    """A query written as JSON comes again with every row."""
    sql_vectors.blob_of_json.cache_clear()
    calls = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: calls.append(text) or loads(text))
    for at in range(50):
        functions["cosine"](blob_of([1.0, at]), "[0.125, 7]")
    assert len(calls) == 1
