"""Tests of datasette_embed.vectors, against float64 loops in pure Python."""

import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasette_embed import vectors
from datasette_embed.errors import DimensionMismatchError, InvalidVectorError

NAN, INF = float("nan"), float("inf")


def blob_of(numbers):
    """Write the blob without the module under test."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def floats_of(blob):
    """Read a blob without the module under test."""
    return list(struct.unpack(f"<{len(blob) // 4}f", blob))


def oracle_dot(a, b):
    """Return the inner product of two lists of float32 values, in float64."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def oracle_cosine(a, b):
    """Return the cosine in float64."""
    return oracle_dot(a, b) / (math.sqrt(oracle_dot(a, a)) * math.sqrt(oracle_dot(b, b)))


def oracle_l2(a, b):
    """Return the distance in float64."""
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


@pytest.fixture(params=["numkong", "numpy"])
def kernels(request, monkeypatch):
    """The kernels of each package in turn, also as the module's own."""
    found = vectors.numkong_kernels() if request.param == "numkong" else vectors.numpy_kernels()
    if found is None:
        pytest.skip("numkong is not installed")
    monkeypatch.setattr(vectors, "kernels", lambda: found)
    return found


number = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_float32 = st.floats(width=32)


@st.composite
def pairs(draw):
    """Two usable vectors of the same length, of any magnitude float32 has."""
    size = draw(st.integers(1, 40))
    one = st.lists(number, min_size=size, max_size=size).filter(any)
    return draw(one), draw(one)


# Importing


def test_importing_the_module_loads_no_numpy():
    """The plugin imports this module when Datasette starts."""
    code = (
        "import sys; from datasette_embed import errors; import datasette_embed.vectors; "
        "import datasette_embed.sql_vectors; "
        "print([m for m in ('numpy', 'numkong', 'simsimd') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")


# encode and decode


def test_encode_writes_little_endian_float32():
    """Golden bytes: what struct.pack("<3f") and LLM write."""
    assert vectors.encode([1.0, -2.0, 0.1]) == bytes.fromhex("0000803f 000000c0 cdcccc3d")


@pytest.mark.parametrize(
    "given_vector",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1, 2, 3], dtype=np.int64),
        np.array([1, 2, 3], dtype=np.float64),
        np.array([1, 2, 3], dtype=np.float16),
        np.array([1, 2, 3], dtype=">f4"),
        np.array([1, 2, 3], dtype=">f8"),
        np.array([1, 9, 2, 9, 3], dtype=np.float32)[::2],
        np.array([3, 2, 1], dtype=np.float32)[::-1],
        np.asfortranarray(np.array([[1, 7], [2, 7], [3, 7]], dtype=np.float32))[:, 0],
    ],
)
def test_encode_of_any_dtype_and_layout_is_the_same(given_vector):
    """Byte order, strides and precision of the input do not reach the blob."""
    assert vectors.encode(given_vector) == blob_of([1, 2, 3])


@pytest.mark.parametrize(
    ("given_vector", "reason"),
    [
        ([], "at least one number"),
        ([[1.0, 2.0]], "not shape"),
        (3.0, "not shape"),
        (["a"], "not a list of numbers"),
        ([None], "not a list of numbers"),
        ([1.0, [2.0]], "not a list of numbers"),
        ([True, False], "not a list of numbers"),
        ([1j], "not a list of numbers"),
        ([1e39], "too large for float32"),
        ([10**400], "not a list of numbers"),
    ],
)
def test_encode_of_what_is_no_vector_raises(given_vector, reason):
    """Every refusal says why."""
    with pytest.raises(InvalidVectorError, match=reason):
        vectors.encode(given_vector)


def test_decode_returns_a_read_only_view():
    """Nobody can change a blob through its vector."""
    blob = blob_of([1.5, -2.0])
    vector = vectors.decode(blob)
    assert vector.dtype == np.float32 and vector.tolist() == [1.5, -2.0]
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 9


@pytest.mark.parametrize("blob", [b"", b"1", b"12345", b"1234567"])
def test_decode_of_an_odd_length_raises(blob):
    """No bytes, and lengths that are no multiple of 4."""
    with pytest.raises(InvalidVectorError, match="empty|multiple of 4"):
        vectors.decode(blob)


