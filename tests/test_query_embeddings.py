"""Query embeddings: cached, shared, bounded, and never in the way of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from datasette_embed import query_embeddings
from datasette_embed.errors import (
    BudgetExceededError,
    BusyError,
    EmbedTimeoutError,
    InvalidVectorError,
    ProviderError,
    UnreadableTextError,
)
from datasette_embed.models import Kind
from datasette_embed.providers.adapted import AdaptedModel
from datasette_embed.query_embeddings import Limits, QueryEmbeddings
from datasette_embed.vectors import encode
from tests.fakes import CountingModel, FakeClock, LlmStyleModel, vector_of

SOON = Limits(timeout_seconds=0.01, concurrent=2)
PATIENT = Limits(timeout_seconds=30, concurrent=2)


@pytest.fixture
def model():
    return CountingModel()


@pytest.fixture
def gated(model):
    """A model that answers only when its gate is opened; opened at the end in any case."""
    model.gate = threading.Event()
    yield model
    model.gate.set()


@pytest.fixture
def queries():
    return QueryEmbeddings()


class Caller:
    """One thread that embeds one text, and what came of it."""

    def __init__(self, queries, model, text, limits=PATIENT):
        self.result = self.error = None

        def run():
            try:
                self.result = queries.embed(model, text, limits=limits)
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def join(self):
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self


def wait_until(condition):
    """Spin until another thread has got there; the limit only ends a broken test."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0)


@pytest.mark.parametrize("limits", [Limits(), PATIENT], ids=["script", "server"])
def test_embed_twice_one_call(queries, model, limits):
    """The second time it is cached, as little-endian float32."""
    first = queries.embed(model, "dog", limits=limits)
    assert queries.embed(model, "dog", limits=limits) == first
    assert first == np.array(vector_of("dog", Kind.QUERY), dtype="<f4").tobytes()
    assert model.calls == [["dog"]]
    assert queries.find(model, "dog") == first


def test_embed_cache_key_is_model_kind_type_and_content(queries, model):
    """Nothing answers for what it is not."""
    other = CountingModel("other")
    queries.embed(model, "dog")
    queries.embed(model, "dog", kind=Kind.DOCUMENT)
    queries.embed(model, b"dog")
    queries.embed(model, "Dog")
    queries.embed(other, "dog")
    assert [item for items in model.calls for item in items] == ["dog", "dog", b"dog", "Dog"]
    assert other.calls == [["dog"]]
    assert queries.find(model, b"dog", kind=Kind.DOCUMENT) is None


def test_embed_another_revision_is_not_cached(queries, model):
    """The fingerprint decides: other weights, other vectors."""
    queries.embed(model, "dog")
    model.revision = "2"
    assert queries.find(model, "dog") is None


def test_cache_full_least_recently_used_goes(queries, model):
    """The bound is in bytes and counts content and vector."""
    queries.embed(model, "a")
    size = queries.used_bytes
    queries.resize(3 * size)
    queries.embed(model, "b")
    queries.embed(model, "c")
    queries.embed(model, "a")  # used again: b is now the oldest
    queries.embed(model, "d")
    assert [text for text in "abcd" if queries.find(model, text) is None] == ["b"]
    assert queries.used_bytes == 3 * size
    queries.resize(size)
    assert queries.used_bytes == size
    queries.clear()
    assert queries.used_bytes == 0


def test_cache_content_larger_than_the_bound_is_answered_not_kept(queries, model):
    """A long text must not throw everything out and then not fit."""
    queries.resize(2000)
    queries.embed(model, "word " * 1000)
    assert queries.used_bytes == 0


@pytest.fixture
def long_grace(monkeypatch):
    """Time enough for a fast model on the slowest of machines."""
    monkeypatch.setattr(query_embeddings, "GRACE_SECONDS", 30)


