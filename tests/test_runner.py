"""Runner: jobs of a server, made, run, steered, gone on with, and left to their owners."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from datasette.app import Datasette

from datasette_embed.database import open_database, sqlite3, write_transaction
from datasette_embed.errors import (
    CollectionNotFoundError,
    JobNotFoundError,
    JobStateError,
    ModelMismatchError,
    NotFoundError,
    OutdatedCollectionError,
    ReadOnlyDatabaseError,
    SourceError,
    UnknownModelError,
)
from datasette_embed.job_records import JobStatus
from datasette_embed.job_rows import owner_name
from datasette_embed.jobs import JobRun
from datasette_embed.runner import core, get_runner, stop, wiring
from datasette_embed.runner.execution import Execution
from datasette_embed.runner.site import Site
from datasette_embed.schema import now
from datasette_embed.sources import SourceSpec
from datasette_embed.store import Store
from tests.conftest import ModelsPlugin
from tests.engine_fakes import FailingModel
from tests.fakes import CountingModel
from tests.storage import execute, expected, make_docs, query, stored

ROWS = [(n, f"text {n}") for n in range(10)]
SPEC = SourceSpec(table="docs", columns=("body",))
GONE = "status = 'running', owner = 'gone:1:x', heartbeat_at = ''"


@pytest.fixture
def path(tmp_path):
    """A file with ten texts."""
    return make_docs(tmp_path / "a.db", ROWS)


@pytest.fixture
def site(make_datasette, path):
    """A Datasette that serves it."""
    datasette = make_datasette([str(path)])
    yield datasette
    get_runner(datasette).stop(30)


@pytest.fixture
def runner(site, models):
    """Its runner; the models are registered."""
    return get_runner(site)


@pytest.fixture
def models(add_plugin):
    """One that counts, and one that fails when it is told to, one text a call."""
    models = CountingModel(), FailingModel(model_id="failing", batch_size=1)
    add_plugin(ModelsPlugin((models[0], ("count",)), (models[1], ())))
    return models


@pytest.fixture
def counting_model(models):
    """The first of them."""
    return models[0]


@pytest.fixture
def failing(models):
    """The second one."""
    return models[1]


def job_rows(path, columns="id, status, reason"):
    """Return these columns of all jobs, the oldest first."""
    return query(path, f"select {columns} from _embed_jobs order by id")


def create(runner, **options):
    """Start the collection of the ten texts."""
    return runner.create("a", "docs", SPEC, "count", **options)


def finish(runner):
    """Wait for all jobs."""
    assert runner.wait(30)


def test_create_embeds_every_row_in_the_background(runner, path, counting_model):
    """The job that is returned waits; a moment later every row is there."""
    counting_model.gate = threading.Event()
    job = create(runner, actor_id="ann")
    assert (job.status, job.action, job.actor, job.collection) == (
        JobStatus.PENDING,
        "create",
        "ann",
        "docs",
    )
    counting_model.gate.set()
    finish(runner)
    assert stored(path) == expected(ROWS)
    assert job_rows(path, "id, status, rows_total, rows_done, embedded, owner") == [
        (1, "finished", 10, 10, 10, None)
    ]
    assert query(path, "select count(content) from embeddings") == [(0,)]


def test_create_store_keeps_the_text(runner, path):
    """As the option says."""
    create(runner, store=True)
    finish(runner)
    assert query(path, "select content from embeddings where id = '3'") == [("text 3",)]


def test_create_again_with_an_unfinished_job_refused(runner, path, counting_model):
    """While it runs, and while it waits; nothing is written."""
    counting_model.gate = threading.Event()
    create(runner)
    assert counting_model.started.wait(30)
    runner.create("a", "other", SPEC, "count")
    for name in ("docs", "other"):
        with pytest.raises(JobStateError, match=f"it embeds '{name}'. Wait for it to end, or canc"):
            runner.create("a", name, SPEC, "count")
        with pytest.raises(JobStateError, match="Wait for it to end"):
            runner.sync("a", name)
    counting_model.gate.set()
    finish(runner)
    assert job_rows(path) == [(1, "finished", None), (2, "finished", None)]
    assert len(counting_model.calls) == 2


def test_create_many_at_once_exactly_one_wins(runner, path, counting_model):
    """The others are told; there is one collection and one job."""
    counting_model.gate = threading.Event()

    def attempt(_):
        try:
            return create(runner).id
        except JobStateError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(attempt, range(6)))
    counting_model.gate.set()
    finish(runner)
    assert answers.count(1) == 1
    assert sum("it embeds 'docs'" in str(answer) for answer in answers) == 5
    assert job_rows(path) == [(1, "finished", None)]
    assert stored(path) == expected(ROWS)


@pytest.mark.parametrize(
    ("spec", "model", "error", "match"),
    [
        (SourceSpec(table="none"), "count", SourceError, "no table named 'none'. Tables"),
        (SourceSpec(table="docs", columns=("x",)), "count", SourceError, "no column named 'x'"),
        (SourceSpec(table="docs", where="1 ="), "count", SourceError, "--where"),
        (SourceSpec(sql="select 1, 'a' where 0"), "count", SourceError, "has no rows to embed"),
        (SPEC, "unknown", UnknownModelError, "Unknown model: unknown"),
    ],
)
def test_create_that_cannot_be_done_writes_nothing(runner, path, spec, model, error, match):
    """Not even the tables."""
    before = path.read_bytes()
    with pytest.raises(error, match=match):
        runner.create("a", "docs", spec, model)
    assert path.read_bytes() == before


def test_create_other_source_or_model_refused(runner, path):
    """One collection, one source, one model; the job of before stays the only one."""
    create(runner)
    finish(runner)
    with pytest.raises(SourceError, match="was made from something else"):
        runner.create("a", "docs", SourceSpec(table="docs", columns=("id",)), "count")
    with pytest.raises(ModelMismatchError, match="was made with counting, not failing"):
        runner.create("a", "docs", SPEC, "failing")
    assert len(job_rows(path)) == 1


@pytest.mark.parametrize("method", ["create", "sync", "retry", "pause", "resume", "cancel"])
def test_database_that_takes_no_jobs_refused(make_datasette, path, counting_model, method):
    """Immutable, in memory, or not there at all."""
    before = path.read_bytes()
    site = make_datasette([], immutables=[str(path)])
    site.add_memory_database("m")
    runner = get_runner(site)
    arguments = {"create": ("docs", SPEC, "count"), "sync": ("docs",)}.get(method, (1,))
    call = getattr(runner, method)
    with pytest.raises(ReadOnlyDatabaseError, match="database 'a': is immutable"):
        call("a", *arguments)
    with pytest.raises(ReadOnlyDatabaseError, match="database 'm': is in memory"):
        call("m", *arguments)
    with pytest.raises(NotFoundError, match="There is no database 'x'"):
        call("x", *arguments)
    assert path.read_bytes() == before


def test_sync_embeds_what_changed_and_removes_what_is_gone(runner, path, counting_model):
    """Or keeps it, as asked; the options stand in the row."""
    create(runner)
    finish(runner)
    execute(path, "delete from docs where id = 1", "update docs set body = 'new' where id = 2")
    runner.sync("a", "docs", remove=False)
    finish(runner)
    assert counting_model.calls[1:] == [["new"]]
    assert "1" in stored(path)
    runner.sync("a", "docs", actor_id="bob")
    finish(runner)
    assert stored(path) == expected([(0, "text 0"), (2, "new"), *ROWS[3:]])
    assert job_rows(path, "action, options, actor, removed") == [
        ("create", None, None, 0),
        ("sync", '{"remove": false}', None, 0),
        ("sync", '{"remove": true}', "bob", 1),
    ]


def test_sync_of_what_cannot_be_synced_refused(runner, path):
    """No such collection; a model that is not registered here."""
    create(runner)
    finish(runner)
    with pytest.raises(CollectionNotFoundError, match="'none' does not exist"):
        runner.sync("a", "none")
    for table, column in (("collections", "model"), ("_embed_collections", "model")):
        execute(path, f"update {table} set {column} = 'unheard-of'")
    with pytest.raises(UnknownModelError, match="Unknown model: unheard-of"):
        runner.sync("a", "docs")
    assert len(job_rows(path)) == 1


def test_rows_of_another_database_by_name_only_as_told(
    make_datasette, path, tmp_path, counting_model
):
    """Sync finds them again; in a file of a stranger the name is not believed."""
    into = make_docs(tmp_path / "into.db", [])
    site = make_datasette([str(into)], immutables=[str(path)])
    runner = get_runner(site)
    job = runner.create("into", "docs", SPEC, "count", rows_database="a")
    finish(runner)
    assert job.options == {"rows_database": "a"}
    assert stored(into) == expected(ROWS)
    runner.sync("into", "docs")
    finish(runner)
    assert job_rows(into, "status") == [("finished",), ("finished",)]
    execute(into, "update _embed_jobs set signature = 'forged', status = 'paused'")
    with pytest.raises(SourceError, match="its rows are in another database, and nobody told"):
        runner.sync("into", "docs")
    with pytest.raises(SourceError, match="its rows are in another database, and nobody told"):
        runner.resume("into", 2)
    assert job_rows(into, "status") == [("paused",), ("paused",)]


def test_estimate_says_what_create_would_do_and_writes_nothing(runner, path, counting_model):
    """Counts of the whole source; no model is called for ten rows."""
    before = path.read_bytes()
    plan = runner.estimate("a", "docs", SPEC, "count")
    assert (plan.rows, plan.missing, plan.contents) == (10, 10, 10)
    assert path.read_bytes() == before
    assert counting_model.calls == []


def test_delete_of_a_collection_that_is_being_filled_refused(runner, path, counting_model, caplog):
    """Nor while its job waits; when it is cancelled, collection and jobs go together."""
    counting_model.gate = threading.Event()
    job = create(runner)
    assert counting_model.started.wait(30)
    refusal = f"it embeds 'docs'. Cancel job {job.id} first, then delete the collection"
    with pytest.raises(JobStateError, match=f"Job {job.id} is running: {refusal}"):
        runner.delete("a", "docs")
    runner.cancel("a", job.id)
    counting_model.gate.set()
    finish(runner)
    assert query(path, "select count(*) from embeddings") == [(10,)]
    execute(path, "update _embed_jobs set status = 'pending'")
    with pytest.raises(JobStateError, match=f"Job {job.id} is pending: {refusal}"):
        runner.delete("a", "docs")
    runner.cancel("a", job.id)
    with caplog.at_level("INFO", "datasette_embed"):
        assert runner.delete("a", "docs") == 10
    assert "collection 'docs' was deleted, 10 entries" in caplog.text
    assert query(path, "select count(*) from embeddings") == [(0,)]
    assert job_rows(path) == []
    with pytest.raises(CollectionNotFoundError, match="'docs' does not exist"):
        runner.delete("a", "docs")


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        ("pause", "paused", "paused on request"),
        ("cancel", "cancelled", "cancelled on request"),
    ],
)
def test_request_while_a_batch_is_in_flight_keeps_what_was_paid_for(
    runner, path, failing, method, status, reason
):
    """The batch is stored, then the job ends as asked, and says why."""
    failing.after_call = lambda calls: calls == 3 and getattr(runner, method)("a", 1)
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    assert job_rows(path, "status, reason, embedded, request") == [(status, reason, 3, None)]
    assert len(stored(path)) == len(failing.calls) == 3
    if method == "pause":
        failing.after_call = None
        assert runner.resume("a", 1).status is JobStatus.PENDING
    else:
        with pytest.raises(JobStateError, match="is cancelled: there is nothing to resume"):
            runner.resume("a", 1)
        failing.after_call = None
        runner.sync("a", "docs")
    finish(runner)
    assert stored(path) == expected(ROWS)
    assert len(failing.items) == 10


def test_pause_withdrawn_while_a_batch_is_in_flight_goes_on(runner, path, failing):
    """Asked to pause and to go on: the same job comes to its end, no text is paid for twice."""

    def change_mind(calls):
        if calls == 3:
            runner.pause("a", 1)
            assert runner.resume("a", 1).status is JobStatus.RUNNING

    failing.after_call = change_mind
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    assert job_rows(path) == [(1, "finished", None)]
    assert len(failing.items) == 10


def test_cancel_twice_while_a_batch_is_in_flight_ends_at_once(runner, path, failing):
    """The batch then finds that it may not write."""

    def cancel_twice(calls):
        if calls == 3:
            assert runner.cancel("a", 1).status is JobStatus.RUNNING
            assert runner.cancel("a", 1).status is JobStatus.CANCELLED

    failing.after_call = cancel_twice
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    assert job_rows(path) == [
        (1, "cancelled", "cancelled on request, without waiting for the model call in flight")
    ]
    assert len(stored(path)) == 2


def test_job_that_waits_paused_or_cancelled_is_never_begun(runner, path, counting_model):
    """Its turn comes, and nothing is called for it."""
    counting_model.gate = threading.Event()
    create(runner)
    other = SourceSpec(sql="select id, body || '!' from docs")
    waiting = [runner.create("a", name, other, "count").id for name in ("one", "two")]
    with pytest.raises(JobStateError, match="is pending: it waits for its turn"):
        runner.resume("a", waiting[0])
    assert runner.pause("a", waiting[0]).status is JobStatus.PAUSED
    assert runner.cancel("a", waiting[1]).status is JobStatus.CANCELLED
    counting_model.gate.set()
    finish(runner)
    assert [row[1] for row in job_rows(path)] == ["finished", "paused", "cancelled"]
    assert len(counting_model.calls) == 1


@pytest.mark.parametrize("method", ["pause", "resume", "cancel", "retry"])
def test_unknown_job_is_not_found(runner, method):
    """Whatever is asked of it."""
    create(runner)
    finish(runner)
    with pytest.raises(JobNotFoundError, match="no job 99"):
        getattr(runner, method)("a", 99)


def test_retry_embeds_the_failures_only(runner, path, failing):
    """Rows that are new or changed wait for the next sync."""
    failing.bad = {"text 3", "text 5"}
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    assert job_rows(path, "status, failed") == [("finished", 2)]
    execute(path, "insert into docs values (20, 'new')", "delete from docs where id = 1")
    failing.bad = {"text 5"}
    calls = len(failing.calls)
    job = runner.retry("a", 1, actor_id="ann")
    assert (job.action, job.actor) == ("retry", "ann")
    finish(runner)
    assert sorted(failing.items[calls:]) == ["text 3", "text 5"]
    assert set(stored(path)) == {"0", "1", "2", "3", "4", "6", "7", "8", "9"}
    assert query(path, "select entry_id, attempts from _embed_failures") == [("5", 2)]
    failing.bad = set()
    runner.retry("a", 1)
    finish(runner)
    with pytest.raises(JobStateError, match="it has no failures to retry"):
        runner.retry("a", 1)


def test_retry_after_the_model_changed_refused(runner, path, failing):
    """All of the collection is to be embedded again, not a few rows."""
    failing.bad = {"text 3"}
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    execute(path, "update _embed_collections set fingerprint = 'old'")
    with pytest.raises(OutdatedCollectionError, match="another version of its model"):
        runner.retry("a", 1)
    assert len(job_rows(path)) == 1


def test_job_that_fails_says_why_and_the_worker_goes_on(runner, path, counting_model):
    """The table went away while the job waited."""
    counting_model.gate = threading.Event()
    create(runner)
    spec = SourceSpec(sql="select id, body || '!' from docs where id = 1")
    runner.create("a", "later", spec, "count")
    execute(path, "alter table docs rename to docs2")
    counting_model.gate.set()
    finish(runner)
    first, second = job_rows(path)
    assert second[1] == "failed" and "no such table: docs" in second[2]
    execute(path, "alter table docs2 rename to docs")
    runner.resume("a", 2)
    finish(runner)
    assert job_rows(path)[1] == (2, "finished", None)


def test_unexpected_error_ends_the_job_without_its_text(runner, path, monkeypatch, caplog):
    """What it says may be a secret; the log has it."""
    monkeypatch.setattr(
        "datasette_embed.runner.execution.check_collection", lambda *a: {}["secret"]
    )
    create(runner)
    finish(runner)
    assert job_rows(path) == [(1, "failed", "internal error (KeyError). The log says why")]
    assert "job 1 failed" in caplog.text


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_file_gone_while_a_job_runs_ends_it(runner, path, tmp_path, failing, change):
    """A file nobody will see again is not filled for money."""
    other = make_docs(tmp_path / "other.db", [(1, "other")])
    before = other.read_bytes()

    def take_away(calls):
        if calls == 3:
            path.unlink()
            if change == "replaced":
                other.rename(path)

    failing.after_call = take_away
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    assert len(failing.calls) == 3
    assert path.exists() is (change == "replaced")
    if change == "replaced":
        assert path.read_bytes() == before


def test_database_removed_from_the_site_leaves_its_job_waiting(site, runner, path, failing):
    """For whoever serves the file next."""
    failing.after_call = lambda calls: calls == 3 and site.remove_database("a")
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    assert job_rows(path, "status, embedded, owner") == [("pending", 3, None)]


def test_disk_full_while_the_end_is_written_leaves_the_job_to_be_found(
    runner, path, counting_model, monkeypatch, caplog
):
    """Simulated where rows are written; the worker takes the next job."""
    from datasette_embed.database import sqlite3
    from datasette_embed.job_records import JobRecords

    def full(*arguments):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("datasette_embed.runner.execution.RETRY_SECONDS", 0)
    with monkeypatch.context() as patched:
        patched.setattr(JobRecords, "checkpoint", full)
        create(runner)
        finish(runner)
    assert "the disk is full" in caplog.text
    assert job_rows(path, "status") == [("running",)]
    assert stored(path) == {}
    execute(path, f"update _embed_jobs set {GONE}")  # its lease is over
    runner.look()
    finish(runner)
    assert job_rows(path) == [(1, "finished", None)]
    assert stored(path) == expected(ROWS)


def test_file_of_an_earlier_version_can_be_steered(runner, path):
    """Its jobs have no request, no action and no signature; the columns are added then."""
    create(runner)
    finish(runner)
    for column in ("action", "options", "request", "actor", "signature"):
        execute(path, f"alter table _embed_jobs drop column {column}")
    execute(path, "update _embed_jobs set status = 'failed'")
    runner.look()
    assert runner.wait(30)
    assert job_rows(path) == [(1, "failed", None)]
    runner.resume("a", 1)
    finish(runner)
    assert job_rows(path, "status, action, request") == [("finished", None, None)]


# -- restarts ------------------------------------------------------------------------


def stop_after_three_texts(make_datasette, path, model):
    """Run a job on one server, and stop that server."""
    site = make_datasette([str(path)])
    runner = get_runner(site)
    model.after_call = lambda calls: calls == 3 and runner.stop()
    runner.create("a", "docs", SPEC, model.model_id)
    assert runner.wait(30)
    model.after_call = None


def stopped_job(make_datasette, path, model):
    """Leave such a job to the next server."""
    stop_after_three_texts(make_datasette, path, model)
    assert job_rows(path, "status, embedded, owner") == [("pending", 3, None)]


def looked(make_datasette, path, **config):
    """Return the runner of a new server after it has looked for jobs to go on with."""
    runner = get_runner(make_datasette([str(path)], config=config))
    runner.kept_site = runner._site.datasette
    runner.look()
    assert runner.wait(30)
    return runner


def test_stop_keeps_the_batch_in_flight_and_the_next_start_goes_on(make_datasette, path, failing):
    """Nothing is paid for twice; the signature is why it goes on by itself."""
    stopped_job(make_datasette, path, failing)
    looked(make_datasette, path)
    assert stored(path) == expected(ROWS)
    assert len(failing.items) == 10
    assert job_rows(path) == [(1, "finished", None)]


def test_job_of_a_dead_process_goes_on_that_of_a_living_one_stays(make_datasette, path, failing):
    """Its owner is another process of this machine, alive or not."""
    stopped_job(make_datasette, path, failing)
    alive = owner_name()
    execute(
        path,
        f"update _embed_jobs set status = 'running', owner = '{alive}', heartbeat_at = '{now()}'",
    )
    looked(make_datasette, path)
    assert job_rows(path, "status, owner") == [("running", alive)]
    execute(path, f"update _embed_jobs set {GONE}")
    looked(make_datasette, path)
    assert job_rows(path, "status, embedded") == [("finished", 10)]


@pytest.mark.parametrize(
    "change",
    [
        "update _embed_jobs set signature = null",
        "update _embed_jobs set signature = 'forged'",
        "update _embed_jobs set options = '{\"remove\": true}'",
        "update _embed_jobs set actor = 'root'",
        "update _embed_jobs set action = 'sync'",
        "update _embed_jobs set created_at = '2020-01-01'",
        "update _embed_jobs set id = 7",
        """update _embed_collections set source = '{"sql": "select 1, ''stranger''"}'""",
    ],
)
def test_job_that_nobody_asked_this_site_for_starts_nothing(make_datasette, path, failing, change):
    """Shown as it is; a person may resume it."""
    stopped_job(make_datasette, path, failing)
    execute(path, change)
    looked(make_datasette, path)
    assert job_rows(path, "status, embedded") == [("pending", 3)]
    assert len(failing.items) == 3


def test_job_of_a_copied_file_starts_nothing(make_datasette, path, tmp_path, failing):
    """The file was asked for, not what somebody made of it elsewhere."""
    stopped_job(make_datasette, path, failing)
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    looked(make_datasette, copy)
    assert job_rows(copy, "status, embedded") == [("pending", 3)]


def test_strangers_job_resumed_by_a_person_is_this_sites_from_then_on(
    make_datasette, path, failing
):
    """After the next stop it goes on by itself."""
    stopped_job(make_datasette, path, failing)
    execute(path, "update _embed_jobs set signature = null")
    runner = looked(make_datasette, path)
    failing.after_call = lambda calls: calls == 5 and runner.stop()
    runner.resume("a", 1)
    assert runner.wait(30)
    failing.after_call = None
    assert job_rows(path, "status, embedded") == [("pending", 5)]
    looked(make_datasette, path)
    assert job_rows(path, "status, embedded") == [("finished", 10)]


@pytest.mark.parametrize("status", ["paused", "failed", "cancelled", "finished"])
def test_job_that_does_not_wait_is_left_alone(make_datasette, path, failing, status):
    """A restart is nobody's wish to go on."""
    stopped_job(make_datasette, path, failing)
    execute(path, f"update _embed_jobs set status = '{status}'")
    looked(make_datasette, path)
    assert job_rows(path, "status, embedded") == [(status, 3)]


