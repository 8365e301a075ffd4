"""Jobs with a model behind HTTP: what a server's bad days leave in the file."""

from __future__ import annotations

import logging
import time

import pytest

from datasette_embed.errors import EmbedError
from datasette_embed.job_records import JobStatus
from datasette_embed.providers.openai import OpenAIModel
from datasette_embed.sources import SourceSpec
from tests.embedding_server import EmbeddingServer, Fault
from tests.storage import execute, expected, make_docs, query, run_job, stored

ROWS = [(n, f"text number {n}") for n in range(24)]
KEY = "sk-test-0123456789abcdef"
SOON = {"retry-after-ms": "20"}


@pytest.fixture
def db(tmp_path):
    """A file whose table docs has 24 rows of three tokens each."""
    return make_docs(tmp_path / "a.db", ROWS)


@pytest.fixture
def server():
    with EmbeddingServer() as running:
        yield running


def make(server, **options):
    """A model that sends one request at a time, so that their number is certain."""
    model = OpenAIModel("m", model_id="m", base_url=server.base_url, concurrency=1, **options)
    model.batch_size = 8
    return model


def ended(db, model):
    """Run a job to whatever end it comes; return its status and reason in the file."""
    try:
        run_job(db, model)
    except EmbedError as error:
        logging.getLogger(__name__).error("%s", error)
    return query(db, "select status, reason from _embed_jobs order by id desc limit 1")[0]


def test_job_bad_item_in_a_good_batch_recorded_the_rest_embedded(db, server):
    """One text over the limit costs its own row alone."""
    with_long = [*ROWS, (99, "one text that is far too long for this server")]
    make_docs(db, with_long, "texts")
    server.max_tokens = 5
    model = make(server)
    outcome = run_job(db, model, spec=SourceSpec(table="texts", columns=("body",)), name="texts")
    assert (outcome.status, outcome.counts.failed) == (JobStatus.FINISHED, 1)
    assert stored(db, "texts") == expected(ROWS)
    ((entry_id, message),) = query(db, "select entry_id, message from _embed_failures")
    assert (entry_id, message) == (
        "99",
        "m: the server takes no text of this length. Shorten it",
    )
    assert server.tokens_billed == outcome.counts.tokens == 3 * len(ROWS)