def test_embed_same_text_at_once_one_computation(queries, gated, long_grace):
    """Twenty who ask for a text at once are answered by one call of a fast model."""
    first = Caller(queries, gated, "dog")
    assert gated.started.wait(30)
    joiners = [Caller(queries, gated, "dog") for _ in range(19)]
    gated.gate.set()
    results = {caller.join().result for caller in [first, *joiners]}
    assert len(results) == 1
    assert None not in results
    assert gated.calls == [["dog"]]


def test_embed_many_texts_at_once_fast_model_answers_all(queries, model, long_grace):
    """Who finds no place waits for one, as long as computations end."""
    callers = [Caller(queries, model, f"text {number % 10}") for number in range(20)]
    assert all(caller.join().result for caller in callers)
    assert len(model.calls) == 10


def test_embed_same_slow_text_more_than_may_wait_busy(queries, gated):
    """Threads that wait for one text are threads too; a retry finds it cached."""
    first = Caller(queries, gated, "dog")
    assert gated.started.wait(30)
    second = Caller(queries, gated, "dog")
    wait_until(lambda: queries._waiting["sql"] == 2)
    with pytest.raises(BusyError, match="counting: embedding model is busy, retry in a moment"):
        queries.embed(gated, "dog", limits=PATIENT)
    with pytest.raises(BusyError, match="counting: embedding model is busy"):
        queries.embed(gated, "cat", limits=PATIENT)
    gated.gate.set()
    assert first.join().result == second.join().result is not None
    assert queries.embed(gated, "dog", limits=PATIENT) == first.result
    assert queries._waiting["sql"] == 0
    assert gated.calls == [["dog"]]


def test_embed_grace_is_over_busy_without_waiting(queries, gated, monkeypatch):
    """A slow model delays those too many once, not each of them again."""
    waits = []

    class Condition(threading.Condition):
        def wait_for(self, predicate, timeout=None):
            waits.append(timeout)
            return super().wait_for(predicate, 0)

    clock = FakeClock()
    monkeypatch.setattr(query_embeddings, "monotonic", clock)
    queries._changed = Condition(queries._lock)
    callers = [Caller(queries, gated, text) for text in ("a", "b")]
    wait_until(lambda: len(gated.calls) == 2)
    for seconds, grace in [(0.02, 0.03), (0.03, 0.0), (60, 0.0)]:
        clock.advance(seconds)
        with pytest.raises(BusyError, match="is busy"):
            queries.embed(gated, "a", limits=PATIENT)
        assert waits[-1] == pytest.approx(max(grace, 0), abs=1e-9)
    gated.gate.set()
    for caller in callers:
        caller.join()


def test_embed_too_many_at_once_busy_at_once(queries, gated):
    """The one too many is refused while the others wait, and the model is not asked."""
    callers = [Caller(queries, gated, text) for text in ("a", "b")]
    wait_until(lambda: len(gated.calls) == 2)
    with pytest.raises(BusyError, match="counting: embedding model is busy, retry in a moment"):
        queries.embed(gated, "c", limits=PATIENT)
    with pytest.raises(BusyError, match="other: embedding model is busy"):
        queries.embed(CountingModel("other"), "c", limits=PATIENT)
    gated.gate.set()
    assert all(caller.join().result for caller in callers)
    assert len(gated.calls) == 2
    assert queries.embed(gated, "c", limits=PATIENT)


def test_embed_busy_cached_text_is_answered(queries, gated):
    """Busy is for new texts only."""
    gated.gate.set()
    blob = queries.embed(gated, "known", limits=PATIENT)
    gated.gate.clear()
    callers = [Caller(queries, gated, text) for text in ("a", "b")]
    wait_until(lambda: len(gated.calls) == 3)
    assert queries.embed(gated, "known", limits=PATIENT) == blob
    gated.gate.set()
    for caller in callers:
        caller.join()