def test_resume_jobs_off_goes_on_with_nothing(make_datasette, path, failing):
    """As the setting says."""
    stopped_job(make_datasette, path, failing)
    looked(make_datasette, path, resume_jobs=False)
    assert job_rows(path, "status, embedded") == [("pending", 3)]


def test_job_whose_model_is_not_registered_waits_and_says_so(make_datasette, path, failing):
    """It may be registered again after the next restart."""
    from datasette.plugins import pm

    stopped_job(make_datasette, path, failing)
    plugin = next(p for p in pm.get_plugins() if isinstance(p, ModelsPlugin))
    pm.unregister(plugin)
    try:
        runner = looked(make_datasette, path)
    finally:
        pm.register(plugin)
    ((job_id, status, reason),) = job_rows(path)
    assert (job_id, status) == (1, "pending")
    assert reason.startswith("Unknown model: failing")
    with pytest.raises(UnknownModelError, match="Unknown model: failing"):
        runner.resume("a", 1)


def test_file_with_garbage_does_not_stop_the_others(make_datasette, path, tmp_path, failing):
    """A stranger's file holds no text where text is expected; the next one goes on."""
    stopped_job(make_datasette, path, failing)
    bad = tmp_path / "0.db"
    bad.write_bytes(path.read_bytes())
    execute(
        bad,
        "update _embed_jobs set action = x'ff', actor = x'fe', created_at = x'fd'",
        "update _embed_collections set created_at = x'00', source = null",
    )
    runner = get_runner(site := make_datasette([str(bad), str(path)]))
    runner.look()
    finish(runner)
    assert site and job_rows(path, "status") == [("finished",)]
    assert job_rows(bad, "status") == [("pending",)]