@given(st.lists(any_float32, min_size=1, max_size=50))
def test_encode_and_decode_are_inverse_bit_for_bit(numbers):
    """NaN, infinity, negative zero and denormals included."""
    blob = blob_of(numbers)
    assert vectors.encode(vectors.decode(blob)) == blob


# as_vectors and is_usable


def test_as_vectors_of_lists_arrays_and_a_generator_is_one_float32_matrix():
    """A model may return any of these."""
    expected = [[1.0, 2.0], [3.0, 4.0]]
    for rows in (
        expected,
        np.array(expected),
        np.array(expected, dtype=">f4"),
        np.asfortranarray(np.array(expected, dtype=np.float32)),
        [np.array(row) for row in expected],
        (row for row in expected),
    ):
        matrix = vectors.as_vectors(rows, dimensions=2)
        assert matrix.tolist() == expected
        assert matrix.dtype == np.float32 and matrix.dtype.isnative
        assert matrix.flags.c_contiguous


def test_as_vectors_of_nothing_has_the_right_shape():
    """Zero rows are no error here: the caller counts them."""
    assert vectors.as_vectors([]).shape == (0, 0)
    assert vectors.as_vectors(iter(()), dimensions=7).shape == (0, 7)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[1.0, 2.0], [1.0, NAN]], "^row 1: NaN"),
        ([[1.0, 2.0], [3.0, 4.0], [INF, 1.0]], "^row 2: NaN, infinity"),
        (np.array([[1.0, -INF]]), "^row 0: NaN, infinity"),
        ([[1.0, 1e39]], "^row 0: .* too large for float32"),
        ([[1.0, 2.0], [1.0]], "^row 1: 1 dimensions where row 0 has 2"),
        ([[1.0], []], "^row 1: .* at least one"),
        ([[]], "^row 0: .* at least one"),
        (np.empty((2, 0)), "^row 0: .* at least one"),
        ([1.0, 2.0], "^row 0: not a list"),
        ([[1.0], ["x"]], "^row 1: not a list"),
        ([[1.0], None], "^row 1: not a list"),
        ([[1.0], [[2.0]]], "^row 1: not a list"),
        (np.array([["x"]]), "^row 0: not a list"),
    ],
)
def test_as_vectors_of_bad_rows_names_the_row(rows, reason):
    """The reason says which row, counted from 0, and what is wrong with it."""
    with pytest.raises(InvalidVectorError, match=reason):
        vectors.as_vectors(rows)


def test_as_vectors_of_another_length_raises_with_both():
    """A model whose vectors changed length must not write into a collection."""
    with pytest.raises(DimensionMismatchError, match="of 3 and 2 dimensions") as caught:
        vectors.as_vectors([[1.0, 2.0]], dimensions=3)
    assert (caught.value.expected, caught.value.actual) == (3, 2)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1.0, 0.0], True),
        ([0.0, 0.0], False),
        ([-0.0], False),
        ([NAN, 1.0], False),
        ([INF, 1.0], False),
        ([1e-45], True),
        ([3e38, 3e38], True),
    ],
)
def test_is_usable_and_its_twin_for_blobs_agree(kernels, numbers, expected):
    """Finite and not zero, also where float32 squares would vanish or overflow."""
    assert vectors.is_usable(numbers) is expected
    assert vectors.blob_is_usable(blob_of(numbers)) is expected


@pytest.mark.parametrize("blob", [b"", b"123", b"12345"])
def test_blob_is_usable_of_odd_lengths_is_false(kernels, blob):
    """No vector can be read from these."""
    assert vectors.blob_is_usable(blob) is False
    assert vectors.is_usable([]) is False


# Kernels


@settings(max_examples=300)
@given(pairs())
def test_cosine_dot_and_l2_agree_with_the_oracle(pair):
    """For every magnitude of float32, by both packages."""
    a, b = pair
    for found in filter(None, (vectors.numkong_kernels(), vectors.numpy_kernels())):
        first, second = blob_of(a), blob_of(b)
        assert 1 - found.angular(first, second, "f32") == pytest.approx(
            oracle_cosine(a, b), abs=1e-6
        )
        scale = math.sqrt(oracle_dot(a, a)) * math.sqrt(oracle_dot(b, b))
        assert found.dot(first, second, "f32") == pytest.approx(
            oracle_dot(a, b), rel=1e-9, abs=scale * 1e-9
        )
        assert found.euclidean(first, second, "f32") == pytest.approx(oracle_l2(a, b), rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 15, 16, 17, 31, 33, 100, 384, 1536])