def test_embed_timeout_computation_goes_on_and_is_cached(queries, gated):
    """What was given up is not computed again."""
    with pytest.raises(EmbedTimeoutError, match="counting: no answer within 0.01 seconds"):
        queries.embed(gated, "dog", limits=SOON)
    with pytest.raises(EmbedTimeoutError, match="no answer"):
        queries.embed(gated, "dog", limits=SOON)
    joiner = Caller(queries, gated, "dog")
    gated.gate.set()
    assert joiner.join().result
    wait_until(lambda: queries.find(gated, "dog") is not None)
    assert gated.calls == [["dog"]]


def test_embed_hanging_model_blocks_itself_only(queries, gated):
    """Its given-up computations are bounded; another model still answers."""
    for text in ("a", "b"):
        with pytest.raises(EmbedTimeoutError, match="no answer"):
            queries.embed(gated, text, limits=SOON)
    with pytest.raises(BusyError, match="counting: embedding model is busy"):
        queries.embed(gated, "c", limits=SOON)
    assert queries.embed(CountingModel("other"), "c", limits=PATIENT)
    assert len(gated.calls) == 2


def test_embed_model_fails_all_who_wait_are_told(queries, gated):
    """The error reaches everybody, is not cached, and takes no slot."""
    gated.fails_with = ProviderError("counting", "quota used up")
    first = Caller(queries, gated, "dog")
    assert gated.started.wait(30)
    second = Caller(queries, gated, "dog")
    gated.gate.set()
    assert "quota used up" in str(first.join().error)
    assert "quota used up" in str(second.join().error)
    gated.fails_with = None
    for text in ("dog", "a", "b"):
        assert queries.embed(gated, text, limits=PATIENT)


@pytest.mark.parametrize("limits", [Limits(), PATIENT], ids=["script", "server"])
def test_embed_models_own_timeout_is_not_ours(queries, model, limits):
    """A TimeoutError of the provider is the model's failure, not the end of our patience."""
    model.fails_with = TimeoutError("socket")
    with pytest.raises(ProviderError, match="the model failed .TimeoutError.") as caught:
        queries.embed(model, "dog", limits=limits)
    assert not isinstance(caught.value, EmbedTimeoutError)
    assert caught.value.__cause__ is model.fails_with


def test_embed_nan_is_refused_and_not_cached(queries, model, monkeypatch):
    """What a model hands over is checked before it is kept."""
    monkeypatch.setattr(model, "embed_batch", lambda items, **_: [[float("nan")] * 8])
    with pytest.raises(InvalidVectorError, match="counting: row 0: NaN"):
        queries.embed(model, "dog")
    assert queries.find(model, "dog") is None


def test_embed_no_thread_can_start_computed_here(queries, model, monkeypatch):
    """As in a browser, where Python has no threads."""

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert queries.embed(model, "dog", limits=PATIENT)


def test_embed_text_too_long_refused_with_both_numbers(queries, model):
    """A truncated tail is never searched for in silence."""
    model.max_tokens = 5
    assert queries.embed(model, "one two three")
    with pytest.raises(
        UnreadableTextError,
        match=r"has 6 tokens and the model reads 5\. Shorten it$",
    ):
        queries.embed(model, "one two three four")
    assert model.calls == [["one two three"]]


def test_embed_too_long_by_estimate_is_logged_once(queries, model, caplog):
    """Nobody is refused because of a guess."""
    model.max_tokens, model.counts_exactly = 3, False
    for text in ("one two three", "four five six"):
        assert queries.embed(model, text)
    assert [record.getMessage() for record in caplog.records] == [
        "counting may read only the first part of a long text"
    ]


def test_embed_every_word_unknown_refused(queries, model):
    """All texts of an unknown script would have one and the same vector."""
    with pytest.raises(UnreadableTextError, match="Use a multilingual model"):
        queries.embed(model, "สวัสดี ครับ")
    assert model.calls == []