def test_file_that_cannot_be_looked_at_is_logged_once(
    make_datasette, path, tmp_path, failing, monkeypatch, caplog
):
    """Whatever it is that goes wrong; the next file goes on."""
    stopped_job(make_datasette, path, failing)
    bad = make_docs(tmp_path / "0.db", ROWS)
    real = core.interrupted

    def broken(site, path, is_due):
        return {}["garbage"] if path == str(bad) else real(site, path, is_due)

    monkeypatch.setattr(core, "interrupted", broken)
    runner = get_runner(site := make_datasette([str(bad), str(path)]))
    for _ in range(3):
        assert runner.look() is True
    finish(runner)
    assert site and job_rows(path, "status") == [("finished",)]
    assert caplog.text.count("no jobs to go on with") == 1


def test_look_at_many_jobs_of_a_stranger_checks_few(make_datasette, path, failing, monkeypatch):
    """Those that wait and carry a signature, a bounded number, the newest; ours is found."""
    stopped_job(make_datasette, path, failing)
    execute(
        path,
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)"
        " insert into _embed_jobs (id, collection_id, collection, model_id, status, created_at,"
        " signature) select -i, 1, 'docs', 'failing', 'pending', 'x', 'y' from n",
    )
    checked = []
    real = Site.is_ours
    monkeypatch.setattr(Site, "is_ours", lambda *given: checked.append(given[2].id) or real(*given))
    runner = looked(make_datasette, path)
    assert job_rows(path, "status")[-1] == ("finished",)
    assert len(checked) <= 1_000 and 1 in checked
    assert runner.kept_site


