"""The contract of a model: what its callers may rely on, and what it may not hand over."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from datasette_embed.errors import (
    DimensionMismatchError,
    InvalidVectorError,
    MissingKeyError,
    ProviderError,
    UnreadableTextError,
)
from datasette_embed.model_calls import embed_items, read_items
from datasette_embed.models import Batch, EmbeddingModel, Kind, Reading, call_embed_batch, is_blank
from datasette_embed.providers.adapted import AdaptedModel
from tests.fakes import CountingModel, vector_of


def rounded(numbers):
    """Return the numbers as float32 holds them."""
    return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))


@pytest.fixture
def model():
    """A model of texts and bytes."""
    return CountingModel()


class Answering(CountingModel):
    """A model that answers what it is told to."""

    def __init__(self, answer, **options):
        super().__init__(**options)
        self.answer = answer

    def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
        return self.answer


# The attributes, and one item


def test_model_attributes_are_llms_by_default():
    """A subclass with an id and ``embed_batch`` is a model."""

    class Smallest(EmbeddingModel):
        model_id = "smallest"

        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            return [[1.0] for _ in items]

    model = Smallest()
    assert (model.key, model.needs_key, model.key_env_var, model.batch_size) == (None,) * 4
    assert (model.supports_text, model.supports_binary) == (True, False)
    assert model.embed("x") == [1.0]
    assert str(model) == "Smallest: smallest"
    assert model.fingerprint == "smallest"
    model.revision = "2"
    assert model.fingerprint == "smallest@2"


def test_model_without_embed_batch_cannot_be_made():
    """It is the one method to write."""

    class Nothing(EmbeddingModel):
        model_id = "nothing"

    with pytest.raises(TypeError, match="embed_batch"):
        Nothing()


@pytest.mark.parametrize("item", ["text", b"bytes", b"\xff", ""])
def test_embed_one_item_as_python_floats(model, item):
    """One call of one item; the numbers are those that are stored."""
    found = model.embed(item)
    assert found == rounded(vector_of(item))
    assert {type(number) for number in found} == {float}
    assert model.calls == [[item]]
    assert model.embed("text", kind="query") == rounded(vector_of("text", Kind.QUERY))


# Many items


@pytest.mark.parametrize(
    ("asked", "limit", "sizes"),
    [(None, None, [100, 30]), (None, 60, [60, 60, 10]), (50, None, [50, 50, 30])]
    + [(50, 40, [40, 40, 40, 10]), (20, 40, [20] * 6 + [10])],
)
def test_embed_multi_batches_as_small_as_the_smaller_limit(asked, limit, sizes):
    """Without a size LLM hands over everything at once; a generator will do."""
    model = CountingModel(batch_size=limit)
    texts = [f"t{n}" for n in range(130)]
    found = list(model.embed_multi((text for text in texts), asked))
    assert found == [rounded(vector_of(text)) for text in texts]
    assert model.batch_sizes == sizes
    assert {type(call) for call in model.calls} == {list}


def test_embed_multi_is_lazy(model):
    """Nothing is embedded before it is asked for, and no more than one batch ahead."""
    vectors = model.embed_multi(iter(["a", "b", "c"]), 1)
    assert model.calls == []
    assert next(vectors) == rounded(vector_of("a"))
    assert model.calls == [["a"]]
    assert list(model.embed_multi([])) == []


@pytest.mark.parametrize("size", [0, -1])
def test_embed_multi_batch_size_below_one_refused(model, size):
    """LLM yields nothing then, and says nothing."""
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, not {size}"):
        list(model.embed_multi(["a"], size))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (b"x", "This model does not support binary data, only text strings"),
        ("x", "This model does not support text strings, only binary data"),
        (5, "An item must be str or bytes, not int"),
        (None, "An item must be str or bytes, not NoneType"),
    ],
)
def test_items_of_wrong_type_refused_before_the_call(item, words):
    """The words are LLM's; the batch with the item reaches no model."""
    model = CountingModel()
    model.supports_binary, model.supports_text = item != b"x", item != "x"
    good = "x" if model.supports_text else b"x"
    for call in (
        lambda: model.embed(item),
        lambda: list(model.embed_multi([good, item])),
        lambda: model.embed_checked([good, item]),
        lambda: model.check_items([good, item]),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert model.calls == []


# What comes back


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ([[1.0] * 8], ProviderError, "returned 1 vectors for 2 items"),
        ([[1.0] * 8] * 3, ProviderError, "returned 3 vectors for 2 items"),
        (iter([[1.0] * 8]), ProviderError, "returned 1 vectors for 2 items"),
        (Batch(np.ones((1, 8))), ProviderError, "returned 1 vectors for 2 items"),
        (
            [[1.0] * 4] * 2,
            DimensionMismatchError,
            "counting: a vector has 4 dimensions instead of 8",
        ),
        (
            Batch(np.ones((2, 9))),
            DimensionMismatchError,
            "counting: a vector has 9 dimensions instead of 8",
        ),
        ([[1.0] * 8, [math.nan] * 8], InvalidVectorError, "counting: row 1: NaN"),
        ([[1.0] * 8, [1e300] * 8], InvalidVectorError, "counting: row 1: .*float32"),
        ([[1.0] * 8, ["a"] * 8], InvalidVectorError, "counting: row 1: not a list of numbers"),
    ],
)
def test_embed_checked_wrong_answer_refused(answer, error, words):
    """Short, long, of another length, not finite: never cut and never stored."""
    with pytest.raises(error, match=words):
        Answering(answer).embed_checked(["a", "b"])