def test_embed_many_words_unknown_warned_once(queries, caplog):
    """More than a fifth is worth a line in the log, once."""
    model = CountingModel("warner")
    queries.embed(model, "one two three four ครับ")  # exactly a fifth
    assert not caplog.records
    queries.embed(model, "one ครับ")
    queries.embed(model, "two ครับ")
    assert len(caplog.records) == 1
    assert "warner does not know more than a fifth" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("text", "unreadable", "unknown"),
    [
        ("", False, False),
        ("one", False, False),
        ("one two three four ครับ", False, False),  # exactly a fifth
        ("one two three ครับ", True, False),
        ("ครับ", True, True),
    ],
)
def test_reading_unknown_share_without_special_tokens(model, text, unreadable, unknown):
    """One rule for every caller: [CLS] and [SEP] make no text more readable."""
    (reading,) = model.read([text])
    assert (reading.is_unreadable, reading.is_unknown) == (unreadable, unknown)


def test_embed_foreign_error_its_text_is_logged_not_raised(queries, caplog):
    """Once for the computation, with the traceback of what the model raised."""

    class Broken(LlmStyleModel):
        def embed_batch(self, items):
            raise RuntimeError("key sk-123 refused")

    with pytest.raises(ProviderError, match=r"^llm-style: the model failed \(RuntimeError\)") as e:
        queries.embed(AdaptedModel(Broken()), "dog", limits=PATIENT)
    assert "sk-123" not in str(e.value)
    assert e.value.detail == "llm-style: RuntimeError: key sk-123 refused"
    (record,) = caplog.records
    lines = record.getMessage().splitlines()
    assert lines[0] == e.value.detail
    assert lines[-1] == "RuntimeError: key sk-123 refused"
    assert any("in embed_batch" in line for line in lines)


def test_embed_cached_text_is_not_read_again(queries, model):
    """Reading must not double the cost of a warm query."""
    for _ in range(3):
        queries.embed(model, "dog")
    assert model.readings == 1


def test_embed_hanging_provider_process_exits():
    """A computation that never ends must not keep the server from stopping."""
    script = (
        "import threading\n"
        "from datasette_embed.query_embeddings import QueryEmbeddings, Limits\n"
        "from datasette_embed.errors import EmbedTimeoutError\n"
        "from tests.fakes import CountingModel\n"
        "model = CountingModel()\n"
        "model.read = lambda texts: threading.Event().wait()\n"
        "try:\n"
        "    QueryEmbeddings().embed(model, 'x', limits=Limits(timeout_seconds=0.01))\n"
        "except EmbedTimeoutError:\n"
        "    print('given up')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=True, text=True
    )
    assert done.stdout == "given up\n"


