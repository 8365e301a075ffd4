"""Failures as rows: what could not be embedded, how often, and until when that is kept."""

from __future__ import annotations

from contextlib import closing

import pytest

from datasette_embed.database import open_database
from datasette_embed.failure_records import FailureRecords
from datasette_embed.job_records import JobRecords
from datasette_embed.job_rows import Failure
from datasette_embed.schema import ensure_schema


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


@pytest.fixture
def failures(conn):
    """The failures of that file."""
    return FailureRecords(conn)


def test_failures_attempts_counted_and_forgotten(records, failures):
    """One row a failing entry; attempts go on in the next job; other collections stay."""
    first, second = (records.create(7, "docs", "m") for _ in range(2))
    other = records.create(8, "other", "m")
    failures.record_failures(first.id, [Failure("b", "first", b"1"), Failure("a", "x")])
    failures.record_failures(second.id, [Failure("b", "second", b"2")])
    failures.record_failures(other.id, [Failure("b", "other")])
    assert failures.list_failures(first.id) == [("a", "x", 1), ("b", "first", 1)]
    assert failures.list_failures(second.id) == [("b", "second", 2)]
    assert failures.known_failures(7) == {("b", b"1"), ("b", b"2")}
    failures.forget_failures(second, ["b", "never recorded"])
    assert failures.list_failures(first.id) == []
    assert failures.list_failures(second.id) == [("b", "second", 2)]
    assert failures.list_failures(other.id) == [("b", "other", 1)]


def test_record_failures_name_that_is_no_text_is_recorded(conn, records, failures):
    """Such is the name of a file from an old disk; it must not end the whole run."""
    job = records.create(1, "docs", "m")
    failures.record_failures(job.id, [Failure("caf\udce9.txt", "file caf\udce9.txt")])
    assert failures.list_failures(job.id) == [("caf\\udce9.txt", "file caf\\udce9.txt", 1)]


def test_forget_healed_drops_only_what_has_a_vector_of_that_content(conn, records, failures):
    """Of another collection, of another content and without a content: all stay."""
    job, other = records.create(1, "docs", "m"), records.create(2, "other", "m")
    made = [Failure("healed", "no", b"h"), Failure("edited", "no", b"old"), Failure("x", "no")]
    for each in (job, other):
        failures.record_failures(each.id, made)
    conn.execute(
        "insert into embeddings (collection_id, id, embedding, content_hash)"
        " values (1, 'healed', x'00', x'68'), (1, 'edited', x'00', x'6e'), (1, 'x', x'00', x'78')"
    )
    failures.forget_healed(records.create(1, "docs", "m"))
    assert [entry_id for entry_id, _, _ in failures.list_failures(job.id)] == ["edited", "x"]
    assert len(failures.list_failures(other.id)) == 3


def test_forget_failures_among_some_leaves_the_others(records, failures):
    """A job that looked at two rows says nothing about the third."""
    first, second = (records.create(7, "docs", "m") for _ in range(2))
    failures.record_failures(first.id, [Failure("a", "x"), Failure("b", "x"), Failure("c", "x")])
    failures.record_failures(second.id, [Failure("b", "again"), Failure("d", "x")])
    assert failures.failing_ids(7) == {"a", "b", "c", "d"}
    failures.forget_failures(second, ["b"], among={"a", "b"})
    assert failures.list_failures(first.id) == [("c", "x", 1)]
    assert failures.list_failures(second.id) == [("b", "again", 2), ("d", "x", 1)]
    assert failures.failing_ids(8) == frozenset()


def test_list_failures_of_any_file_are_texts_and_numbers(conn, records, failures):
    """What a stranger's file holds can be shown; a view is not asked at all."""
    job = records.create(7, "docs", "m")
    conn.execute(
        "insert into _embed_failures values (?1, 'a', null, x'ff', 'x'), (?1, x'ff', null, 'm', 1)",
        (job.id,),
    )
    assert failures.list_failures(job.id) == [("a", "", 0)]
    conn.execute("drop table _embed_failures")
    conn.execute("create view _embed_failures as select 1 as job_id")
    assert failures.list_failures(job.id) == []