@pytest.mark.parametrize(
    "answer",
    [
        [[1, 2], (3, 4)],
        iter([[1, 2], [3, 4]]),
        np.array([[1, 2], [3, 4]], dtype=">f8"),
        Batch(np.array([[1, 2], [3, 4]]), tokens=7),
    ],
    ids=["lists", "generator", "array", "batch"],
)
def test_embed_checked_any_answer_becomes_float32(answer):
    """Lists, generators, arrays of any type; tokens where the model says them."""
    found = Answering(answer, dimensions=2).embed_checked(["a", "b"])
    assert found.vectors.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.vectors.dtype == np.float32
    assert found.tokens == (7 if isinstance(answer, Batch) else None)


@pytest.mark.parametrize("error", [RuntimeError("secret words"), KeyError("x"), OSError("y")])
def test_embed_items_whatever_is_raised_is_ours(model, error):
    """The original is the cause; its text is for the log only."""
    model.fails_with = error
    with pytest.raises(ProviderError, match="the model failed") as caught:
        embed_items(model, ["a"], Kind.QUERY)
    assert caught.value.__cause__ is error
    assert "secret" not in str(caught.value)
    model.fails_with = ours = InvalidVectorError("no")
    with pytest.raises(InvalidVectorError, match="no") as caught:
        embed_items(model, ["a"], Kind.QUERY)
    assert caught.value is ours


# Keys


def test_get_key_of_the_call_then_the_models_then_the_environments(model, monkeypatch):
    """LLM's order; a model that needs none gets none."""
    monkeypatch.setenv("KEY_OF_A_TEST", "from-environment")
    assert model.get_key("explicit") is None
    model.needs_key, model.key_env_var = "test", "KEY_OF_A_TEST"
    assert model.get_key() == "from-environment"
    model.key = "from-model"
    assert model.get_key() == "from-model"
    assert model.get_key("explicit") == "explicit"
    model.key = None
    monkeypatch.setenv("KEY_OF_A_TEST", "")
    with pytest.raises(MissingKeyError, match="counting needs an API key: .*KEY_OF_A_TEST"):
        model.get_key()
    model.key_env_var = None
    with pytest.raises(MissingKeyError, match="set one in plugin config"):
        model.get_key()


@pytest.mark.parametrize("given", [None, "of-the-call"])
def test_embed_checked_keyed_model_is_given_its_key(monkeypatch, tmp_path, given):
    """A model that only takes ``key`` gets it from wherever it is; without one it is not called."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    seen = []

    class Keyed(CountingModel):
        needs_key, key_env_var = "test", "KEY_OF_A_TEST"

        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            seen.append(key)
            return super().embed_batch(items, kind=kind)

    class ForLlm:
        model_id, needs_key, key_env_var = "for-llm", "test", "KEY_OF_A_TEST"
        embed_batch = Keyed().embed_batch

    for model in (Keyed(), AdaptedModel(ForLlm())):
        monkeypatch.setenv("KEY_OF_A_TEST", "from-environment")
        model.embed_checked(["a"], key=given)
    assert seen == [given or "from-environment"] * 2
    monkeypatch.delenv("KEY_OF_A_TEST")
    with pytest.raises(MissingKeyError, match="counting needs an API key"):
        Keyed().embed_checked(["a"])
    AdaptedModel(ForLlm()).embed_checked(["a"])  # it may have ways of its own
    assert seen[2:] == [None]


def test_call_embed_batch_hands_over_what_the_model_takes():
    """Classes for LLM take the items only, or a key; ours a kind too. No attribute is set."""
    seen = []

    class Items:
        key = None

        def embed_batch(self, items):
            seen.append((items,))

    class Key(Items):
        def embed_batch(self, items, *, key=None):
            seen.append((items, key))

    class Anything(Items):
        def embed_batch(self, items, **options):
            seen.append((items, options))

    for kind in (Items, Key, Anything):
        model = kind()
        call_embed_batch(model, ["a"], Kind.QUERY, "k")
        assert model.key is None
    assert seen == [(["a"],), (["a"], "k"), (["a"], {"kind": Kind.QUERY, "key": "k"})]


# Reading


def test_read_items_bytes_have_no_words(model):
    """The readings are in the items' order."""
    found = read_items(model, ["one two", b"\xff", "ä"])
    assert found == [Reading(4, 0, 2), Reading(0), Reading(3, 1, 2)]
    assert read_items(model, []) == []


@pytest.mark.parametrize(
    ("reading", "is_unreadable", "is_unknown"),
    [
        (Reading(10), False, False),
        (Reading(12, 2, 2), False, False),
        (Reading(12, 3, 2), True, False),
        (Reading(12, 10, 2), True, True),
        (Reading(2, 0, 2), False, False),
        (Reading(0), False, False),
    ],
)
def test_reading_a_fifth_unknown_warned_of_all_unknown_refused(
    model, reading, is_unreadable, is_unknown
):
    """Special tokens are no words."""
    assert (reading.is_unreadable, reading.is_unknown) == (is_unreadable, is_unknown)
    if not is_unknown:
        assert model.check_known(reading) is None
        return
    with pytest.raises(UnreadableTextError, match="if these are words of another script"):
        model.check_known(reading)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", True), (" \t\n\u00a0\u200b\ufeff\0", True), (" a ", False), ("0", False), ("🎉", False)],
)
def test_is_blank_shows_nothing(text, expected):
    """White space, control and format characters."""
    assert is_blank(text) is expected


def test_embed_multi_tokens_of_a_call_limited_smaller_batches():
    """Both limits of a call hold; a text too long for any call has one of its own."""
    model = CountingModel(batch_size=3)
    model.max_batch_tokens = 10
    texts = ["two words", "two words", "a b c d e f g h i j k", "x", "y", "z", "x y"]
    assert len(list(model.embed_multi(iter(texts)))) == len(texts)
    assert [len(call) for call in model.calls] == [2, 1, 3, 1]