def test_kernels_use_every_number_of_any_length(kernels, size):
    """Vector instructions have a tail; a wrong one would lose the last numbers."""
    random = np.random.default_rng(size)
    a, b = random.standard_normal((2, size)).astype(np.float32)
    first, second = a.tobytes(), b.tobytes()
    assert vectors.cosine(first, second) == pytest.approx(oracle_cosine(a.tolist(), b.tolist()))
    assert vectors.dot(first, second) == pytest.approx(oracle_dot(a.tolist(), b.tolist()))
    assert vectors.l2(first, second) == pytest.approx(oracle_l2(a.tolist(), b.tolist()))
    for at in range(size):
        unit = [0.0] * size
        unit[at] = 1.0
        assert kernels.dot(first, blob_of(unit), "f32") == pytest.approx(float(a[at]))


def test_kernels_do_not_read_beyond_the_blob(kernels):
    """The bytes that follow a vector in memory have no influence."""
    for beyond in (0.0, 1.0, NAN):
        buffer = memoryview(blob_of([1, 2, 3] + [beyond] * 64))
        assert kernels.dot(buffer[:12], buffer[:12], "f32") == 14.0


def test_kernels_refuse_two_lengths_and_what_is_no_blob(kernels):
    """The SQL functions rely on these exceptions."""
    with pytest.raises(ValueError, match="match"):
        kernels.angular(blob_of([1]), blob_of([1, 2]), "f32")
    for other in (None, "text", 1, 1.5):
        with pytest.raises(TypeError):
            kernels.angular(blob_of([1]), other, "f32")


def test_cosine_is_clamped_and_exact_at_the_ends(kernels):
    """Rounding must not make a vector more than equal to itself."""
    random = np.random.default_rng(0)
    for _ in range(200):
        blob = random.standard_normal(384).astype(np.float32).tobytes()
        opposite = (-vectors.decode(blob)).tobytes()
        assert 1 - 1e-9 < vectors.cosine(blob, blob) <= 1.0
        assert -1.0 <= vectors.cosine(blob, opposite) < -1 + 1e-9


@pytest.mark.parametrize("bad", [[0.0, 0.0], [NAN, 1.0], [1.0, INF], [-INF, NAN]])
def test_cosine_dot_and_l2_of_an_unusable_blob_are_none(kernels, bad):
    """On either side, and on both."""
    good = blob_of([1.0, 2.0])
    for measure in (vectors.cosine, vectors.dot, vectors.l2):
        assert measure(good, blob_of(bad)) is None
        assert measure(blob_of(bad), good) is None
        assert measure(blob_of(bad), blob_of(bad)) is None


def test_cosine_of_two_lengths_raises_naming_both(kernels):
    """Never a number computed from the shorter."""
    with pytest.raises(DimensionMismatchError, match="vectors of 2 and 3 dimensions: made by"):
        vectors.cosine(blob_of([1, 2]), blob_of([1, 2, 3]))


def test_kernels_without_numkong_are_numpy(monkeypatch):
    """A platform without the wheel still answers."""
    vectors.kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "numkong", None)
    try:
        assert vectors.kernels().name == "numpy"
        assert vectors.cosine(blob_of([1, 0]), blob_of([1, 1])) == pytest.approx(math.sqrt(0.5))
    finally:
        vectors.kernels.cache_clear()


def test_kernels_that_take_bytes_for_floats_are_not_used(monkeypatch):
    """A version that reads beyond the blob is recognised by its answer."""

    def too_long(a, b, _dtype):
        whole_a = np.frombuffer(a.obj, dtype="<f4", count=len(a))
        whole_b = np.frombuffer(b.obj, dtype="<f4", count=len(b), offset=8)
        return float(1 - oracle_cosine(whole_a.tolist(), whole_b.tolist()))

    class Old:
        angular = dot = euclidean = staticmethod(too_long)

    monkeypatch.setitem(sys.modules, "numkong", Old)
    assert vectors.numkong_kernels() is None


# Many vectors


