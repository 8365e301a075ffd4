"""Calls in flight: several at once, each item once, and what happens when one fails."""

from __future__ import annotations

import threading
from time import monotonic

import pytest

from datasette_embed import jobs
from datasette_embed.errors import CallRefusedError, ProviderError, QuotaExceededError
from datasette_embed.job_records import JobStatus
from datasette_embed.threads import wait_for_threads
from tests.engine_fakes import FailingModel
from tests.storage import expected, make_docs, query, run_job, stored

ROWS = [(n, f"text {n}") for n in range(40)]
#: So long a broken test waits for what does not come.
SECONDS = 10.0


class ServiceModel(FailingModel):
    """Takes several calls at once, and knows how many were under way.

    Attributes:
        most: the most calls that were under way at one time.
        together: a call waits until so many are under way; 0 for no wait.
        hold: a call with one of these texts waits for ``release``.
    """

    def __init__(self, concurrency: int = 4, batch_size: int = 2) -> None:
        super().__init__(batch_size=batch_size)
        self.concurrency = concurrency
        self.most = 0
        self.together = 0
        self.hold: set[str] = set()
        self.release = threading.Event()
        self.held_calls = 0
        self.started_at: list[float] = []
        self._under_way = 0
        self._changed = threading.Condition()

    def embed_batch(self, items, *, kind="document", key=None):
        with self._changed:
            self.started_at.append(monotonic())
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self.together, SECONDS)
        if self.hold & set(items):
            with self._changed:
                self.held_calls += 1
                self._changed.notify_all()
            self.release.wait(SECONDS)
        try:
            return super().embed_batch(items, kind=kind, key=key)
        finally:
            with self._changed:
                self._under_way -= 1

    def wait_for_held(self, calls: int) -> None:
        """Wait until so many calls are held."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.held_calls >= calls, SECONDS)


@pytest.fixture
def db(tmp_path):
    """A file whose table docs has forty rows."""
    return make_docs(tmp_path / "a.db", ROWS)


def test_run_several_calls_at_once_never_more_than_the_model_takes(db):
    """As many as it says, each item once, whatever order they end in."""
    model = ServiceModel(concurrency=4)
    model.together = 4
    outcome = run_job(db, model)
    assert (outcome.status, model.most) == (JobStatus.FINISHED, 4)
    assert sorted(model.items) == sorted(text for _, text in ROWS)
    assert stored(db) == expected(ROWS)
    assert (outcome.counts.embedded, outcome.counts.rows_done) == (40, 40)


def test_run_calls_of_the_next_window_begin_while_one_is_under_way(db, monkeypatch):
    """The end of a window is no reason to wait."""
    monkeypatch.setattr(jobs, "WINDOW_ROWS", 4)
    model = ServiceModel(concurrency=2)
    model.hold = {"text 0"}
    # The last of all the others to be called ends the wait of the first.
    model.after_call = lambda calls: calls >= 19 and model.release.set()
    assert run_job(db, model).status is JobStatus.FINISHED
    assert model.release.is_set()
    assert stored(db) == expected(ROWS)


def test_run_content_under_way_met_again_is_not_called_for_twice(tmp_path, monkeypatch):
    """The row of a later window waits for the call that is under way."""
    monkeypatch.setattr(jobs, "WINDOW_ROWS", 2)
    rows = [(1, "twin"), (2, "a"), (3, "twin"), (4, "b"), (5, "twin"), (6, "c")]
    path = make_docs(tmp_path / "a.db", rows)
    model = ServiceModel(concurrency=2, batch_size=1)
    model.hold = {"twin"}
    model.after_call = lambda calls: calls >= 3 and model.release.set()
    outcome = run_job(path, model)
    assert sorted(model.items) == ["a", "b", "c", "twin"]
    assert stored(path) == expected(rows)
    assert (outcome.counts.embedded, outcome.counts.reused) == (4, 2)


def test_run_content_under_way_fails_for_every_row_that_waits(tmp_path, monkeypatch):
    """A row that joined later is recorded too."""
    monkeypatch.setattr(jobs, "WINDOW_ROWS", 2)
    rows = [(1, "twin"), (2, "a"), (3, "twin"), (4, "b")]
    path = make_docs(tmp_path / "a.db", rows)
    model = ServiceModel(concurrency=2, batch_size=1)
    model.hold, model.bad = {"twin"}, {"twin"}
    model.after_call = lambda calls: calls >= 2 and model.release.set()
    outcome = run_job(path, model)
    assert [row[0] for row in query(path, "select entry_id from _embed_failures")] == ["1", "3"]
    assert (outcome.counts.failed, outcome.counts.embedded) == (2, 2)


def test_run_paused_keeps_every_call_under_way(db):
    """No call begins after the pause; those that had are stored."""
    model = ServiceModel(concurrency=4)
    model.together = 4
    pause = threading.Event()
    model.after_call = lambda calls: pause.set()
    outcome = run_job(db, model, pause=pause)
    assert outcome.status is JobStatus.PAUSED
    assert 4 <= len(model.calls) < 20
    assert len(stored(db)) == len(model.items) == 2 * len(model.calls)
    model.together = 0
    assert run_job(db, model).job.id == outcome.job.id
    assert sorted(model.items) == sorted(text for _, text in ROWS)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (CallRefusedError("counting", "refuses the key"), "failed", "counting: refuses the key"),
        (QuotaExceededError("counting", "is empty"), "paused", "counting: is empty"),
    ],
)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_run_refused_ends_at_once_and_keeps_what_was_under_way(
    db, concurrency, error, status, reason
):
    """Text by text would only be refused again; what the others brought is stored."""
    model = ServiceModel(concurrency=concurrency)
    model.together = concurrency
    model.script = [None] * (concurrency - 1) + [error] * 20
    if status == "failed":
        with pytest.raises(CallRefusedError, match="refuses the key"):
            run_job(db, model)
    else:
        assert run_job(db, model).status is JobStatus.PAUSED
    assert query(db, "select status, reason from _embed_jobs") == [(status, reason)]
    assert len(model.calls) <= 2 * concurrency
    assert len(stored(db)) == 2 * (concurrency - 1)
    assert query(db, "select * from _embed_failures") == []
    model.script = []
    assert run_job(db, model).status is JobStatus.FINISHED
    assert stored(db) == expected(ROWS)


def test_run_one_call_that_is_put_off_holds_up_no_other(db, monkeypatch):
    """While it waits for its next attempt the others go on."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.3)
    model = ServiceModel(concurrency=2)
    model.script = [ProviderError("counting", "busy", retryable=True)]
    assert run_job(db, model).status is JobStatus.FINISHED
    first, second = [n for n, call in enumerate(model.calls) if model.calls.count(call) == 2]
    assert second - first > 5
    assert len(model.calls) == 21
    assert stored(db) == expected(ROWS)


