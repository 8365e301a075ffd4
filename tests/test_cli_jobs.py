"""``jobs``: what has been embedded, what stopped and why."""

from __future__ import annotations

import json

import pytest

from tests.storage import embed, execute, make_docs, refused


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
    said = embed("jobs", "show", db, "1")
    assert "status: finished" in said.stdout
    assert said.stdout.splitlines()[-1].split(maxsplit=2) == [
        "3",
        "1",
        "column 'body' holds binary content, not text",
    ]
    found = json.loads(embed("jobs", "show", db, "1", "--json").stdout)
    assert found["failures"] == [
        {"id": "3", "message": "column 'body' holds binary content, not text", "attempts": 1}
    ]


def test_jobs_unknown_id_lists_the_known(db):
    """One line, and the ids there are."""
    assert refused("jobs", "show", db, "99", files=[db]) == f"{db}: has no job 99. Jobs: 2, 1"
    assert "is not a valid integer" in refused("jobs", "show", db, "first", code=2)


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
