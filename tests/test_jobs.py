"""The engine: what reaches the model, what is written, and what survives."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasette_embed import database, jobs
from datasette_embed.chosen_rows import ChosenRows
from datasette_embed.collection_setup import ensure_collection
from datasette_embed.database import open_database, sqlite3
from datasette_embed.errors import (
    CallRefusedError,
    DatabaseLockedError,
    DimensionMismatchError,
    JobStateError,
    MissingKeyError,
    ModelMismatchError,
    ProviderError,
    SourceError,
    UnreadableTextError,
)
from datasette_embed.job_records import JobRecords, JobStatus
from datasette_embed.jobs import JobRun
from datasette_embed.models import Batch
from datasette_embed.records import content_hash
from datasette_embed.schema import TRIGGERS
from datasette_embed.sources import Source, SourceSpec
from datasette_embed.store import Store
from tests.engine_fakes import FailingModel, PauseThatNeverWaits
from tests.fakes import CountingModel
from tests.storage import blob_of, execute, expected, make_docs, query, run_job, stored

ROWS = [(n, f"text {n}") for n in range(10)]


@pytest.fixture
def db(tmp_path):
    """A file whose table docs has ten rows."""
    return make_docs(tmp_path / "a.db", ROWS)


@pytest.fixture
def model():
    """A model that counts, and can fail."""
    return FailingModel()


def job_row(path, columns="status, reason"):
    return query(path, f"select {columns} from _embed_jobs order by id desc limit 1")[0]


def failures(path):
    return query(path, "select entry_id, message, attempts from _embed_failures order by 1")


# What reaches the model


def test_run_new_table_every_row_embedded_once(db, model):
    """Ids become text, vectors are the model's, hashes are md5, no content is stored."""
    outcome = run_job(db, model)
    assert outcome.status is JobStatus.FINISHED
    assert stored(db) == expected(ROWS)
    assert sorted(model.items) == sorted(text for _, text in ROWS)
    rows = query(db, "select id, content, content_blob, content_hash, metadata from embeddings")
    assert {(i, content_hash(f"text {i}")) for i, *_ in rows} == {(i, h) for i, _, _, h, _ in rows}
    assert {row[1:3] + row[4:] for row in rows} == {(None, None, None)}
    assert query(db, "select typeof(updated), min(updated) > 1.7e9 from embeddings group by 1") == [
        ("integer", 1)
    ]
    assert job_row(db, "status, reason, owner, embedded, rows_done, failed") == (
        "finished",
        None,
        None,
        10,
        10,
        0,
    )


def test_run_again_no_call_no_change(db, model):
    """What is up to date costs nothing."""
    run_job(db, model)
    before = query(db, "select * from embeddings")
    outcome = run_job(db, model)
    assert len(model.items) == 10
    assert outcome.counts.unchanged == 10
    assert query(db, "select * from embeddings") == before


def test_run_same_content_under_two_ids_one_item_two_rows(db, model):
    """The model sees a text once, in one window and under a new id later."""
    execute(db, "insert into docs values (20, 'twin'), (21, 'twin')")
    outcome = run_job(db, model)
    assert model.items.count("twin") == 1
    execute(db, "insert into docs values (22, 'twin')")
    again = run_job(db, model)
    assert model.items.count("twin") == 1
    assert stored(db) == expected([*ROWS, (20, "twin"), (21, "twin"), (22, "twin")])
    assert (outcome.counts.embedded, outcome.counts.reused) == (11, 1)
    assert (again.counts.embedded, again.counts.reused) == (0, 1)


def test_run_changed_content_only_that_is_embedded(db, model):
    """An edited row gets a new vector, the others keep theirs."""
    run_job(db, model)
    execute(db, "update docs set body = 'edited' where id = 3")
    run_job(db, model)
    assert model.items[10:] == ["edited"]
    assert stored(db) == expected([*ROWS, (3, "edited")])


@pytest.mark.parametrize("window", [1, 2, 3, 1_000])
def test_run_contents_trade_places_no_call(db, model, window, monkeypatch):
    """Swapped, shifted, reversed: every text has been paid for, in whatever window it is."""
    monkeypatch.setattr(jobs, "WINDOW_ROWS", window)
    run_job(db, model)
    for statement in (
        "update docs set body = 'text ' || case id when 1 then 2 when 2 then 1 else id end",
        "update docs set body = 'text ' || ((id + 1) % 10)",
        "update docs set body = 'text ' || (9 - id)",
    ):
        execute(db, statement)
        run_job(db, model)
        assert len(model.items) == 10
        assert stored(db) == expected(query(db, "select id, body from docs"))


