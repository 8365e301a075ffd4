"""Jobs as rows: states, ownership, failures."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from datasette_embed import job_records
from datasette_embed.database import open_database
from datasette_embed.errors import JobStateError
from datasette_embed.job_records import (
    LEASE_SECONDS,
    Failure,
    JobCounts,
    JobRecords,
    JobStatus,
    owner_name,
)
from datasette_embed.schema import ensure_schema

HERE = socket.gethostname()


@pytest.fixture
def conn(tmp_path):
    """A connection to a file with the tables."""
    with closing(open_database(tmp_path / "a.db", writable=True, create=True)) as conn:
        ensure_schema(conn, "a.db")
        yield conn


@pytest.fixture
def records(conn):
    """The jobs of that file."""
    return JobRecords(conn)


def moment(seconds):
    """Return the time so many seconds from now, as a heartbeat has it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")


@pytest.fixture(scope="module")
def dead_process():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_job_whole_life(records):
    """pending, running, finished: who, when and how much."""
    job = records.create(1, "docs", "m")
    assert (job.status, job.owner, job.epoch, job.started_at) == (JobStatus.PENDING, None, 0, None)
    claim = records.claim(job, 7)
    running = records.find_job(job.id)
    assert (running.status, running.owner, running.epoch) == (JobStatus.RUNNING, owner_name(), 1)
    assert (running.rows_total, running.finished_at) == (7, None)
    counts = JobCounts(rows_done=3, embedded=2, tokens=5)
    records.checkpoint(claim, counts)
    assert records.find_job(job.id).counts == counts
    records.end(claim, JobStatus.FINISHED, counts, "because")
    ended = records.find_job(job.id)
    assert (ended.status, ended.owner, ended.reason) == (JobStatus.FINISHED, None, "because")
    assert ended.started_at
    assert ended.finished_at
    with pytest.raises(JobStateError, match="is finished: another process has taken it over"):
        records.checkpoint(claim, counts)


@pytest.mark.parametrize("status", list(JobStatus))
def test_find_unfinished_state_with_work_left(conn, records, status):
    """A job that is finished or cancelled is not taken up again."""
    conn.execute("insert into collections (id, name, model) values (1, 'docs', 'm')")
    job = records.create(1, "docs", "m")
    conn.execute("update _embed_jobs set status = ?", (status.value,))
    found = records.find_unfinished(1)
    expected = None if status in (JobStatus.FINISHED, JobStatus.CANCELLED) else job.id
    assert (found and found.id) == expected
    assert records.find_unfinished(2) is None


@pytest.mark.parametrize("change", ["name = 'other'", "model = 'm2'", "id = 2"])
def test_find_unfinished_of_collection_that_is_gone_none(conn, records, change):
    """SQLite gives its id to the next collection, which has no such job."""
    conn.execute("insert into collections (id, name, model) values (1, 'docs', 'm')")
    records.create(1, "docs", "m")
    conn.execute(f"update collections set {change}")
    assert records.find_unfinished(1) is None


def test_find_in_file_without_tables_nothing(tmp_path):
    """A file that is not ours has no jobs."""
    with closing(open_database(tmp_path / "b.db", writable=True, create=True)) as conn:
        records = JobRecords(conn)
        assert (records.list_jobs(), records.find_job(1), records.find_unfinished(1)) == (
            [],
            None,
            None,
        )


def test_claim_running_owner_alive_refused(conn, records):
    """The message names the owner and what to do; the states that would work are told."""
    records.claim(records.create(1, "docs", "m"), 1)
    with pytest.raises(JobStateError, match=r"Job 1 is running: another process .* Wait") as caught:
        records.claim(records.find_job(1), 1)
    assert caught.value.allowed == ["pending", "paused", "failed"]
    assert records.find_job(1).epoch == 1


def test_claim_stale_record_reads_again(records):
    """Two processes that saw the same pending job cannot both have it."""
    seen = records.create(1, "docs", "m")
    claim = records.claim(seen, 1)
    with pytest.raises(JobStateError, match="is running"):
        records.claim(seen, 1)
    records.checkpoint(claim, JobCounts())


def test_claim_deleted_job_refused(conn, records):
    """A job that went away in between is said."""
    seen = records.create(1, "docs", "m")
    conn.execute("delete from _embed_jobs")
    with pytest.raises(JobStateError, match="is deleted: run the command again"):
        records.claim(seen, 1)


@pytest.mark.parametrize(
    ("owner", "heartbeat", "is_alive"),
    [
        ("{here}:{parent}:x", -1, True),
        ("{here}:{parent}:x", 1 - LEASE_SECONDS, True),
        ("{here}:{parent}:x", -1 - LEASE_SECONDS, False),
        ("{here}:{dead}:x", -1, False),
        # A container started again: the same host, the same number, another process.
        ("{here}:{own}:x", -1, False),
        ("{here}:{own}:{token}", -1, True),
        ("elsewhere:{dead}:x", -1, True),
        ("elsewhere:{dead}:x", -1 - LEASE_SECONDS, False),
        ("a:b:c:{dead}:x", -1, True),
        # A clock that is wrong by years must not hold the job for years.
        ("elsewhere:1:x", 1e8, False),
        ("elsewhere:1:x", 10, True),
        ("nonsense", -1, False),
        ("{here}:nonsense:x", -1, False),
        ("{here}:{huge}:x", -1, False),
        ("", -1, False),
    ],
)
def test_claim_running_owner_dead_or_lease_over_taken(
    conn, records, dead_process, owner, heartbeat, is_alive
):
    """Only a process that may still be at work keeps its job."""
    old = records.claim(records.create(1, "docs", "m"), 1)
    owner = owner.format(
        here=HERE,
        parent=os.getppid(),
        dead=dead_process,
        own=os.getpid(),
        token=job_records._PROCESS_TOKEN,
        huge=10**30,
    )
    conn.execute("update _embed_jobs set owner = ?, heartbeat_at = ?", (owner, moment(heartbeat)))
    if is_alive:
        with pytest.raises(JobStateError, match="is running"):
            records.claim(records.find_job(1), 1)
        return
    claim = records.claim(records.find_job(1), 1)
    assert claim.epoch == 2
    with pytest.raises(JobStateError, match="taken it over"):
        records.checkpoint(old, JobCounts())
    records.checkpoint(claim, JobCounts())


