"""Jobs as rows: states, ownership, failures."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from datasette_embed import job_rows
from datasette_embed.database import open_database
from datasette_embed.errors import ConfigError, JobNotFoundError, JobStateError
from datasette_embed.job_records import (
    LEASE_SECONDS,
    JobCounts,
    JobRecords,
    JobStatus,
    Request,
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


def test_claim_while_another_job_of_the_collection_runs_refused(conn, records):
    """One job of a collection at a time, whatever the two are; another collection's may run."""
    first, second = (records.create(1, "docs", "m", action=name) for name in ("create", "watch"))
    other = records.create(2, "other", "m")
    records.claim(first, 1)
    with pytest.raises(JobStateError, match="Job 1 is running: it is embedding 'docs'"):
        records.claim(second, 1)
    records.claim(other, 1)
    conn.execute("update _embed_jobs set status = 'finished' where id = 1")
    records.claim(second, 1)


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
        ("{here}:{parent}:x", 10 - LEASE_SECONDS, True),
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
        token=job_rows._PROCESS_TOKEN,
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
    with pytest.raises(JobStateError, match="another process has taken it over or ended it"):
        records.checkpoint(claim, JobCounts())
    with pytest.raises(JobStateError, match="another process has taken it over or ended it"):
        records.end(claim, JobStatus.FINISHED, JobCounts())


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


@pytest.fixture
def running(records):
    """A job of another process that is alive: its claim."""
    return records.claim(records.create(1, "docs", "m"), 10)


@pytest.mark.parametrize(
    ("method", "request_", "status"),
    [("pause", Request.PAUSE, JobStatus.PAUSED), ("cancel", Request.CANCEL, JobStatus.CANCELLED)],
)
def test_request_of_running_job_stands_until_its_process_sees_it(
    records, running, method, request_, status
):
    """The checkpoint that stores the batch in flight succeeds, and tells what is asked."""
    asked = getattr(records, method)(running.job_id)
    assert (asked.status, asked.request) == (JobStatus.RUNNING, request_)
    assert records.checkpoint(running, JobCounts(embedded=3)) is request_
    records.end(running, status, JobCounts(embedded=3), "asked")
    ended = records.find_job(running.job_id)
    assert (ended.status, ended.request, ended.counts.embedded) == (status, None, 3)


@pytest.mark.parametrize("method", ["pause", "cancel"])
def test_request_of_waiting_or_abandoned_job_done_at_once(conn, records, method):
    """Nobody is there who would do it later; a process that wakes up may not write."""
    expected = {"pause": JobStatus.PAUSED, "cancel": JobStatus.CANCELLED}[method]
    waiting = records.create(1, "docs", "m")
    ended = getattr(records, method)(waiting.id)
    assert (ended.status, ended.request, ended.owner) == (expected, None, None)
    claim = records.claim(records.create(1, "docs", "m"), 1)
    conn.execute("update _embed_jobs set heartbeat_at = ?", (moment(-1 - LEASE_SECONDS),))
    assert getattr(records, method)(claim.job_id).status is expected
    with pytest.raises(JobStateError, match=f"is {expected}: another process has taken it over"):
        records.checkpoint(claim, JobCounts())


def test_cancel_twice_forces_it(records, running):
    """The second time the job ends, and its process may not write any more."""
    records.cancel(running.job_id)
    ended = records.cancel(running.job_id)
    assert (ended.status, ended.reason) == (
        JobStatus.CANCELLED,
        "cancelled on request, without waiting for the model call in flight",
    )
    with pytest.raises(JobStateError, match="cancelled"):
        records.checkpoint(running, JobCounts())
    with pytest.raises(JobStateError, match="is cancelled: there is nothing to cancel"):
        records.cancel(running.job_id)


def test_pause_of_job_being_cancelled_refused(records, running):
    """A cancel is not softened by a later pause."""
    records.cancel(running.job_id)
    with pytest.raises(JobStateError, match="it is being cancelled"):
        records.pause(running.job_id)
    assert records.find_job(running.job_id).request is Request.CANCEL


def test_resume_withdraws_a_pause_and_revives_what_stopped(conn, records, running):
    """Running: the request goes. Paused, failed, abandoned: pending. Ended: refused."""
    with pytest.raises(JobStateError, match="it need not be resumed"):
        records.resume(running.job_id)
    records.pause(running.job_id)
    assert records.resume(running.job_id).request is None
    assert records.checkpoint(running, JobCounts()) is None
    for status in ("paused", "failed", "pending", "running"):
        conn.execute("update _embed_jobs set status = ?, owner = null", (status,))
        assert records.resume(running.job_id).status is JobStatus.PENDING
    for status in ("finished", "cancelled"):
        conn.execute("update _embed_jobs set status = ?", (status,))
        with pytest.raises(JobStateError, match=f"is {status}: there is nothing to resume"):
            records.resume(running.job_id)