def test_run_retry_after_is_for_all_calls(db):
    """It is the account that is busy, not the one request."""
    model = ServiceModel(concurrency=3)
    model.script = [ProviderError("counting", "busy", retryable=True, retry_after_seconds=0.4)]
    assert run_job(db, model).status is JobStatus.FINISHED
    began = model.started_at[0]
    # Those that were under way or just began, but not all twenty before the time is over.
    early = [at for at in model.started_at if at < began + 0.4]
    assert len(early) < 12
    assert stored(db) == expected(ROWS)


def test_run_service_is_down_reads_no_further_and_pauses(db, monkeypatch):
    """Neither are all rows read into memory, nor does it go on for ever."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    model = ServiceModel(concurrency=2)
    model.script = [ProviderError("counting", "is down", retryable=True)] * 1000
    outcome = run_job(db, model)
    assert (outcome.status, outcome.reason) == (
        JobStatus.PAUSED,
        "the model kept failing: counting: is down",
    )
    assert len({tuple(call) for call in model.calls}) <= 6
    assert stored(db) == {}


@pytest.mark.parametrize("bad", [0, 16, 17, 39])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_run_item_that_breaks_the_service_every_time_is_found(db, monkeypatch, concurrency, bad):
    """A model that answers to other texts is not down: the one item fails, no job is stuck."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    model = ServiceModel(concurrency=concurrency, batch_size=8)
    model.bad = {f"text {bad}"}
    model.error = lambda: ProviderError("counting", "is broken", retryable=True)
    outcome = run_job(db, model)
    assert (outcome.status, outcome.counts.embedded) == (JobStatus.FINISHED, 39)
    assert stored(db) == expected([row for row in ROWS if row[0] != bad])
    found = query(db, "select entry_id, message from _embed_failures")
    assert found == [(str(bad), "counting: is broken")]
    # Nine attempts of eight items, then three of four, of two and of one; a short text after each.
    tried = [call for call in model.calls if f"text {bad}" in call]
    assert [len(call) for call in tried] == [8] * 9 + [4] * 3 + [2] * 3 + [1] * 3
    assert model.calls.count(["a short text"]) == 4