def test_run_store_later_text_added_without_call(db, model):
    """--store on what is up to date writes the text beside the vector."""
    run_job(db, model)
    outcome = run_job(db, model, store=True)
    assert len(model.items) == 10
    assert outcome.counts.refreshed == 10
    found = query(db, "select id, content from embeddings")
    assert dict(found) == {str(entry_id): text for entry_id, text in ROWS}
    assert stored(db) == expected(ROWS)
    execute(db, "update docs set body = 'edited' where id = 3")
    run_job(db, model)
    assert query(db, "select content from embeddings where id = '3'") == [("edited",)]


def test_run_model_revised_everything_again(db, model):
    """Another fingerprint is another vector space."""
    run_job(db, model)
    model.revision = "2"
    outcome = run_job(db, model)
    assert len(model.items) == 20
    assert outcome.counts.embedded == 10
    assert run_job(db, model).counts.unchanged == 10
    assert query(db, "select fingerprint from _embed_collections") == [("counting@2",)]


def test_run_model_revised_that_cannot_be_loaded_leaves_all_as_it_was(db, model):
    """The folder of its weights is not mounted, for example: nothing is to be embedded again."""
    run_job(db, model)
    before = query(db, "select fingerprint, rebuilding from _embed_collections")
    model.revision = "2"
    model.warm = lambda: fail(CallRefusedError("counting", "its folder is not there"))
    with pytest.raises(CallRefusedError, match="its folder is not there"):
        run_job(db, model)
    assert job_row(db) == ("failed", "counting: its folder is not there")
    assert query(db, "select fingerprint, rebuilding from _embed_collections") == before
    model.revision, model.warm = None, lambda: None
    assert run_job(db, model).counts.unchanged == 10


def fail(error):
    raise error


def test_run_model_revised_and_interrupted_goes_on_where_it_was(db):
    """Each text is embedded once by each revision, whatever was interrupted in between."""
    model = FailingModel(batch_size=2)
    run_job(db, model)
    model.revision = "2"
    pause = threading.Event()
    model.after_call = lambda calls: calls == 7 and pause.set()
    assert run_job(db, model, pause=pause).status is JobStatus.PAUSED
    assert len(stored(db)) == 10
    run_job(db, model)
    assert sorted(model.items) == sorted([text for _, text in ROWS] * 2)


def test_run_blank_rows_counted_not_embedded(db, model):
    """NULL, nothing and white space have no meaning to embed."""
    execute(db, "insert into docs values (20, null), (21, ''), (22, ' ')")
    outcome = run_job(db, model)
    assert outcome.counts.blank == 3
    assert stored(db) == expected(ROWS)


def test_run_unusable_rows_are_failures_others_go_on(db, model):
    """Binary content is recorded with its reason, and retried the next time."""
    execute(db, "update docs set body = x'00ff' where id = 4")
    outcome = run_job(db, model)
    assert (outcome.status, outcome.counts.failed) == (JobStatus.FINISHED, 1)
    assert failures(db) == [("4", "column 'body' holds binary content, not text", 1)]
    assert "4" not in stored(db)


def test_run_warnings_of_long_and_unknown_text(tmp_path):
    """A vector that does not speak for the whole text is marked, until the text changes."""
    path = make_docs(tmp_path / "a.db", [(1, "a b c d e f"), (2, "a"), (3, "é ü o")])
    model = CountingModel(max_tokens=6)
    run_job(path, model)
    sql = "select entry_id, warning, tokens, tokens_lost from _embed_warnings order by 1"
    assert query(path, sql) == [("1", "truncated", 8, 2), ("3", "unreadable", 5, 2)]
    execute(path, "update docs set body = 'short' where id = 1")
    run_job(path, model)
    assert query(path, sql) == [("3", "unreadable", 5, 2)]


def test_run_batches_of_the_models_size(db):
    """A model's limit holds; without one it is 64."""
    model = CountingModel(batch_size=4)
    run_job(db, model)
    assert sorted(model.batch_sizes) == [2, 4, 4]


def test_run_text_of_unknown_script_is_a_failure(tmp_path):
    """All such texts would have the same vector, which means nothing."""
    path = make_docs(tmp_path / "a.db", [(1, "a"), (2, "é ü"), (3, "é ü")])
    outcome = run_job(path, CountingModel())
    assert outcome.counts.failed == 2
    assert sorted(stored(path)) == ["1"]
    assert [(entry_id, "does not know" in why) for entry_id, why, _ in failures(path)] == [
        ("2", True),
        ("3", True),
    ]