def test_interrupted_job_of_a_renamed_collection_goes_on(make_datasette, path, failing):
    """Its name is not what a person asked for; its rows and its model are."""
    stopped_job(make_datasette, path, failing)
    with closing(open_database(path, writable=True)) as conn, write_transaction(conn):
        store = Store(conn)
        store.rename_collection(store.get_collection("docs"), "new")
    looked(make_datasette, path)
    assert job_rows(path) == [(1, "finished", None)]
    assert stored(path, "new") == expected(ROWS)


def test_job_that_finds_its_file_locked_is_tried_again(runner, path, counting_model, monkeypatch):
    """It waits with the reason in the log, and fails nobody."""
    monkeypatch.setattr("datasette_embed.database.BUSY_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr("datasette_embed.runner.execution.LOCKED_SECONDS", 0.005)
    counting_model.gate = threading.Event()
    runner.create("a", "first", SPEC, "count")
    assert counting_model.started.wait(30)
    create(runner)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    tries, real = [], JobRun.run

    def locked(self):
        if self.collection.name == "docs":
            tries.append(1)
            if len(tries) == 1:
                other.execute("begin immediate")
            elif len(tries) == 3:
                other.execute("rollback")
        return real(self)

    monkeypatch.setattr(JobRun, "run", locked)
    counting_model.gate.set()
    for _ in range(5_000):
        if len(tries) >= 3 and job_rows(path)[1][1] == "finished":
            break
        time.sleep(0.002)
    finish(runner)
    other.close()
    assert len(tries) >= 3
    assert job_rows(path)[1] == (2, "finished", None)
    assert stored(path) == expected(ROWS)


def test_job_whose_rows_database_is_missing_waits(make_datasette, path, tmp_path, failing, caplog):
    """As for a model that is not registered: another start may serve it."""
    vectors = make_docs(tmp_path / "into.db", [], table="other")
    site = make_datasette([str(path), str(vectors)])
    runner = get_runner(site)
    failing.after_call = lambda calls: calls == 3 and runner.stop()
    runner.create("into", "docs", SPEC, "failing", rows_database="a")
    finish(runner)
    failing.after_call = None
    looked(make_datasette, vectors)
    assert job_rows(vectors) == [(1, "pending", "There is no database 'a'")]
    both = get_runner(again := make_datasette([str(path), str(vectors)]))
    both.look()
    finish(both)
    assert again and job_rows(vectors) == [(1, "finished", None)]
    assert stored(vectors) == expected(ROWS)


def test_resume_in_the_moment_a_claim_was_refused_is_not_lost(
    runner, path, counting_model, monkeypatch
):
    """The thread is still busy with the job that it may not run; it does it afterwards."""
    real, resumed = Execution._run, []

    def paused_meanwhile(self):
        if not resumed:
            runner.pause("a", 1)
        try:
            return real(self)
        finally:
            if not resumed:
                resumed.append(runner.resume("a", 1).status)

    monkeypatch.setattr(Execution, "_run", paused_meanwhile)
    create(runner)
    finish(runner)
    assert resumed == [JobStatus.PENDING]
    assert job_rows(path) == [(1, "finished", None)]


@pytest.mark.parametrize("how", ["here", "elsewhere"])
def test_model_that_hangs_is_left_alone_when_its_job_is_ended(
    runner, path, counting_model, monkeypatch, caplog, how
):
    """By a second cancel here, or in the file by anybody; the next job is not held up."""
    monkeypatch.setenv("DATASETTE_EMBED_LEASE_SECONDS", "0.2" if how == "elsewhere" else "120")
    counting_model.gate = gate = threading.Event()
    create(runner)
    assert counting_model.started.wait(30)
    if how == "here":
        runner.cancel("a", 1)
        runner.cancel("a", 1)
    else:
        execute(path, "update _embed_jobs set status = 'cancelled', reason = 'by hand'")
        for _ in range(5_000):
            if not runner._workers.has((str(path), 1)):
                break
            time.sleep(0.002)
    counting_model.gate = None
    runner.create("a", "next", SPEC, "count")
    finish(runner)
    assert [row[1] for row in job_rows(path)] == ["cancelled", "finished"]
    assert "job 1 ended while its model computes" in caplog.text
    gate.set()
    assert stored(path) == {}


def test_file_replaced_before_the_first_batch_is_stored_says_so(
    runner, path, tmp_path, failing, caplog
):
    """Not that it is read-only; and nothing is written into the file in its place."""
    other = make_docs(tmp_path / "other.db", [(1, "other")])
    before = other.read_bytes()
    failing.after_call = lambda calls: calls == 1 and other.rename(path)
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    assert "was deleted or replaced while a job wrote to it" in caplog.text
    assert "read-only" not in caplog.text
    assert path.read_bytes() == before


def test_look_at_files_that_are_none_of_ours_harms_nothing(make_datasette, path, tmp_path, failing):
    """No database, somebody else's tables, a state of a later version: the others go on."""
    stopped_job(make_datasette, path, failing)
    foreign = make_docs(tmp_path / "foreign.db", [])
    execute(foreign, "create table embeddings (x)")
    gone = make_docs(tmp_path / "gone.db", [])
    site = make_datasette([str(gone), str(foreign), str(path)])
    gone.unlink()
    get_runner(site).look()
    finish(get_runner(site))
    assert job_rows(path, "status") == [("finished",)]


def test_two_servers_on_one_file_run_a_job_once(make_datasette, path, failing):
    """Both look at the same moment; the claim decides."""
    stopped_job(make_datasette, path, failing)
    sites = [make_datasette([str(path)]) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda site: get_runner(site).look(), sites))
    for site in sites:
        finish(get_runner(site))
    assert len(failing.items) == 10
    assert job_rows(path) == [(1, "finished", None)]