def test_run_item_that_breaks_the_service_alone_fails(tmp_path, monkeypatch):
    """Where there is nothing else to compare with, the short text tells."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    path = make_docs(tmp_path / "one.db", [(1, "poison")])
    model = ServiceModel(concurrency=1)
    model.bad = {"poison"}
    model.error = lambda: ProviderError("counting", "is broken", retryable=True)
    outcome = run_job(path, model)
    assert (outcome.status, outcome.counts.failed) == (JobStatus.FINISHED, 1)
    assert model.calls == [["poison"]] * 9 + [["a short text"]]


@pytest.mark.parametrize("limit", [{"is_rate_limit": True}, {"retry_after_seconds": 1e-9}])
def test_run_too_many_calls_are_no_items_fault(db, monkeypatch, limit):
    """The run pauses, and nothing more is sent to a service that wants less."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    model = ServiceModel(concurrency=1, batch_size=40)
    model.script = [ProviderError("counting", "too many", retryable=True, **limit)] * 9
    outcome = run_job(db, model)
    assert (outcome.status, outcome.reason) == (
        JobStatus.PAUSED,
        "the model kept failing: counting: too many",
    )
    assert [len(call) for call in model.calls] == [40] * 9
    assert query(db, "select * from _embed_failures") == []


def test_run_one_bad_item_among_calls_at_once_is_found(db):
    """Bisection goes on beside the other calls."""
    model = ServiceModel(concurrency=4, batch_size=8)
    model.bad = {"text 17"}
    outcome = run_job(db, model)
    assert stored(db) == expected([row for row in ROWS if row[0] != 17])
    assert [row[0] for row in query(db, "select entry_id from _embed_failures")] == ["17"]
    assert (outcome.status, outcome.counts.embedded) == (JobStatus.FINISHED, 39)


def test_run_interrupted_while_calls_are_under_way_paused_and_raised(db):
    """A second Ctrl-C does not wait for a service that hangs."""
    model = ServiceModel(concurrency=2)

    def hold_the_next(calls):
        model.hold = {text for _, text in ROWS}

    def interrupt(counts):
        if model.hold:  # a call has ended, and two others are about to begin or have begun
            model.wait_for_held(2)
            raise KeyboardInterrupt

    model.after_call = hold_the_next
    with pytest.raises(KeyboardInterrupt):
        run_job(db, model, report=interrupt)
    assert query(db, "select status, reason from _embed_jobs") == [("paused", "interrupted")]
    begun = len(model.started_at)
    model.release.set()
    assert wait_for_threads(SECONDS)
    assert len(model.started_at) == begun < 20


def test_run_calls_hold_the_limit_of_tokens(tmp_path):
    """A request of a service may have only so many tokens, whatever the number of texts."""
    rows = [(n, "word " * (n % 7 + 1)) for n in range(30)]
    rows = [(n, f"{text}{n}") for n, text in rows]
    path = make_docs(tmp_path / "a.db", rows)
    model = ServiceModel(batch_size=20)
    model.max_batch_tokens = 25
    assert run_job(path, model).status is JobStatus.FINISHED
    assert stored(path) == expected(rows)
    tokens = [sum(len(text.split()) + 2 for text in call) for call in model.calls]
    assert max(tokens) <= 25
    assert len(tokens) < 15