def test_normalize_makes_unit_rows_and_marks_unusable_ones():
    """Of a matrix and of one vector; the input is left alone."""
    matrix = np.array([[3, 4], [0, 0], [NAN, 1], [1e-30, 0], [3e38, 3e38]], dtype=np.float32)
    before = matrix.copy()
    unit = vectors.normalize(matrix)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit[[0, 3, 4]], [[0.6, 0.8], [1, 0], [0.5**0.5] * 2], rtol=1e-6)
    assert np.isnan(unit[[1, 2]]).all()
    np.testing.assert_array_equal(matrix, before)
    np.testing.assert_allclose(vectors.normalize(matrix[0]), [0.6, 0.8], rtol=1e-6)


def test_dot_scores_of_rows_of_length_one_are_the_cosines_of_the_oracle():
    """One float32 per row, whatever the lengths of the rows were; NaN where there is none."""
    random = np.random.default_rng(5)
    matrix = (random.standard_normal((50, 33)) * 10.0 ** random.integers(-3, 4, (50, 1))).astype(
        np.float32
    )
    query = random.standard_normal(33).astype(np.float32)
    scores = vectors.dot_scores(vectors.normalize(matrix), vectors.normalize(query))
    assert scores.dtype == np.float32
    expected = [oracle_cosine(row, query.tolist()) for row in matrix.tolist()]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    products = vectors.dot_scores(matrix, query)
    np.testing.assert_allclose(products, matrix @ query, rtol=1e-5)
    matrix[3], matrix[4, 0] = 0, NAN
    scores = vectors.dot_scores(vectors.normalize(matrix), vectors.normalize(query))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 4]


def test_scores_of_another_length_raise():
    """The query was made by another model."""
    matrix = np.ones((2, 3), dtype=np.float32)
    with pytest.raises(DimensionMismatchError, match="of 3 and 2 dimensions"):
        vectors.dot_scores(matrix, np.ones(2, dtype=np.float32))


def test_average_sums_in_float64():
    """A float32 sum of these would lose the ones."""
    matrix = np.array([[2.0**25, 1]] + [[1.0, 3]] * 3, dtype=np.float32)
    mean = vectors.average(matrix)
    assert mean.dtype == np.float32
    assert mean.tolist() == floats_of(blob_of([(2.0**25 + 3) / 4, 2.5]))
    with pytest.raises(InvalidVectorError, match="no vectors"):
        vectors.average(matrix[:0])


@pytest.mark.parametrize("seed", range(5))
def test_contenders_are_the_best_and_what_may_be_as_good(seed):
    """All within twice the tolerance below the k-th best, and nothing else; no NaN."""
    scores = np.random.default_rng(seed).random(50).astype(np.float32)
    scores[::7] = np.nan
    worst = sorted((s for s in scores.tolist() if s == s), reverse=True)[4]
    found = vectors.contenders(scores, 5, 0.05)
    assert sorted(found.tolist()) == [
        at for at, score in enumerate(scores.tolist()) if score >= worst - 0.1 - 1e-9
    ]
    assert len(found) > 5
    assert len(vectors.contenders(scores, 100, 0.0)) == 42


def test_longest_of_rows_that_are_not_all_finite():
    """Rows without a length do not count."""
    rows = np.array([[3, 4], [0, 0], [math.nan, 1], [1, 1]], dtype=np.float32)
    assert vectors.longest(rows) == 5.0
    assert vectors.longest(rows[1:2]) == 0.0


def test_dot_scores_of_large_numbers_do_not_become_nan():
    """inf - inf would lose an entry whose product is a number."""
    rows = np.array([[3e38, 3e38], [1, 1]], dtype=np.float32)
    query = np.array([3, -2.9], dtype=np.float32)
    expected = [3e38 * 3 - 3e38 * float(np.float32(2.9)), 0.1]
    assert vectors.dot_scores(rows, query).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("order", ["C", "F"])
def test_encode_rows_each_as_encode_does(order):
    """Whatever the layout in memory, and none at all."""
    rows = np.array([[1.5, -2, 3], [0, 1e-40, 7]], dtype=np.float32, order=order)
    assert vectors.encode_rows(rows) == [vectors.encode(row) for row in rows]
    assert vectors.encode_rows(rows.astype(">f4")) == [vectors.encode(row) for row in rows]
    assert vectors.encode_rows(np.zeros((0, 3), np.float32)) == []