# -- the server around it --------------------------------------------------------------


async def request(datasette):
    """Answer one request, then let what it started come to its end."""
    response = await datasette.client.get("/-/versions.json")
    assert response.status_code == 200
    runner = get_runner(datasette)
    for _ in range(2_000):
        if runner._clock is not None:
            break
        await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_server_goes_on_with_jobs_from_the_first_request(make_datasette, path, failing):
    """On both versions; and stops without losing the batch in flight."""
    stopped_job(make_datasette, path, failing)
    site = make_datasette([str(path)])
    done = threading.Event()
    failing.after_call = lambda calls: calls == 10 and done.set()
    await request(site)
    assert await asyncio.to_thread(done.wait, 30)
    assert await asyncio.to_thread(get_runner(site).wait, 30)
    assert stored(path) == expected(ROWS)
    await stop(site)
    assert get_runner(site)._stopping.is_set()


@pytest.mark.asyncio
async def test_server_without_collections_starts_nothing_until_there_are(
    make_datasette, path, tmp_path, failing, monkeypatch
):
    """Nor one without files; what another process makes later is noticed."""
    monkeypatch.setattr(wiring, "WAKE_SECONDS", 0.005)
    monkeypatch.setattr(core, "LOOK_SECONDS", 0.005)
    empty, plain = make_datasette([]), make_datasette([str(path)])
    for site in (empty, plain):
        assert (await site.client.get("/-/versions.json")).status_code == 200
    while plain not in wiring._clocks:
        await asyncio.sleep(0.001)
    assert empty not in wiring._clocks
    assert empty not in wiring._runners and plain not in wiring._runners
    stop_after_three_texts(make_datasette, path, failing)  # and plain may be there already
    for _ in range(5_000):
        if len(failing.items) == 10 and wiring._runners[plain].wait(0):
            break
        await asyncio.sleep(0.002)
    assert stored(path) == expected(ROWS)
    await stop(plain)


