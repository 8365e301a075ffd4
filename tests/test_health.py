"""What is wrong in a file, named and counted."""

from __future__ import annotations

import struct
from contextlib import closing

import pytest

from datasette_embed import health
from datasette_embed.database import open_database
from datasette_embed.health import fault_of, find_problems
from datasette_embed.registry import Registry
from datasette_embed.schema import TRIGGERS
from tests.fakes import CountingModel
from tests.storage import execute, make_docs, run_job

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def db(tmp_path):
    """A file whose table docs is embedded."""
    path = make_docs(tmp_path / "a.db", [(n, f"text {n}") for n in range(9)])
    run_job(path, CountingModel())
    return path


@pytest.fixture
def registry():
    """A registry that knows the counting model."""
    registry = Registry()
    registry.register(CountingModel())
    return registry


def problems(path, registry):
    before = path.read_bytes()
    with closing(open_database(path)) as conn, closing(open_database(path)) as source_conn:
        found = list(find_problems(conn, str(path), registry, source_conn))
    assert path.read_bytes() == before
    return found


@pytest.mark.parametrize(
    ("stored", "dimensions", "fault"),
    [
        (struct.pack("<2f", 1, 0), 2, None),
        (struct.pack("<2f", 1, 0), None, None),
        (None, 2, "no vector (NULL)"),
        ("text", 2, "not a vector but str in place of a BLOB"),
        (5, 2, "not a vector but int in place of a BLOB"),
        (b"", 2, "length is no multiple of 4 bytes"),
        (b"12345", 2, "length is no multiple of 4 bytes"),
        (b"1234", 2, "another length than the collection's 2 dimensions"),
        (struct.pack("<2f", 0, 0), 2, "zero, or NaN or infinity in it"),
        (struct.pack("<2f", NAN, 1), 2, "zero, or NaN or infinity in it"),
        (struct.pack("<2f", INF, 1), 2, "zero, or NaN or infinity in it"),
    ],
)
def test_fault_of_stored_value(stored, dimensions, fault):
    """Each kind of damage has its own words."""
    assert fault_of(stored, dimensions) == fault


def test_find_problems_sound_file_none(db, registry):
    """Nothing is wrong."""
    assert problems(db, registry) == []


def test_find_problems_vectors_counted_with_examples(db, registry):
    """The most frequent first, five named."""
    execute(
        db,
        "update embeddings set embedding = null where id < '7'",
        "update embeddings set embedding = zeroblob(32) where id = '7'",
    )
    first, second = problems(db, registry)
    assert (first.collection, first.message, first.entries) == ("docs", "no vector (NULL)", 7)
    assert first.examples == ["0", "1", "2", "3", "4"]
    assert (second.entries, second.examples) == (1, ["7"])


def test_find_problems_model_not_registered(db):
    """Words cannot be searched without it."""
    (found,) = problems(db, Registry())
    assert found.message.startswith("its model counting is not registered here")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("drop table docs", "no table named 'docs'"),
        ("alter table docs rename column body to text", "no column named 'body'"),
        ('update _embed_collections set source = \'{"sql": "selec"}\'', "no such table: selec"),
        ("update _embed_collections set source = 'damaged'", "cannot be read"),
    ],
)
def test_find_problems_source_lost(db, registry, statement, words):
    """A sync would fail: say so before."""
    execute(db, statement)
    (found,) = problems(db, registry)
    assert found.message.startswith("its rows cannot be read: ")
    assert words in found.message


def test_find_problems_source_that_never_ends_is_stopped(db, registry, monkeypatch):
    """A stranger's file cannot make the check hang, and the next collection is looked at."""
    monkeypatch.setattr(health, "LIMIT_SECONDS", 0.05)
    run_job(db, CountingModel(), name="other")
    execute(
        db,
        "create view v as with recursive n(id) as (select 1 union all select id + 1 from n)"
        " select id, 'x' as body from n where id < 0",
        "update _embed_collections set source = '{\"table\": \"v\"}' where name = 'docs'",
        "update _embed_collections set source = '{\"table\": \"w\"}' where name = 'other'",
    )
    endless, lost = problems(db, registry)
    assert endless.message == "its rows cannot be looked at within 0.05 seconds"
    assert (endless.collection, lost.collection) == ("docs", "other")
    assert "no table named 'w'" in lost.message


def test_find_problems_source_elsewhere_is_not_looked_for(db, registry):
    """Rows in another file are no problem of this one."""
    execute(
        db,
        'update _embed_collections set source = \'{"table": "x", "is_elsewhere": true}\'',
    )
    assert problems(db, registry) == []


def test_find_problems_orphans_and_lost_triggers(db, registry):
    """What belongs to nothing is counted."""
    execute(
        db,
        "insert into embeddings (collection_id, id) values (99, 'x'), (null, 'y')",
        "drop trigger _embed_entry_deleted",
        "insert into _embed_collections (collection_id, name, model, fingerprint, metric,"
        " created_at) values (50, 'gone', 'm', 'm', 'cosine', 'now')",
    )
    found = {problem.message: problem for problem in problems(db, registry)}
    assert found["vectors of a collection that does not exist"].entries == 2
    assert any("triggers are missing (_embed_entry_deleted)" in message for message in found)
    assert "settings of 1 collection(s) that no longer exist" in found
    assert len(found) == 3


def test_find_problems_our_tables_gone_the_cure_works(db, registry):
    """Left-over triggers break every write: the statements that are named mend it."""
    execute(db, "drop table _embed_collections", "drop table _embed_generations")
    (found,) = [p for p in problems(db, registry) if "triggers" in p.message]
    assert set(TRIGGERS) == {name for name in TRIGGERS if name in found.message}
    execute(db, *found.message.partition("Run: ")[2].split("; "))
    execute(db, "delete from embeddings", "delete from collections")


def test_find_problems_foreign_tables_none(tmp_path, registry):
    """Somebody else's tables are none of our business."""
    path = tmp_path / "b.db"
    execute(path, "create table collections (x)", "create table embeddings (y)")
    assert problems(path, registry) == []


def test_find_problems_ids_that_are_no_text_counted(db, registry):
    """No search can name them, so somebody must."""
    execute(
        db,
        "insert into embeddings (collection_id, id, embedding) select collection_id, x'01',"
        " embedding from embeddings limit 1",
        "insert into embeddings (collection_id, id, embedding) select collection_id, null,"
        " embedding from embeddings limit 1",
    )
    [problem] = problems(db, registry)
    assert problem.message == "2 of its ids are no text: no search finds them"


def test_find_problems_table_of_ours_dropped_named(db, registry):
    """Whoever deletes a collection then fails in a trigger."""
    execute(db, "drop table _embed_similarity_entries")
    [problem] = problems(db, registry)
    assert problem.message.startswith("tables are missing (_embed_similarity_entries)")


def test_find_problems_no_collection_no_triggers_no_problem(db, registry):
    """They go with the last collection."""
    execute(db, "delete from embeddings", "delete from collections")
    execute(db, *(f"drop trigger {name}" for name in TRIGGERS))
    assert problems(db, registry) == []