@pytest.mark.parametrize("is_known", [True, False], ids=["estimated", "no limit known"])
def test_job_text_too_long_embedded_by_its_beginning_and_said(db, server, is_known):
    """As much of it as the server takes, about; never in silence, and no other row is cut."""
    long = " ".join(f"w{n % 10}" for n in range(2_000))
    make_docs(db, [*ROWS, (99, long)], "texts")
    server.max_tokens = 500
    model = make(server)
    model.max_tokens = 600 if is_known else None
    outcome = run_job(db, model, spec=SourceSpec(table="texts", columns=("body",)), name="texts")
    assert (outcome.status, outcome.counts.failed) == (JobStatus.FINISHED, 0)
    assert set(stored(db, "texts")) == {str(n) for n, _ in [*ROWS, (99, long)]}
    sent = [text for text in server.texts if text.startswith("w0 w1")]
    assert all(long.startswith(text) for text in sent)
    assert 350 <= len(sent[-1].split()) <= 500
    ((entry_id, warning, tokens, lost),) = query(
        db, "select entry_id, warning, tokens, tokens_lost from _embed_warnings"
    )
    assert (entry_id, warning, tokens) == ("99", "truncated", len(long) // 4)
    assert lost == pytest.approx(tokens * (1 - len(sent[-1]) / len(long)), abs=2)
    assert len(sent) <= 8
    assert server.tokens_billed == 3 * len(ROWS) + len(sent[-1].split())
    # Rows that get the same vector later, as a copy or by a move, are named like the first.
    named = "select entry_id, warning, tokens, tokens_lost from _embed_warnings"
    execute(db, "insert into texts select 100, body from texts where id = 99")
    again = run_job(db, model, spec=SourceSpec(table="texts", columns=("body",)), name="texts")
    assert again.counts.reused == 1
    copies = {row[0]: row[1:] for row in query(db, named)}
    assert copies.keys() == {"99", "100"}
    assert copies["100"] == (warning, tokens, pytest.approx(lost, abs=2))
    execute(
        db,
        "update texts set body = (select body from texts where id = 99) where id = 1",
        "update texts set body = 'another' where id in (99, 100)",
    )
    moved = run_job(db, model, spec=SourceSpec(table="texts", columns=("body",)), name="texts")
    assert moved.counts.reused >= 1
    assert [row[0] for row in query(db, named)] == ["1"]


def test_job_passing_trouble_complete_and_paid_once(db, server):
    """Busy, broken, cut off, no JSON: in the end every row is there, and no vector twice."""
    server.script = [
        Fault(status=429, headers=SOON),
        Fault(status=500, headers=SOON),
        None,
        Fault(status=503, headers=SOON),
        Fault(kind="cut"),
        None,
        Fault(kind="not json"),
    ]
    outcome = run_job(db, make(server))
    assert outcome.status is JobStatus.FINISHED
    assert stored(db) == expected(ROWS)
    assert server.tokens_billed == 3 * len(ROWS)
    assert len(server.requests) == 3 + 5


def test_job_waits_as_long_as_the_server_asks(db, server):
    """Retry-After counts, and nothing is sent before its end."""
    server.script = [Fault(status=429, headers={"retry-after": "0.3"})]
    started = time.monotonic()
    assert run_job(db, make(server)).status is JobStatus.FINISHED
    assert 0.3 <= time.monotonic() - started < 3
    assert stored(db) == expected(ROWS)


def test_job_key_refused_ends_at_once_and_shows_it_nowhere(db, server, monkeypatch, caplog):
    """No second request, and no key in message, log or file."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MINE_API_KEY", KEY)
    server.key = "another"
    status, reason = ended(db, make(server, key="mine", key_env_var="MINE_API_KEY"))
    assert status == "failed"
    assert "does not take the key (HTTP 401): set another in MINE_API_KEY" in reason
    assert len(server.requests) == 1
    assert stored(db) == {}
    assert KEY not in reason
    assert KEY not in caplog.text
    assert KEY.encode() not in db.read_bytes()


def test_job_redirected_ends_at_once(db, server):
    """The other server gets nothing."""
    with EmbeddingServer() as other:
        location = f"{other.base_url}/embeddings"
        server.script = [Fault(kind="redirect", status=307, location=location)] * 9
        status, reason = ended(db, make(server))
        assert other.requests == []
    assert status == "failed"
    assert "which is not followed" in reason
    assert len(server.requests) == 1


def test_job_quota_used_up_pauses_and_resumes(db, server):
    """What was paid for is kept; when the account is filled, the rest follows."""
    empty = Fault(status=429, code="insufficient_quota")
    server.script = [None, *[empty] * 9]
    status, reason = ended(db, make(server))
    assert status == "paused"
    assert "the account has nothing left" in reason
    assert len(server.requests) == 2
    assert len(stored(db)) == 8
    server.script = []
    assert run_job(db, make(server)).status is JobStatus.FINISHED
    assert stored(db) == expected(ROWS)
    assert server.tokens_billed == 3 * len(ROWS)


@pytest.mark.parametrize("kind", ["fewer", "more", "nan"])
def test_job_wrong_answer_for_a_batch_asked_again_in_halves(db, server, kind):
    """Nothing of a wrong answer is stored, and no row is lost by it."""
    server.script = [Fault(kind=kind)]
    outcome = run_job(db, make(server))
    assert (outcome.status, outcome.counts.failed) == (JobStatus.FINISHED, 0)
    assert stored(db) == expected(ROWS)


def test_job_other_dimensions_than_before_fails(db, server):
    """A server whose model was changed is found out; vectors are not mixed."""
    server.script = [None, Fault(kind="dimensions", dimensions=5)]
    status, reason = ended(db, make(server))
    assert status == "failed"
    assert "a vector has 5 dimensions instead of 8" in reason
    assert {len(blob) for blob in stored(db).values()} == {8 * 4}


def test_job_text_longer_than_the_model_reads_cut_and_said(db, server):
    """A vector that does not speak for the whole text is marked in the file."""
    long = "word " * 100
    make_docs(db, [(1, "short"), (2, long)], "texts")
    model = make(server)
    model.max_tokens = 20
    outcome = run_job(db, model, spec=SourceSpec(table="texts", columns=("body",)), name="texts")
    assert outcome.status is JobStatus.FINISHED
    sent = max(server.texts, key=len)
    assert long.startswith(sent)
    assert len(sent) == 80
    sql = "select entry_id, warning, tokens from _embed_warnings"
    assert query(db, sql) == [("2", "truncated", 125)]


def test_job_of_2000_rows_with_a_service_that_fails_complete_and_paid_once(tmp_path):
    """One request in twenty fails, eight are under way at once; no text is billed twice."""
    rows = [(n, f"row {n} {'word ' * (n % 30)}") for n in range(2_000)]
    db = make_docs(tmp_path / "a.db", rows)
    with EmbeddingServer(latency_seconds=0.05, failure_rate=0.05, seed=1) as service:
        model = OpenAIModel("m", model_id="m", base_url=service.base_url, concurrency=8)
        outcome = run_job(db, model)
    assert (outcome.status, outcome.counts.embedded) == (JobStatus.FINISHED, 2_000)
    assert stored(db) == expected(rows)
    assert service.failed > 0
    assert len(service.requests) == 32 + service.failed
    needed = sum(len(text.split()) for _, text in rows)
    assert service.tokens_billed == outcome.counts.tokens == needed
    assert 4 <= service.most_at_once <= 8


def test_job_text_that_the_server_breaks_on_costs_its_own_row(db, server, monkeypatch):
    """A 500 for one text, again and again, holds up no job, and no text is paid for twice."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    refused = EmbeddingServer.refusal

    def refusal(self, request):
        if "text number 7" in request.texts:
            return Fault(status=500, message="json: unsupported value: NaN")
        return refused(self, request)

    monkeypatch.setattr(EmbeddingServer, "refusal", refusal)
    outcome = run_job(db, make(server))
    assert (outcome.status, outcome.counts.embedded) == (JobStatus.FINISHED, 23)
    [(entry_id, message)] = query(db, "select entry_id, message from _embed_failures")
    assert (entry_id, "busy or broken (HTTP 500)" in message) == ("7", True)
    asked = server.texts.count("a short text")
    assert server.tokens_billed == outcome.counts.tokens == 3 * (23 + asked)


def test_job_too_long_said_with_500_is_the_rows_fault_not_the_servers(db, server, monkeypatch):
    """llama-server answers so; without a look at the words the job would pause for ever."""
    said = "input is too large to process. increase the physical batch size"
    refused = EmbeddingServer.refusal

    def refusal(self, request):
        if "text number 7" in request.texts:
            return Fault(status=500, message=said)
        return refused(self, request)

    monkeypatch.setattr(EmbeddingServer, "refusal", refusal)
    outcome = run_job(db, make(server))
    assert (outcome.status, outcome.counts.embedded) == (JobStatus.FINISHED, 23)
    [(entry_id, message)] = query(db, "select entry_id, message from _embed_failures")
    assert (entry_id, "takes no text of this length" in message) == ("7", True)
