"""``jobs``: what has been embedded, what stopped and why."""

from __future__ import annotations

import json

import pytest

from datasette_embed.job_records import owner_name
from datasette_embed.schema import now
from tests.storage import embed, execute, make_docs, query, refused


@pytest.fixture
def db(tmp_path, counting_model):
    """A file with two jobs, the first with a failed row."""
    path = make_docs(tmp_path / "a.db", [(1, "one"), (2, "two")])
    execute(path, "insert into docs values (3, x'00')")
    embed("create", path, "docs", "--model", "count")
    execute(path, "delete from docs where id = 3", "insert into docs values (4, 'four')")
    embed("create", path, "docs")
    return path


def test_jobs_list_newest_first(db):
    """A line a job; JSON without the machine's name."""
    said = embed("jobs", "list", db)
    lines = [line.split()[:8] for line in said.stdout.splitlines()[1:]]
    assert lines == [
        ["2", "docs", "finished", "3", "of", "3", "1", "0"],
        ["1", "docs", "finished", "3", "of", "3", "2", "1"],
    ]
    assert said.stderr == ""
    found = json.loads(embed("jobs", "list", db, "--json").stdout)
    assert [(job["id"], job["embedded"], job["failed"]) for job in found] == [(2, 1, 0), (1, 2, 1)]
    assert not {"owner", "epoch", "collection_id", "counts"} & set(found[0])


def test_jobs_show_failures_with_reason(db):
    """Every row that could not be embedded is named."""
    execute(db, "insert into docs values (3, x'00')")
    embed("create", db, "docs")
    said = embed("jobs", "show", db, "3")
    assert "status: finished" in said.stdout
    assert said.stdout.splitlines()[-1].split(maxsplit=2) == [
        "3",
        "1",
        "column 'body' holds binary content, not text",
    ]
    found = json.loads(embed("jobs", "show", db, "3", "--json").stdout)
    assert found["failures"] == [
        {"id": "3", "message": "column 'body' holds binary content, not text", "attempts": 1}
    ]


def test_jobs_unknown_id_lists_the_known(db):
    """One line, and the ids there are."""
    assert refused("jobs", "show", db, "99", files=[db]) == f"{db}: has no job 99. Jobs: 2, 1"
    assert "is not a valid integer" in refused("jobs", "show", db, "first", code=2)


def test_jobs_database_as_an_option_or_in_the_environment(db, monkeypatch):
    """As for every other command."""
    shown = embed("jobs", "show", db, "1").stdout
    assert shown.startswith("id: 1\n")
    assert embed("jobs", "show", "1", "-d", db).stdout == shown
    listed = embed("jobs", "list", db).stdout
    assert embed("jobs", "list", "-d", db).stdout == listed
    execute(db, "update _embed_jobs set status = 'paused' where id = 2")
    monkeypatch.setenv("LLM_EMBEDDINGS_DB", str(db))
    assert embed("jobs", "show", "1").stdout == shown
    assert "paused" in embed("jobs", "list").stdout
    embed("jobs", "cancel", "2")
    assert query(db, "select status from _embed_jobs where id = 2") == [("cancelled",)]


@pytest.mark.parametrize("command", ["show", "cancel", "pause", "resume", "retry"])
def test_jobs_id_that_is_no_number_is_wrong_usage(db, command):
    """In click's words."""
    for arguments in ((db, "first"), ("first", "-d", db)):
        said = refused("jobs", command, *arguments, files=[db], code=2)
        assert said == "Invalid value for 'JOB_ID': 'first' is not a valid integer."


def test_jobs_file_without_jobs_says_so(tmp_path):
    """No tables of ours, no jobs, and none made."""
    path = make_docs(tmp_path / "a.db", [])
    before = path.read_bytes()
    said = embed("jobs", "list", path)
    assert (said.stdout, said.stderr) == ("", f"{path} has no jobs\n")
    assert json.loads(embed("jobs", "list", path, "--json").stdout) == []
    assert refused("jobs", "show", path, "1") == f"{path}: has no job 1. Jobs: none"
    assert path.read_bytes() == before


