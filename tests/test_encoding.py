"""Vectors as Python's own numbers: against struct and math.fsum."""

from __future__ import annotations

import math
import random
import struct

import pytest

import datasette_embed
from datasette_embed.encoding import cosine_similarity, decode
from datasette_embed.errors import DimensionMismatchError, InvalidVectorError

NAN, INF = math.nan, math.inf


def test_encoding_is_public():
    """LLM's programs import both from the package, with ``encode``."""
    assert datasette_embed.decode is decode
    assert datasette_embed.cosine_similarity is cosine_similarity
    assert decode(datasette_embed.encode([1.5, -2.0])) == (1.5, -2.0)


@pytest.mark.parametrize("count", [0, 1, 2, 384])
def test_decode_is_a_tuple_of_floats_as_struct_reads_them(count):
    """Little-endian, whatever the machine; no bytes are no numbers, as in LLM."""
    chooser = random.Random(count)
    blob = chooser.randbytes(4 * count).replace(b"\x7f", b"\x3f").replace(b"\xff", b"\xbf")
    numbers = decode(blob)
    assert numbers == struct.unpack(f"<{count}f", blob)
    assert type(numbers) is tuple
    assert {type(number) for number in numbers} <= {float}


def test_decode_special_numbers_pass():
    """What is stored is shown: infinity, NaN, both zeros, the smallest and the largest."""
    given = (INF, -INF, 0.0, -0.0, 2.0**-149, struct.unpack("<f", b"\xff\xff\x7f\x7f")[0])
    assert decode(struct.pack("<6f", *given)) == given
    assert math.copysign(1, decode(struct.pack("<f", -0.0))[0]) == -1
    assert math.isnan(decode(struct.pack("<f", NAN))[0])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_decode_any_bytes(kind):
    """A buffer will do."""
    assert decode(kind(struct.pack("<2f", 1.0, 2.0))) == (1.0, 2.0)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 1535])
def test_decode_length_no_multiple_of_four_refused(length):
    """LLM raises struct.error."""
    with pytest.raises(InvalidVectorError, match=f"{length} bytes are no float32 vector"):
        decode(b"x" * length)


def oracle(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.hypot(*a) / math.hypot(*b)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 384])
def test_cosine_similarity_random_vectors_as_oracle(dimensions):
    """In float64, whatever holds the numbers; always in [-1, 1] and a Python float."""
    import numpy as np

    chooser = random.Random(dimensions)
    for _ in range(50):
        a, b = ([chooser.gauss(0, 1) for _ in range(dimensions)] for _ in "ab")
        expected = oracle(a, b)
        for x, y in ((a, b), (tuple(b), a), (np.array(a), b)):
            found = cosine_similarity(x, y)
            assert found == pytest.approx(expected, abs=1e-14)
            assert type(found) is float
            assert -1 <= found <= 1


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1.0, 1e200, 1e308])
def test_cosine_similarity_any_length_as_of_length_one(size):
    """The squares of very large and very small numbers cannot be formed."""
    assert cosine_similarity([0.75 * size, size], [1, 0]) == pytest.approx(0.6, rel=1e-3)
    assert cosine_similarity([size, size], [size, size]) == pytest.approx(1.0, abs=1e-15)
    assert cosine_similarity([size, 0], [-size, 0]) == -1.0
    assert cosine_similarity([size, 0], [0, 1 / max(size, 1e-300)]) == 0.0


def test_cosine_similarity_of_itself_is_never_above_one():
    """LLM's is 1.0000000000000002 for some vectors."""
    chooser = random.Random(4)
    for _ in range(200):
        a = [chooser.uniform(-1, 1) for _ in range(chooser.randint(1, 40))]
        assert 1 - 1e-12 < cosine_similarity(a, a) <= 1
        assert -1 <= cosine_similarity(a, [-x for x in a]) < -1 + 1e-12


def test_cosine_similarity_two_lengths_refused():
    """LLM cuts the longer one and divides by the whole of it."""
    with pytest.raises(DimensionMismatchError, match="vectors of 2 and 3 dimensions") as caught:
        cosine_similarity([1, 1], [1, 1, 5])
    assert (caught.value.expected, caught.value.actual) == (2, 3)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [NAN, 1.0], [1.0, INF], [-INF, 0.0]])
def test_cosine_similarity_without_direction_refused(bad):
    """Neither a zero division nor a NaN; on either side."""
    for a, b in ((bad, [1.0, 2.0]), ([1.0, 2.0], bad)):
        with pytest.raises(InvalidVectorError, match="zero, empty, or has NaN or infinity"):
            cosine_similarity(a, b)
    with pytest.raises(InvalidVectorError, match="empty"):
        cosine_similarity([], [])