def test_run_many_texts_that_always_fail_do_not_block_the_others(tmp_path):
    """What failed before comes last and does not count, so the next run gets further."""
    rows = [(n, f"bad {n}" if n <= 40 else f"good {n}") for n in range(1, 101)]
    path = make_docs(tmp_path / "a.db", rows)
    model = FailingModel(bad={text for _, text in rows if text.startswith("bad")}, batch_size=1)
    statuses = [run_job(path, model).status for _ in range(4)]
    assert statuses[-1] is JobStatus.FINISHED
    assert stored(path) == expected(row for row in rows if row[0] > 40)
    assert len(failures(path)) == 40
    assert run_job(path, model).status is JobStatus.FINISHED


def test_run_short_vector_is_embedded_again(db, model):
    """A damaged vector is missing, whatever its hash says."""
    run_job(db, model)
    execute(db, "update embeddings set embedding = x'0102' where id = '4'")
    execute(db, "update embeddings set embedding = null where id = '5'")
    run_job(db, model)
    assert stored(db) == expected(ROWS)


def test_run_remove_deletes_gone_and_blank_keeps_failing(db, model):
    """What has no row or no text goes; what cannot be read at the moment stays."""
    run_job(db, model)
    execute(
        db,
        "delete from docs where id = 1",
        "update docs set body = ' ' where id = 2",
        "update docs set body = x'00' where id = 3",
    )
    kept = run_job(db, model)
    assert (kept.counts.removed, len(stored(db))) == (1, 9)
    outcome = run_job(db, model, remove=True)
    assert outcome.counts.removed == 1
    assert stored(db) == expected([row for row in ROWS if row[0] not in (1, 2)])


def test_run_paused_while_removing_deletes_nothing(db, model):
    """Only a source that was read to its end says what is gone."""
    run_job(db, model)
    execute(db, "delete from docs where id = 1", "update docs set body = 'new' where id = 2")
    pause = threading.Event()
    pause.set()
    assert run_job(db, model, remove=True, pause=pause).status is JobStatus.PAUSED
    assert "1" in stored(db)


def test_run_metadata_of_llm_is_kept(db, model):
    """Another tool's metadata survives a new vector."""
    run_job(db, model)
    execute(db, "update embeddings set metadata = '{}'", "update docs set body = 'n' where id = 3")
    run_job(db, model)
    assert query(db, "select distinct metadata from embeddings") == [("{}",)]


# Models that answer wrongly


def test_run_unknown_dimensions_learned_from_the_first_batch(db):
    """A model that does not say how long its vectors are shows it."""
    run_job(db, CountingModel(dimensions=None))
    assert query(db, "select dimensions from _embed_collections") == [(8,)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items, vectors: vectors[:-1], "returned 9 vectors for 10 items|returned 0 vectors"),
        (lambda items, vectors: [*vectors, vectors[0]], "vectors for 1 items"),
        (lambda items, vectors: [["x"] * 8] * len(items), "not a list of numbers"),
    ],
    ids=["fewer", "more", "words"],
)
def test_run_model_answers_wrongly_nothing_is_written(db, change, message):
    """Vectors that cannot be matched to texts are never stored."""
    model = FailingModel()
    model.change = change
    outcome = run_job(db, model)
    assert stored(db) == {}
    assert outcome.counts.failed == 10
    assert len(failures(db)) == 10
    with closing(sqlite3.connect(db)) as conn:
        reason = conn.execute("select group_concat(message) from _embed_failures").fetchone()[0]
    assert any(part.split("returned ")[-1] in reason for part in message.split("|"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e39])
def test_run_one_vector_not_finite_isolated(db, model, number):
    """One bad vector costs one row."""
    model.change = lambda items, vectors: [
        [number] * 8 if item == "text 5" else vector
        for item, vector in zip(items, vectors, strict=True)
    ]
    outcome = run_job(db, model)
    assert stored(db) == expected([row for row in ROWS if row[0] != 5])
    assert [(i, n) for i, _, n in failures(db)] == [("5", 1)]
    assert "NaN, infinity or a number too large" in failures(db)[0][1]
    assert outcome.status is JobStatus.FINISHED


def test_run_other_dimensions_than_stored_job_fails(db):
    """Two lengths in one collection would be two vector spaces."""
    run_job(db, CountingModel(dimensions=None))
    execute(db, "insert into docs values (20, 'new')")
    model = FailingModel(dimensions=None)
    model.change = lambda items, vectors: [vector[:4] for vector in vectors]
    with pytest.raises(
        DimensionMismatchError, match="counting: a vector has 4 dimensions instead of 8"
    ):
        run_job(db, model)
    assert job_row(db)[0] == "failed"
    assert "counting: a vector has 4 dimensions instead of 8" in job_row(db)[1]
    assert stored(db) == expected(ROWS)