def test_embed_given_up_while_the_model_loads_process_ends_cleanly():
    """A thread inside native code when Python ends would abort the process."""
    script = (
        "from datasette_embed.query_embeddings import QueryEmbeddings, Limits\n"
        "from datasette_embed.errors import EmbedTimeoutError\n"
        "from datasette_embed.providers.bundled import bundled_model\n"
        "import numpy, onnxruntime\n"
        "try:\n"
        "    QueryEmbeddings().embed(bundled_model(), 'x', limits=Limits(timeout_seconds=0.02))\n"
        "except EmbedTimeoutError:\n"
        "    pass\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_embed_spend_only_for_what_is_computed(queries, model):
    """What is cached costs nothing; what may not be spent is not computed, nor waited for."""
    spent = []
    queries.embed(model, "dog", spend=lambda: spent.append(1))
    queries.embed(model, "dog", spend=lambda: spent.append(1))
    assert spent == [1]

    def refuse():
        raise BudgetExceededError("texts", 1, 2)

    with pytest.raises(BudgetExceededError, match="texts: 2 is over the limit of 1"):
        queries.embed(model, "cat", spend=refuse)
    assert model.calls == [["dog"]] and queries.waiting == 0
    assert queries.embed(model, "dog", spend=refuse)
    assert queries.embed(model, "cat")


def test_embed_joined_computation_costs_one_call(queries, gated):
    """Two who ask for one text at once pay once."""
    spent = []
    limits = Limits(timeout_seconds=30)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(queries.embed, gated, "a", limits=limits, spend=lambda: spent.append(1))
        gated.started.wait(30)
        second = pool.submit(
            queries.embed, gated, "a", limits=limits, spend=lambda: spent.append(2)
        )
        wait_until(lambda: queries.waiting == 2)
        gated.gate.set()
        assert first.result() == second.result()
    assert spent == [1]


def test_embed_other_lane_is_not_counted(queries, gated):
    """Web requests that wait leave SQL its places, for other models."""
    with ThreadPoolExecutor() as pool:
        web = Limits(timeout_seconds=30, concurrent=8, lane="web")
        waiting = [pool.submit(queries.embed, gated, text, limits=web) for text in "abc"]
        wait_until(lambda: queries._waiting["web"] == 3)
        assert queries.waiting == 0
        sql = Limits(timeout_seconds=30, concurrent=1)
        assert queries.embed(CountingModel("other"), "x", limits=sql)
        gated.gate.set()
        assert all(future.result() for future in waiting)


def test_embed_many_batches_what_is_missing_in_the_order_asked(queries, model):
    """Each distinct text once, at most ``batch_size`` a call, and nothing that is cached."""
    model.batch_size = 2
    cached = queries.embed(model, "b")
    spent = []
    blobs = queries.embed_many(
        model, ["a", "b", "c", "a", "d"], limits=PATIENT, spend=lambda: spent.append(1)
    )
    expected = [vector_of(text, Kind.QUERY) for text in "abcad"]
    assert np.allclose([np.frombuffer(blob, "<f4") for blob in blobs], expected)
    assert blobs[1] == cached
    assert model.calls == [["b"], ["a", "c"], ["d"]]
    assert len(spent) == 3
    assert queries.embed_many(model, ["d", "a"], limits=PATIENT) == [blobs[4], blobs[0]]
    assert len(model.calls) == 3


def test_embed_many_one_unreadable_text_nothing_is_embedded(queries, model):
    """Nor paid for: what is wrong is found before the first call."""
    model.max_tokens = 4
    with pytest.raises(UnreadableTextError, match="the model reads 4"):
        queries.embed_many(model, ["a", "a b c d e"], spend=lambda: pytest.fail("spent"))
    assert model.calls == []


def test_embed_many_no_answer_in_time(queries, gated):
    """The caller is let go, and the other batches are not begun."""
    gated.batch_size = 1
    with pytest.raises(EmbedTimeoutError, match="no answer within 0.01 seconds"):
        queries.embed_many(gated, ["a", "b"], limits=SOON)
    wait_until(lambda: gated.calls == [["a"]])


def test_embed_many_tokens_of_a_call_limited_smaller_batches():
    """A model that limits the tokens of a call gets as many texts as fit, in order."""
    model = CountingModel()
    model.max_batch_tokens = 8  # of which each text has four
    texts = [f"two {number}" for number in range(5)]
    blobs = QueryEmbeddings().embed_many(model, texts)
    assert model.batch_sizes == [2, 2, 1]
    assert blobs == [encode(vector_of(text, Kind.QUERY)) for text in texts]


def test_embed_of_a_photograph_keeps_no_photograph():
    """The answer is kept, with a digest of what it was for; other bytes have another."""
    queries, model = QueryEmbeddings(max_bytes=10_000), CountingModel()
    photograph = bytes(1_000_000)
    first = queries.embed(model, photograph)
    assert queries.embed(model, photograph) == first
    assert queries.used_bytes < 1_000
    assert queries.embed(model, photograph[1:]) != first
    assert queries.embed_many(model, [photograph, photograph[2:]])[0] == first
    assert sum(model.batch_sizes) == 3