@pytest.mark.parametrize("heartbeat", [None, "", "yesterday", "2026-01-01", "2026-01-01T00:00:00"])
def test_claim_heartbeat_unreadable_taken(conn, records, heartbeat):
    """What no version of ours wrote holds nobody up."""
    records.claim(records.create(1, "docs", "m"), 1)
    conn.execute("update _embed_jobs set heartbeat_at = ?", (heartbeat,))
    assert records.claim(records.find_job(1), 1).epoch == 2


@pytest.mark.parametrize("change", ["status = 'cancelled'", "epoch = 9", "owner = 'b'"])
def test_checkpoint_no_longer_ours_refused(conn, records, change):
    """Cancelled, taken over or given away: nothing may be written."""
    claim = records.claim(records.create(1, "docs", "m"), 1)
    conn.execute(f"update _embed_jobs set {change}")
    with pytest.raises(JobStateError, match="taken it over, cancelled or deleted"):
        records.checkpoint(claim, JobCounts())
    with pytest.raises(JobStateError, match="taken it over, cancelled or deleted"):
        records.end(claim, JobStatus.FINISHED, JobCounts())


def test_failures_attempts_counted_and_forgotten(records):
    """One row a failing entry; attempts go on in the next job; other collections stay."""
    first, second = (records.create(7, "docs", "m") for _ in range(2))
    other = records.create(8, "other", "m")
    records.record_failures(first.id, [Failure("b", "first", b"1"), Failure("a", "x")])
    records.record_failures(second.id, [Failure("b", "second", b"2")])
    records.record_failures(other.id, [Failure("b", "other")])
    assert records.list_failures(first.id) == [("a", "x", 1), ("b", "first", 1)]
    assert records.list_failures(second.id) == [("b", "second", 2)]
    assert records.known_failures(7) == {("b", b"1"), ("b", b"2")}
    records.forget_failures(second, ["b", "never recorded"])
    assert records.list_failures(first.id) == []
    assert records.list_failures(second.id) == [("b", "second", 2)]
    assert records.list_failures(other.id) == [("b", "other", 1)]


def test_cancel_unfinished_ends_others_refused(records):
    """A job that is cancelled is done with, and its owner may not write any more."""
    job = records.create(1, "docs", "m")
    claim = records.claim(job, 10)
    assert records.cancel(job.id).status is JobStatus.CANCELLED
    with pytest.raises(JobStateError, match="cancelled"):
        records.checkpoint(claim, JobCounts())
    for job_id in (job.id, 99):
        with pytest.raises(JobStateError, match="nothing to cancel"):
            records.cancel(job_id)


def test_claim_of_a_job_that_goes_on_adds_to_its_counts(records):
    """What was paid for before an interruption is still in the row."""
    job = records.create(1, "docs", "m")
    claim = records.claim(job, 10)
    records.end(claim, JobStatus.PAUSED, JobCounts(rows_done=4, embedded=4, tokens=40))
    again = records.claim(job, 10)
    records.end(again, JobStatus.FINISHED, JobCounts(rows_done=10, embedded=6, tokens=60))
    counts = records.find_job(job.id).counts
    assert (counts.rows_done, counts.embedded, counts.tokens) == (10, 10, 100)


def test_list_jobs_newest_first(records):
    """The last is what a person asks about."""
    for name in "abc":
        records.create(1, name, "m")
    assert [job.collection for job in records.list_jobs()] == ["c", "b", "a"]


def test_record_failures_name_that_is_no_text_is_recorded(conn, records):
    """Such is the name of a file from an old disk; it must not end the whole run."""
    job = records.create(1, "docs", "m")
    records.record_failures(job.id, [Failure("caf\udce9.txt", "file caf\udce9.txt")])
    assert records.list_failures(job.id) == [("caf\\udce9.txt", "file caf\\udce9.txt", 1)]


def test_forget_healed_drops_only_what_has_a_vector_of_that_content(conn, records):
    """Of another collection, of another content and without a content: all stay."""
    job, other = records.create(1, "docs", "m"), records.create(2, "other", "m")
    failures = [Failure("healed", "no", b"h"), Failure("edited", "no", b"old"), Failure("x", "no")]
    for each in (job, other):
        records.record_failures(each.id, failures)
    conn.execute(
        "insert into embeddings (collection_id, id, embedding, content_hash)"
        " values (1, 'healed', x'00', x'68'), (1, 'edited', x'00', x'6e'), (1, 'x', x'00', x'78')"
    )
    records.forget_healed(records.create(1, "docs", "m"))
    assert [entry_id for entry_id, _, _ in records.list_failures(job.id)] == ["edited", "x"]
    assert len(records.list_failures(other.id)) == 3
