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


@pytest.mark.parametrize("command", ["show", "cancel"])
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
            "interrupted: its process is gone. Run the same command again, or sync, to go on.\n"
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


def test_jobs_cancel_running_job_says_when_it_stops(db):
    """The process that runs it is not killed."""
    execute(
        db,
        f"update _embed_jobs set status = 'running', owner = '{owner_name()}',"
        f" heartbeat_at = '{now()}' where id = 2",
    )
    assert "running" in embed("jobs", "list", db).stdout
    assert "Its process stops at its next batch." in embed("jobs", "cancel", db, "2").stderr


def test_jobs_foreign_tables_refused(tmp_path):
    """Somebody else's tables are not taken for a file without jobs."""
    path = make_docs(tmp_path / "a.db", [])
    execute(path, "create table embeddings (x)")
    for command in (("list", path), ("show", path, "1"), ("cancel", path, "1")):
        error = refused("jobs", *command, files=[path])
        assert "already has a table named 'embeddings' of its own" in error