def test_get_starts_no_job(path, failing, make_datasette, monkeypatch):
    """``datasette --get`` answers, and embeds nothing."""
    from click.testing import CliRunner
    from datasette.cli import cli

    stopped_job(make_datasette, path, failing)
    result = CliRunner().invoke(cli, [str(path), "--get", "/-/versions.json"])
    assert result.exit_code == 0, result.output
    assert job_rows(path, "status, embedded") == [("pending", 3)]
    assert len(failing.items) == 3


@pytest.mark.skipif(hasattr(Datasette, "allowed"), reason="1.0 has a hook for it")
@pytest.mark.asyncio
async def test_lifespan_shutdown_stops_the_runner(make_datasette, path, failing):
    """What uvicorn says when it ends."""
    site = make_datasette([str(path)])
    get_runner(site)
    application = site.app()
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    said = []

    async def receive():
        return next(messages)

    async def send(message):
        said.append(message["type"])

    await application({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert get_runner(site)._stopping.is_set()


def test_job_of_a_datasette_that_is_gone_ends_to_be_gone_on_with(make_datasette, path, failing):
    """What runs notices by itself, and keeps the batch in flight."""
    site = make_datasette([str(path)])
    runner = get_runner(site)
    failing.after_call = lambda calls: calls == 3 and runner._site._close()
    runner._site._close = lambda: setattr(runner._site, "_datasette", lambda: None)
    runner.create("a", "docs", SPEC, "failing")
    finish(runner)
    assert job_rows(path, "status, embedded, owner") == [("pending", 3, None)]


def test_runner_does_not_keep_its_datasette_alive(make_datasette, path, counting_model):
    """A Datasette that is gone ends its runner."""
    site = make_datasette([str(path)])
    runner = get_runner(site)
    assert get_runner(site) is runner
    create(runner)
    finish(runner)
    gone = weakref.ref(site)
    site.close() if hasattr(site, "close") else None
    del site
    for _ in range(3):
        gc.collect()
    if gone() is None:
        assert not runner.submit("anything", print)
        assert runner.look() is False