def test_run_one_bad_text_in_64_found_with_few_calls(tmp_path):
    """Bisection: 64, then two halves at each of six levels."""
    rows = [(n, f"t{n}") for n in range(64)]
    path = make_docs(tmp_path / "a.db", rows)
    model = FailingModel(["t41"])
    outcome = run_job(path, model)
    assert stored(path) == expected([row for row in rows if row[0] != 41])
    assert failures(path) == [("41", "counting: cannot", 1)]
    assert len(model.calls) == 13
    assert (outcome.status, outcome.counts.embedded) == (JobStatus.FINISHED, 63)


@pytest.mark.parametrize("error", [RuntimeError("CUDA says no"), ValueError("too odd"), OSError()])
def test_run_model_raises_anything_is_a_failed_row(db, error, caplog):
    """A plugin's model may raise what it likes; what it said is in the log, not in the file."""
    model = FailingModel(["text 2"])
    model.error = lambda: error
    run_job(db, model)
    assert stored(db) == expected([row for row in ROWS if row[0] != 2])
    name = type(error).__name__
    assert failures(db) == [("2", f"counting: the model failed ({name}). The log says why", 1)]
    assert caplog.messages == [f"counting: {name}: {error}"]


def test_run_failures_retried_and_forgotten_when_healed(db):
    """A failed row is missing, so the next run tries it; what works is forgotten."""
    model = FailingModel(["text 2", "text 3"])
    pause = threading.Event()
    run_job(db, model)
    assert [row[0] for row in failures(db)] == ["2", "3"]
    # The same job: paused, it keeps its failures and counts the attempts.
    execute(db, "update _embed_jobs set status = 'paused'")
    run_job(db, model, pause=pause)
    assert [(i, n) for i, _, n in failures(db)] == [("2", 2), ("3", 2)]
    execute(db, "update _embed_jobs set status = 'paused'")
    model.bad = {"text 3"}
    run_job(db, model)
    assert [(i, n) for i, _, n in failures(db)] == [("3", 3)]
    assert stored(db) == expected([row for row in ROWS if row[0] != 3])


def test_run_many_failures_in_a_row_paused_with_reason(tmp_path):
    """When everything fails, something else is wrong: stop before the money is gone."""
    rows = [(n, f"t{n}") for n in range(200)]
    path = make_docs(tmp_path / "a.db", rows)
    model = FailingModel([text for _, text in rows])
    outcome = run_job(path, model)
    assert outcome.status is JobStatus.PAUSED
    assert outcome.reason == (
        "25 texts failed one after the other, the last with: counting: cannot"
    )
    assert job_row(path) == ("paused", outcome.reason)
    assert len(failures(path)) == 25
    assert len(model.calls) < 64
    model.bad = set()
    assert run_job(path, model).status is JobStatus.FINISHED
    assert stored(path) == expected(rows)
    assert failures(path) == []
    assert query(path, "select count(*) from _embed_jobs") == [(1,)]


def test_run_many_texts_too_long_do_not_pause(tmp_path):
    """A text the model cannot read says nothing about the next one."""
    rows = [(n, f"t{n}") for n in range(40)]
    path = make_docs(tmp_path / "a.db", rows)
    model = FailingModel([text for n, text in rows if n != 7])
    model.error = lambda: UnreadableTextError(model.model_id, "too long")
    outcome = run_job(path, model)
    assert (outcome.status, outcome.counts.failed) == (JobStatus.FINISHED, 39)
    assert stored(path) == expected([rows[7]])


def test_run_key_missing_job_fails_at_once(db, model):
    """What no other text can escape is not tried text by text."""
    model.script = [MissingKeyError("counting", "SOME_KEY")]
    with pytest.raises(MissingKeyError, match="SOME_KEY"):
        run_job(db, model)
    assert len(model.calls) == 1
    assert job_row(db)[0] == "failed"
    assert run_job(db, model).status is JobStatus.FINISHED
    assert query(db, "select count(*) from _embed_jobs") == [(1,)]


def test_run_stopped_in_a_batch_cut_in_two_keeps_what_was_paid_for(db):
    """The half that was embedded before the error is written."""
    model = FailingModel()
    model.script = [
        ProviderError("counting", "one of them is bad"),
        None,
        MissingKeyError("counting", "SOME_KEY"),
    ]
    with pytest.raises(MissingKeyError, match="SOME_KEY"):
        run_job(db, model)
    assert len(stored(db)) == 5
    run_job(db, model)
    assert stored(db) == expected(ROWS)
    assert len(model.calls[-1]) == 5


# Waiting


def busy(retry_after=None):
    return ProviderError("counting", "busy", retryable=True, retry_after_seconds=retry_after)


def test_run_retryable_errors_wait_as_asked_then_go_on(db, model):
    """Retry-After is honoured; without it the wait grows, with jitter."""
    model.script = [busy(7.5), busy(), busy(), busy(12)]
    pause = PauseThatNeverWaits()
    assert run_job(db, model, pause=pause).status is JobStatus.FINISHED
    assert stored(db) == expected(ROWS)
    assert len(model.calls) == 5
    assert (pause.waits[0], pause.waits[3]) == pytest.approx((7.5, 12), abs=0.5)
    assert 0 <= pause.waits[1] <= 1
    assert 0 <= pause.waits[2] <= 2