def test_jobs_state_of_a_later_version_one_line(db):
    """A state that this version does not know is no crash."""
    execute(db, "update _embed_jobs set status = 'dreaming' where id = 2")
    assert "Job 2 is dreaming" in refused("jobs", "list", db, files=[db])


def test_jobs_process_gone_shown_as_interrupted(db):
    """A job that was killed does not look as if it still ran."""
    execute(
        db,
        "update _embed_jobs set status = 'running', owner = 'gone:1:x', heartbeat_at = ''"
        " where id = 2",
    )
    for command in (("list", db), ("show", db, "2")):
        said = embed("jobs", *command)
        assert "interrupted" in said.stdout and "running" not in said.stdout
        assert said.stderr == (
            "interrupted: its process is gone. Run the same command again, sync, or jobs resume.\n"
        )
    found = json.loads(embed("jobs", "show", db, "2", "--json").stdout)
    assert found["status"] == "interrupted"
    said = embed("collections", "show", db, "docs")
    assert "Job 2 is interrupted: " in said.stderr


def test_jobs_cancel_unfinished_job_ends_it(db):
    """What was embedded stays, and the next run is a new job."""
    execute(db, "update _embed_jobs set status = 'paused' where id = 2")
    vectors = query(db, "select * from embeddings")
    said = embed("jobs", "cancel", db, "2")
    assert said.stderr == "Cancelled job 2 of 'docs'. What it has embedded is kept.\n"
    assert query(db, "select status from _embed_jobs where id = 2") == [("cancelled",)]
    assert query(db, "select * from embeddings") == vectors
    assert "Job 2 is cancelled: " in refused("jobs", "cancel", db, "2", files=[db])
    assert "Job 1 is finished: " in refused("jobs", "cancel", db, "1", files=[db])
    assert refused("jobs", "cancel", db, "9") == f"{db}: has no job 9. Jobs: 2, 1"


@pytest.fixture
def running(db):
    """The second job of the file, running in another process that is alive."""
    execute(
        db,
        f"update _embed_jobs set status = 'running', owner = '{owner_name()}', epoch = 5,"
        f" heartbeat_at = '{now()}' where id = 2",
    )
    return db


def state(db, job_id=2):
    """Return status and request of a job."""
    return query(db, "select status, request from _embed_jobs where id = ?", (job_id,))[0]


def test_jobs_cancel_running_job_asks_its_process_then_forces_it(running):
    """The process that runs it is not killed; it stores the batch in flight."""
    assert "running" in embed("jobs", "list", running).stdout
    said = embed("jobs", "cancel", running, "2").stderr
    assert said == "Job 2 of 'docs' ends after the batch in flight.\n"
    assert state(running) == ("running", "cancel")
    assert "request: cancel" in embed("jobs", "show", running, "2").stdout
    said = embed("jobs", "cancel", running, "2").stderr
    assert said == "Cancelled job 2 of 'docs'. What it has embedded is kept.\n"
    assert state(running) == ("cancelled", None)


def test_jobs_pause_and_resume_of_running_job_ask_and_withdraw(running):
    """Nothing is started here for a job that another process runs."""
    said = embed("jobs", "pause", running, "2").stderr
    assert said == "Job 2 of 'docs' pauses after the batch in flight.\n"
    assert state(running) == ("running", "pause")
    said = embed("jobs", "resume", running, "2").stderr
    assert said == "Job 2 of 'docs' goes on: it had not paused yet.\n"
    assert state(running) == ("running", None)
    assert "Job 2 is running: it need not be resumed" in refused(
        "jobs", "resume", running, "2", files=[running]
    )


