"""Heartbeat: a job whose model computes for longer than the lease keeps its job."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from datasette_embed.database import open_database
from datasette_embed.heartbeat import Heartbeat
from datasette_embed.job_records import JobRecords, JobStatus
from datasette_embed.schema import ensure_schema
from tests.storage import query


@pytest.fixture
def conn(tmp_path):
    """A connection to a file with the tables."""
    with closing(open_database(tmp_path / "a.db", writable=True, create=True)) as conn:
        ensure_schema(conn, "a.db")
        yield conn


@pytest.fixture
def beats(monkeypatch):
    """Released whenever a heartbeat has been tried; the lease is over in no time."""
    beats = threading.Semaphore(0)
    beat = JobRecords.beat

    def counted(self, claim):
        try:
            return beat(self, claim)
        finally:
            beats.release()

    monkeypatch.setattr(JobRecords, "beat", counted)
    monkeypatch.setenv("DATASETTE_EMBED_LEASE_SECONDS", "0.01")
    return beats


def test_heartbeat_says_that_the_job_lives_until_it_ends(tmp_path, conn, beats):
    """On a connection of its own; after the block it stops."""
    records = JobRecords(conn)
    claim = records.claim(records.create(1, "docs", "m"), 1)
    conn.execute("update _embed_jobs set heartbeat_at = 'long ago'")
    with Heartbeat(str(tmp_path / "a.db"), claim):
        assert beats.acquire(timeout=30) and beats.acquire(timeout=30)
    assert query(tmp_path / "a.db", "select heartbeat_at like '20__-%' from _embed_jobs") == [(1,)]
    while beats.acquire(timeout=0.05):
        pass  # one may have been on its way
    conn.execute("update _embed_jobs set heartbeat_at = 'long ago'")
    assert not beats.acquire(timeout=0.05)


@pytest.mark.parametrize("change", ["epoch = 9", "owner = 'b'", "status = 'cancelled'"])
def test_heartbeat_of_a_job_taken_over_ends_and_writes_nothing(tmp_path, conn, beats, change):
    """The new owner's lease is not made longer by the old one."""
    records = JobRecords(conn)
    claim = records.claim(records.create(1, "docs", "m"), 1)
    conn.execute(f"update _embed_jobs set {change}, heartbeat_at = 'long ago'")
    with Heartbeat(str(tmp_path / "a.db"), claim):
        assert beats.acquire(timeout=30)
        assert not beats.acquire(timeout=0.05)
    assert query(tmp_path / "a.db", "select heartbeat_at from _embed_jobs") == [("long ago",)]


def test_heartbeat_of_a_file_that_is_gone_harms_nothing(tmp_path, conn, beats):
    """The run itself says what is wrong."""
    records = JobRecords(conn)
    claim = records.claim(records.create(1, "docs", "m"), 1)
    with Heartbeat(str(tmp_path / "gone.db"), claim):
        assert not beats.acquire(timeout=0.05)
    assert not (tmp_path / "gone.db").exists()
    assert records.find_job(claim.job_id).status is JobStatus.RUNNING