def test_run_retryable_errors_go_on_for_ever_paused(db, model, monkeypatch):
    """After nine attempts the run is paused, and the same job goes on later."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    model.script = [busy() for _ in range(10)]
    pause = PauseThatNeverWaits()
    outcome = run_job(db, model, pause=pause)
    assert (outcome.status, outcome.reason) == (
        JobStatus.PAUSED,
        "the model kept failing: counting: busy",
    )
    # The last call is of a text that is nobody's, to see whether the model answers at all.
    assert (len(model.calls), model.calls[-1], failures(db)) == (10, ["a short text"], [])
    # Twice as long each time; of the last wait a step, and the rest.
    assert pause.waits == pytest.approx([0.25, 0.5, 1, 2, 4, 8, 16, 20, 12], abs=0.2)
    again = run_job(db, model)
    assert (again.status, again.job.id) == (JobStatus.FINISHED, outcome.job.id)
    assert stored(db) == expected(ROWS)


def test_run_pause_set_while_waiting_ends_the_wait(db, model):
    """Ctrl-C does not wait for Retry-After."""
    pause = PauseThatNeverWaits()
    model.after_call = None
    model.script = [busy(3_600)]
    pause.set = lambda: None
    pause.wait = lambda timeout=None: True
    assert run_job(db, model, pause=pause).status is JobStatus.PAUSED
    assert len(model.calls) == 1


def test_run_pause_event_ends_after_the_batch_and_resumes(db):
    """The batch in flight is kept; the next run embeds the rest."""
    model = FailingModel(batch_size=3)
    pause = threading.Event()
    model.after_call = lambda calls: calls == 2 and pause.set()
    outcome = run_job(db, model, pause=pause)
    assert (outcome.status, outcome.reason) == (JobStatus.PAUSED, None)
    assert len(stored(db)) == len(model.items)
    assert job_row(db, "status, owner, finished_at is not null") == ("paused", None, 1)
    again = run_job(db, model)
    assert again.job.id == outcome.job.id
    assert sorted(model.items) == sorted(text for _, text in ROWS)


def test_run_interrupted_at_once_paused_and_raised(db, model):
    """A second Ctrl-C ends the run in the middle of a call."""

    def interrupt(calls):
        raise KeyboardInterrupt

    model.after_call = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_job(db, model)
    assert job_row(db) == ("paused", "interrupted")


def test_run_report_is_called_with_growing_counts(db):
    """The progress reaches the number of rows."""
    seen = []
    execute(db, "insert into docs values (20, null), (21, x'00'), (22, 'text 1')")
    run_job(db, CountingModel(batch_size=3), report=lambda counts: seen.append(counts.rows_done))
    assert seen == sorted(seen)
    assert seen[-1] == 13


def test_run_tokens_that_the_model_reports_are_summed(db):
    """A paid model says what it billed."""
    import numpy as np

    model = FailingModel(batch_size=5)
    model.change = lambda items, vectors: Batch(np.array(vectors, np.float32), 11)
    assert run_job(db, model).counts.tokens == 22
    assert job_row(db, "tokens") == (22,)


# Two at once, and things that go away


def test_run_second_process_refused_while_first_is_alive(db, model):
    """One job, one process."""
    refused = []

    def meanwhile(calls):
        if calls == 1:
            with pytest.raises(JobStateError, match=r"is running: another process .* 'docs'"):
                run_job(db, model)
            refused.append(True)

    model.after_call = meanwhile
    assert run_job(db, model).status is JobStatus.FINISHED
    assert refused == [True]
    assert len(model.items) == 10


def test_run_taken_over_the_old_owner_cannot_write(db):
    """A laptop that slept finds that its job belongs to another."""
    model = FailingModel(batch_size=5)

    def meanwhile(calls):
        if calls == 2:
            execute(db, "update _embed_jobs set heartbeat_at = '2020-01-01T00:00:00+00:00'")
            assert run_job(db, CountingModel()).status is JobStatus.FINISHED
            execute(db, "delete from embeddings")

    model.after_call = meanwhile
    with pytest.raises(JobStateError, match="another process has taken it over"):
        run_job(db, model)
    assert stored(db) == {}
    assert job_row(db, "status, epoch") == ("finished", 2)


def test_run_collection_deleted_meanwhile_nothing_is_left(db):
    """Deleting wins: no vectors without a collection."""
    model = FailingModel(batch_size=5)

    def meanwhile(calls):
        if calls == 2:
            with closing(open_database(db, writable=True)) as conn:
                store = Store(conn)
                with database.write_transaction(conn):
                    assert store.delete_collection(store.get_collection("docs")) == 5

    model.after_call = meanwhile
    with pytest.raises(JobStateError, match="is deleted"):
        run_job(db, model)
    for table in ("collections", "embeddings", "_embed_jobs", "_embed_collections"):
        assert query(db, f"select * from {table}") == [], table


def test_run_file_locked_source_error_and_job_goes_on_later(db, monkeypatch):
    """A lock that outlasts every wait ends the run; nothing paid before is lost."""
    monkeypatch.setattr("datasette_embed.lasting_writes.LONGEST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.0)
    model = FailingModel(batch_size=5)
    others = []

    def lock(calls):
        if calls == 2:
            others.append(sqlite3.connect(db, isolation_level=None))
            others[0].execute("begin immediate")

    model.after_call = lock
    with pytest.raises(SourceError, match="is locked by another program"):
        run_job(db, model)
    others[0].close()
    assert len(stored(db)) == 5
    # It could not even be said that the job ended, so it is freed by its lease.
    assert job_row(db)[0] == "running"
    execute(db, "update _embed_jobs set heartbeat_at = '2020-01-01T00:00:00+00:00'")
    assert run_job(db, model).status is JobStatus.FINISHED
    assert stored(db) == expected(ROWS)


@pytest.mark.parametrize("lock", ["begin immediate", "begin; select count(*) from docs"])
def test_run_file_locked_for_long_keeps_what_was_paid_for(db, monkeypatch, lock):
    """The batch in flight is written as soon as the lock is gone; no text is paid for twice.

    A writer keeps the transaction from beginning, a reader from being committed.
    """
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.0)
    model = FailingModel(batch_size=5)
    other = sqlite3.connect(db, isolation_level=None)
    tries = []

    def unlock(self, seconds=None):
        tries.append(seconds)
        if len(tries) == 3:
            other.execute("rollback")

    monkeypatch.setattr(PauseThatNeverWaits, "wait", unlock)
    model.after_call = lambda calls: (
        calls == 1 and [other.execute(statement).fetchone() for statement in lock.split("; ")]
    )
    outcome = run_job(db, model, pause=PauseThatNeverWaits())
    assert (outcome.status, outcome.counts.embedded, len(tries)) == (JobStatus.FINISHED, 10, 3)
    assert sorted(model.items) == sorted(text for _, text in ROWS)
    assert job_row(db, "status, embedded, rows_done") == ("finished", 10, 10)
    assert stored(db) == expected(ROWS)
    other.close()


def test_run_stopped_while_the_file_is_locked_ends(db, monkeypatch):
    """Whoever wants it to end does not wait for the other program."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.0)
    pause = threading.Event()
    model = FailingModel(batch_size=5)
    other = sqlite3.connect(db, isolation_level=None)

    def lock(calls):
        other.execute("begin immediate")
        pause.set()

    model.after_call = lock
    with pytest.raises(DatabaseLockedError, match="is locked by another program"):
        run_job(db, model, pause=pause)
    other.close()
    assert len(model.calls) == 1