def test_jobs_resume_paused_job_runs_it_here(db, counting_model):
    """The same job comes to its end, and embeds what is missing."""
    execute(
        db,
        "update _embed_jobs set status = 'pending' where id = 2",
        "insert into docs values (5, 'five')",
    )
    assert embed("jobs", "pause", db, "2").stderr == "Paused job 2 of 'docs'.\n"
    calls = len(counting_model.calls)
    embed("jobs", "resume", db, "2")
    assert counting_model.calls[calls:] == [["five"]]
    assert query(db, "select id, status from _embed_jobs order by id") == [
        (1, "finished"),
        (2, "finished"),
    ]
    assert "Job 2 is finished: there is nothing to resume" in refused(
        "jobs", "resume", db, "2", files=[db]
    )
    assert "Job 2 is finished: there is nothing to pause" in refused(
        "jobs", "pause", db, "2", files=[db]
    )


def test_jobs_retry_embeds_the_failures_only(db, counting_model):
    """Other rows that are missing stay missing, and other rows that are gone stay there."""
    execute(db, "insert into docs values (3, x'00')")
    embed("create", db, "docs")
    execute(
        db,
        "update docs set body = 'three' where id = 3",
        "insert into docs values (6, 'six')",
        "delete from docs where id = 1",
    )
    calls = len(counting_model.calls)
    said = embed("jobs", "retry", db, "3").stderr
    assert said.startswith(f"{db}: table docs: body, 1 of its rows\n")
    assert counting_model.calls[calls:] == [["three"]]
    ids = query(db, "select id from embeddings order by id")
    assert ids == [("1",), ("2",), ("3",), ("4",)]
    assert query(db, "select action, status from _embed_jobs where id = 4") == [
        ("retry", "finished")
    ]
    assert query(db, "select count(*) from _embed_failures") == [(0,)]
    assert "Job 3 is finished: it has no failures to retry" in refused(
        "jobs", "retry", db, "3", files=[db]
    )


def test_jobs_retry_beside_an_unfinished_job_refused(db):
    """One job of a collection at a time."""
    execute(db, "update _embed_jobs set status = 'paused' where id = 2")
    error = refused("jobs", "retry", db, "1", files=[db])
    assert error == "Job 2 is paused: let it come to its end first, or cancel it"
    execute(
        db,
        "update _embed_jobs set status = 'running', owner = 'gone:1:x', heartbeat_at = ''"
        " where id = 2",
    )
    error = refused("jobs", "retry", db, "1", files=[db])
    assert error == "Job 2 is interrupted: resume it first, or cancel it"


def test_collections_show_names_each_job_that_has_failures(db):
    """A job shows its own alone."""
    execute(
        db,
        "insert into _embed_failures select 1, id, content_hash, 'no', 1 from embeddings"
        " where id in ('1', '2')",
        "insert into _embed_failures select 2, id, content_hash, 'no', 2 from embeddings"
        " where id = '2'",
    )
    lines = embed("collections", "show", db, "docs").stderr.splitlines()
    assert [line for line in lines if "could not be embedded" in line] == [
        f"1 row could not be embedded. Which, and why: datasette embed jobs show {db} {job}"
        for job in (1, 2)
    ]
    assert json.loads(embed("collections", "show", db, "docs", "--json").stdout)["failed"] == 2


def test_jobs_foreign_tables_refused(tmp_path):
    """Somebody else's tables are not taken for a file without jobs."""
    path = make_docs(tmp_path / "a.db", [])
    execute(path, "create table embeddings (x)")
    for command in (("list", path), ("show", path, "1"), ("cancel", path, "1")):
        error = refused("jobs", *command, files=[path])
        assert "already has a table named 'embeddings' of its own" in error


def test_sync_says_how_many_rows_failed_before(db):
    """They are no changes, and are tried again each time."""
    execute(
        db,
        "insert into _embed_failures select 2, id, content_hash, 'no', 1 from embeddings"
        " where id = '1'",
        "delete from embeddings where id = '1'",
    )
    assert "1 to embed (1 of them failed before), 2 up to date" in embed("sync", db).stderr