@pytest.mark.parametrize("status", ["paused", "failed", "finished", "cancelled"])
def test_pause_of_job_that_neither_runs_nor_waits_refused(conn, records, status):
    """There is nothing to pause, and the row stays."""
    job = records.create(1, "docs", "m")
    conn.execute("update _embed_jobs set status = ?", (status,))
    with pytest.raises(JobStateError, match=f"is {status}: there is nothing to pause"):
        records.pause(job.id)
    assert records.find_job(job.id).status.value == status


@pytest.mark.parametrize("method", ["pause", "resume", "cancel", "get_job"])
def test_unknown_job_is_not_found(records, method):
    """Which is not the same as a wrong state."""
    with pytest.raises(JobNotFoundError, match="no job 99"):
        getattr(records, method)(99)


def test_claim_in_a_state_that_was_not_expected_refused(records):
    """A job that was paused or ended since it was queued is not run."""
    job = records.create(1, "docs", "m")
    records.pause(job.id)
    with pytest.raises(JobStateError, match="is paused: it is not to be run"):
        records.claim(job, 1, (JobStatus.PENDING, JobStatus.RUNNING))
    records.cancel(job.id)
    with pytest.raises(JobStateError, match="is cancelled: it is not to be run"):
        records.claim(job, 1)
    assert records.find_job(job.id).epoch == 0


def test_fail_and_note_only_in_the_state_that_was_seen(records):
    """What could not begin says why; what somebody else took is theirs."""
    job = records.create(1, "docs", "m")
    records.note(job, "waits for a model")
    assert records.find_job(job.id).reason == "waits for a model"
    claim = records.claim(job, 1)
    with pytest.raises(JobStateError, match="somebody else has taken it"):
        records.fail(job, "no such table")
    records.note(job, "late")
    assert records.find_job(job.id).reason is None
    records.end(claim, JobStatus.PAUSED, JobCounts())
    failed = records.fail(records.find_job(job.id), "no such table")
    assert (failed.status, failed.reason) == (JobStatus.FAILED, "no such table")


def test_create_keeps_who_asked_for_what(conn, records):
    """Options come back as an object; those that are none as nothing."""
    job = records.create(1, "docs", "m", action="sync", options={"remove": True}, actor="ann")
    assert (job.action, job.options, job.actor) == ("sync", {"remove": True}, "ann")
    assert records.set_signature(job, "abc").signature == "abc"
    for stored in ("[1]", "{", "\udcff".encode("utf-8", "surrogatepass"), "[" * 100_000, 7):
        conn.execute("update _embed_jobs set options = ?, request = 'dance'", (stored,))
        found = records.find_job(job.id)
        assert (found.options, found.request) == ({}, None)


def test_reading_file_of_an_earlier_version(conn, records):
    """Its table lacks the later columns; it may be read-only, so nothing is added."""
    for column in ("action", "options", "request", "actor", "signature"):
        conn.execute(f"alter table _embed_jobs drop column {column}")
    conn.execute(
        "insert into _embed_jobs (collection, model_id, status, created_at)"
        " values ('docs', 'm', 'paused', 'then')"
    )
    job = records.list_jobs()[0]
    assert (job.status, job.action, job.options, job.actor) == (JobStatus.PAUSED, None, {}, None)


@pytest.mark.parametrize(("value", "is_alive"), [("100", True), ("10", False), ("", True)])
def test_lease_from_the_environment(conn, records, monkeypatch, value, is_alive):
    """Silent for 50 seconds: gone or not, as the environment says."""
    monkeypatch.setenv("DATASETTE_EMBED_LEASE_SECONDS", value)
    job = records.create(1, "docs", "m")
    records.claim(job, 1)
    conn.execute("update _embed_jobs set heartbeat_at = ?", (moment(-50),))
    assert records.find_job(job.id).is_abandoned is not is_alive


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_lease_that_is_no_number_refused(monkeypatch, value):
    """The error names the variable."""
    monkeypatch.setenv("DATASETTE_EMBED_LEASE_SECONDS", value)
    with pytest.raises(ConfigError, match="DATASETTE_EMBED_LEASE_SECONDS: must be a number"):
        job_rows.lease_seconds()