def test_run_of_which_every_row_fails_says_so(tmp_path):
    """It is finished, for there is no more to try, and its reason says what that means."""
    path = make_docs(tmp_path / "a.db", [(1, "bad"), (2, "worse"), (3, "")])
    model = FailingModel(["bad", "worse"])
    outcome = run_job(path, model)
    reason = "all 2 rows failed: see the failures of the job"
    assert (outcome.status, outcome.reason) == (JobStatus.FINISHED, reason)
    assert job_row(path) == ("finished", reason)
    execute(path, "insert into docs values (4, 'good')")
    assert run_job(path, model).reason is None


def test_run_read_only_target_refused(db, model):
    """Where nothing can be written, no model is called."""
    with (
        closing(open_database(db)) as source_conn,
        closing(open_database(db)) as conn,
    ):
        source = Source(source_conn, SourceSpec(table="docs", columns=("body",)), "a.db")
        with pytest.raises((SourceError, sqlite3.Error), match="read-?only"):
            ensure_collection(conn, "a.db", "docs", model, source)
    run_job(db, model)
    execute(db, "insert into docs values (20, 'new')", "update _embed_jobs set status = 'paused'")
    with closing(open_database(db)) as source_conn, closing(open_database(db)) as conn:
        source = Source(source_conn, SourceSpec(table="docs", columns=("body",)), "a.db")
        record = Store(conn).get_collection("docs")
        job = JobRecords(conn).find_job(1)
        with pytest.raises(SourceError, match="is read-only"):
            JobRun(conn, "a.db", record, job, source, model).run()
    assert len(model.items) == 10


def test_ensure_collection_other_model_or_source_refused(db, model):
    """One collection, one model, one source."""
    run_job(db, model)
    with pytest.raises(ModelMismatchError, match="was made with counting, not other"):
        run_job(db, CountingModel("other"))
    with pytest.raises(SourceError, match=r"was made from something else \(table docs: body\)"):
        run_job(db, model, spec=SourceSpec(table="docs", columns=("body",), where="id > 1"))
    binary = CountingModel()
    binary.supports_text = False
    with pytest.raises(ProviderError, match="embeds binary data only"):
        run_job(db, binary, name="more")
    assert query(db, "select name from collections") == [("docs",)]


def test_ensure_collection_of_llm_is_taken_on(db, model):
    """A collection that LLM made keeps its vectors: the same text is not paid for again."""
    run_job(db, model)
    execute(
        db,
        *(
            f"drop table {name}"
            for (name,) in query(
                db,
                "select name from sqlite_master where type = 'table' and name like '#_embed#_%'"
                " escape '#'",
            )
        ),
        *(f"drop trigger if exists {name}" for name in TRIGGERS),
    )
    outcome = run_job(db, model)
    assert len(model.items) == 10
    assert outcome.counts.unchanged == 10
    assert query(db, "select source from _embed_collections") != [(None,)]


def test_run_stored_vector_damaged_is_not_reused(db, model):
    """A broken blob is not copied to another row."""
    run_job(db, model)
    execute(db, "update embeddings set embedding = zeroblob(32) where id = '1'")
    execute(db, "update embeddings set embedding = x'00' where id = '2'")
    execute(db, "insert into docs values (20, 'text 1'), (21, 'text 2')")
    run_job(db, model)
    assert stored(db)["20"] == blob_of("text 1")
    assert stored(db)["21"] == blob_of("text 2")


# A model of the right behaviour

TEXTS = ["alpha", "beta", "gamma", "delta", "", None]
TABLES = st.dictionaries(st.integers(1, 7), st.sampled_from(TEXTS), max_size=7)
STEPS = st.lists(
    st.tuples(
        TABLES,
        st.sampled_from(["create", "sync", "keep"]),
        st.sets(st.sampled_from(TEXTS[:4]), max_size=2),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS, window=st.sampled_from([1, 2, 3, 1_000]), concurrency=st.sampled_from([1, 3]))
def test_run_any_sequence_as_the_model_says(tmp_path_factory, steps, window, concurrency):
    """After each step: the right rows, the right vectors, and nothing paid for twice."""
    path = make_docs(tmp_path_factory.mktemp("steps") / "a.db", [])
    model = FailingModel(batch_size=2)
    model.concurrency = concurrency
    # id -> text whose vector it must have.
    truth: dict[int, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "WINDOW_ROWS", window)
        for table, action, bad, store in steps:
            with closing(sqlite3.connect(path)) as conn, conn:
                conn.execute("delete from docs")
                conn.executemany("insert into docs values (?, ?)", table.items())
            model.bad = bad
            paid = len(model.items)
            known = set(truth.values())
            outcome = run_job(path, model, remove=action == "sync", store=store)
            rows = {i: text for i, text in table.items() if text}
            for entry_id, text in rows.items():
                if text not in bad or text in known:
                    truth[entry_id] = text
            truth = {i: text for i, text in truth.items() if i in rows or i not in table}
            if action == "sync":
                truth = {i: text for i, text in truth.items() if i in rows}
            assert outcome.status is JobStatus.FINISHED
            assert stored(path) == expected(truth.items())
            wanted = {text for text in rows.values() if text not in known}
            new = model.items[paid:]
            assert set(new) == wanted
            # A text that fails is tried for each window it is in, and takes others of its
            # batch along, once.
            tries = len(wanted - bad) + sum(text in wanted & bad for text in rows.values())
            assert len(new) <= tries * (2 if wanted & bad else 1)
            failing = {str(i) for i, text in rows.items() if text in wanted & bad}
            failed = {row[0] for row in failures(path) if row}
            assert failing <= failed


@pytest.mark.parametrize("other", ["other", "docs"])
def test_run_collection_deleted_by_plain_sql_its_id_taken_by_another(db, other):
    """The job goes with its collection, so that the run writes nothing into the next one."""
    model = FailingModel(batch_size=5)

    def meanwhile(calls):
        if calls == 2:
            execute(
                db,
                "delete from embeddings",
                "delete from collections where name = 'docs'",
                f"insert into collections (name, model) values ('{other}', 'someone')",
            )

    model.after_call = meanwhile
    with pytest.raises(JobStateError, match="is deleted"):
        run_job(db, model)
    assert query(db, "select id, name from collections") == [(1, other)]
    for table in ("embeddings", "_embed_jobs", "_embed_failures", "_embed_collections"):
        assert query(db, f"select * from {table}") == [], table


# What is asked for in the file


@pytest.fixture
def asked(db):
    """Make a model of three texts a call, and ask something of its job during the second."""

    def make(request):
        model = FailingModel(batch_size=3)
        statement = f"update _embed_jobs set request = '{request}'"
        model.after_call = lambda calls: calls == 2 and execute(db, statement)
        return model

    return make


@pytest.mark.parametrize(
    ("request_", "expected_"),
    [
        ("pause", ("paused", "paused on request")),
        ("cancel", ("cancelled", "cancelled on request")),
    ],
)
def test_run_asked_in_the_file_ends_after_the_batch(db, asked, request_, expected_):
    """What is in flight is paid for, so it is stored first."""
    model = asked(request_)
    outcome = run_job(db, model)
    assert (outcome.status.value, outcome.reason) == expected_
    assert job_row(db) == expected_
    assert job_row(db, "request, owner, embedded") == (None, None, len(model.items))
    assert len(stored(db)) == len(model.items) == 6
    again = run_job(db, model)
    assert (again.job.id == outcome.job.id) is (request_ == "pause")
    assert sorted(model.items) == sorted(text for _, text in ROWS)


def test_run_asked_something_unknown_goes_on(db, asked):
    """A request of a later version, or a stranger's."""
    assert run_job(db, asked("dance")).status is JobStatus.FINISHED
    assert stored(db) == expected(ROWS)


def test_run_asked_to_cancel_while_it_waits_for_the_model(db, model):
    """A wait is cut into steps, and after each the file is looked at."""

    class Impatient(PauseThatNeverWaits):
        def wait(self, timeout=None):
            execute(db, "update _embed_jobs set request = 'cancel'")
            return super().wait(timeout)

    pause = Impatient()
    model.script = [busy(300)]
    outcome = run_job(db, model, pause=pause)
    assert (outcome.status, len(pause.waits), len(model.calls)) == (JobStatus.CANCELLED, 1, 1)
    assert stored(db) == {}


def test_run_stopped_to_go_on_by_itself_ends_pending(db):
    """As on a server that is stopped; what the file asks for counts for more."""
    model = FailingModel(batch_size=3)
    pause = threading.Event()
    model.after_call = lambda calls: calls == 2 and pause.set()

    def run():
        with closing(open_database(db)) as rows, closing(open_database(db, writable=True)) as conn:
            source = Source(rows, SourceSpec(table="docs", columns=("body",)), str(db))
            collection, job = ensure_collection(conn, str(db), "docs", model, source)
            run = JobRun(conn, str(db), collection, job, source, model, pause=pause)
            run.pause_status = JobStatus.PENDING
            return run.run()

    assert run() is JobStatus.PENDING
    assert job_row(db, "status, reason, owner, finished_at, embedded") == (
        "pending",
        None,
        None,
        None,
        6,
    )
    model.after_call = lambda calls: execute(db, "update _embed_jobs set request = 'cancel'")
    pause.clear()
    assert run() is JobStatus.CANCELLED


# A source limited to some rows


def run_chosen(db, model, only, *, remove=False):
    """Embed some rows of the table, and return how that ended."""
    with closing(open_database(db)) as rows, closing(open_database(db, writable=True)) as conn:
        whole = Source(rows, SourceSpec(table="docs", columns=("body",)), str(db))
        source = ChosenRows(whole, frozenset(only))
        collection, job = ensure_collection(conn, str(db), "docs", model, source)
        return JobRun(conn, str(db), collection, job, source, model, remove=remove).run()


def test_run_chosen_rows_touches_nothing_else(db, model):
    """Others that are missing, changed, gone or failing stay as they are."""
    model.bad = {"text 1", "text 2"}
    run_job(db, model)
    model.bad = set()
    execute(
        db,
        "update docs set body = 'new ' || id where id in (2, 3, 4)",
        "delete from docs where id in (5, 6)",
        "insert into docs values (20, 'new 20')",
    )
    calls = len(model.items)
    assert run_chosen(db, model, {"2", "3", "5", "99"}, remove=True) is JobStatus.FINISHED
    assert sorted(model.items[calls:]) == ["new 2", "new 3"]
    rows = {n: text for n, text in ROWS if n not in (1, 5)}
    assert stored(db) == expected({**rows, 2: "new 2", 3: "new 3"}.items())
    assert [entry_id for entry_id, *_ in failures(db)] == ["1"]


def test_run_chosen_rows_without_remove_keeps_what_is_gone(db, model):
    """As for a whole source."""
    run_job(db, model)
    execute(db, "delete from docs where id = 5")
    run_chosen(db, model, {"5"})
    assert "5" in stored(db)
