"""A table of related entries: exact, written once, and the same when brought up to date."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasette_embed.database import open_database, write_transaction
from datasette_embed.errors import (
    CollectionNotFoundError,
    OutdatedCollectionError,
    SourceError,
)
from datasette_embed.explore import neighbors, similarities
from datasette_embed.explore.similarities import SimilarityCounts, write_similarities
from datasette_embed.records import NewEntry
from datasette_embed.store import Store
from tests.storage import execute, query
from tests.test_explore_neighbors import blob, gaussian, oracle, whole_numbers, write

NUMBERS = whole_numbers(40, 4)


@pytest.fixture
def db(tmp_path):
    """A file with a collection of forty entries, and no table of pairs."""
    return write(tmp_path / "a.db", NUMBERS)


def run(path, name="docs", **options):
    with closing(open_database(path, writable=True)) as conn:
        return write_similarities(conn, str(path), name, **options)


def change(path, vectors, name="docs"):
    """Write entries (``id -> numbers``), or delete those that are None."""
    with closing(open_database(path, writable=True)) as conn, write_transaction(conn):
        store = Store(conn)
        record = store.get_collection(name)
        store.delete_entries(record.id, [i for i, v in vectors.items() if v is None])
        store.write_entries(
            record.id, [NewEntry(i, blob(v), b"") for i, v in vectors.items() if v is not None]
        )


def rows(path, table="similarities"):
    return query(path, f"select id, other_id, score from {table} order by 1, 3 desc, 2")


def expected(vectors, number, metric="cosine"):
    found = oracle(vectors, number, metric)
    return [(i, other, score) for i in sorted(found) for other, score in found[i]]


def notes(path):
    """Return what is noted about tables of pairs."""
    return (
        query(path, "select * from _embed_similarities order by 1"),
        query(path, "select * from _embed_similarity_entries order by 1, 2"),
    )


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("number", [1, 10, 100])
def test_write_similarities_new_table_is_the_oracle(tmp_path, metric, number):
    """openai-to-sqlite's columns; for each entry the nearest others, never itself."""
    path = write(tmp_path / "a.db", NUMBERS, metric)
    counts = run(path, number=number)
    pairs = expected(NUMBERS, number, metric)
    assert rows(path) == pairs
    usable = sum(any(v) for v in NUMBERS.values())
    assert counts == SimilarityCounts(
        usable, len(NUMBERS) - usable, usable, len(pairs), len(pairs), 0, 0
    )
    assert query(path, "select name, type, pk from pragma_table_info('similarities')") == [
        ("id", "TEXT", 1),
        ("other_id", "TEXT", 2),
        ("score", "FLOAT", 0),
    ]


@pytest.mark.parametrize("only_changed", [True, False])
def test_write_similarities_nothing_new_writes_nothing(db, only_changed):
    """Not a byte of the file changes."""
    run(db)
    before = db.read_bytes()
    counts = run(db, only_changed=only_changed)
    assert (counts.added, counts.changed, counts.removed) == (0, 0, 0)
    assert counts.computed == (0 if only_changed else counts.entries)
    assert db.read_bytes() == before


def test_write_similarities_only_changed_writes_only_what_differs(db, monkeypatch):
    """A new entry is nobody's neighbour: its own pairs come, and nobody else is looked at."""
    vectors = {f"{n}": [n + 1.0, 1.0, 0.0] for n in range(8)}
    path = write(db.with_name("b.db"), vectors)
    run(path, number=2)
    before = rows(path)
    change(path, {"far": [0.0, 0.0, 1.0]})
    counts = run(path, number=2, only_changed=True)
    assert (counts.computed, counts.added, counts.changed, counts.removed) == (1, 2, 0, 0)
    assert [row for row in rows(path) if row[0] != "far"] == before


def test_write_similarities_after_edits_pairs_that_no_longer_hold_go(db):
    """Changed, deleted and new entries: a full run leaves what a new table would have."""
    run(db)
    edits = {"id000": None, "id001": [1.0, 1.0, 1.0, 1.0], "new": [0.0, 1.0, 0.0, 0.0]}
    change(db, edits)
    run(db)
    vectors = {i: v for i, v in (NUMBERS | edits).items() if v is not None}
    assert rows(db) == expected(vectors, 10)


def test_write_similarities_collection_emptied_table_emptied(db):
    """The table stays, without rows; and fills again."""
    run(db)
    change(db, dict.fromkeys(NUMBERS))
    counts = run(db, only_changed=True)
    assert (counts.entries, counts.pairs) == (0, 0)
    assert rows(db) == []
    change(db, NUMBERS)
    run(db, only_changed=True)
    assert rows(db) == expected(NUMBERS, 10)


VECTORS = st.tuples(*[st.integers(-2, 2)] * 3).map(lambda v: [float(x) for x in v])
EDITS = st.dictionaries(
    st.sampled_from(["", "a", "b", "c", "d", "e", "f%", "é"]), st.none() | VECTORS, max_size=5
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    steps=st.lists(EDITS, min_size=1, max_size=4),
    number=st.integers(1, 4),
    metric=st.sampled_from(["cosine", "dot"]),
)
def test_only_changed_is_a_full_run_is_the_oracle(steps, number, metric):
    """After any edits: added, changed, deleted, equal to another, zero."""
    start = {"a": [1.0, 0.0, 0.0], "b": [1.0, 1.0, 0.0], "c": [1.0, 0.0, 0.0]}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.db", start, metric)
        run(path, number=number)
        vectors = dict(start)
        for edits in steps:
            change(path, edits)
            vectors = {i: v for i, v in (vectors | edits).items() if v is not None}
            run(path, number=number, only_changed=True)
            run(path, table="fresh", number=number)
            assert rows(path) == rows(path, "fresh") == expected(vectors, number, metric)
            execute(path, "drop table fresh")


def test_only_changed_random_floats_same_bits_as_a_full_run(tmp_path, monkeypatch):
    """Scores that no arithmetic gives exactly; work cut up differently."""
    vectors = gaussian(200, 24)
    path = write(tmp_path / "a.db", vectors)
    run(path)
    edits = gaussian(12, 24, seed=5) | {"id199": None, "twin": vectors["id150"]}
    change(path, edits)
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", 3_000)
    counts = run(path, only_changed=True)
    assert 0 < counts.computed < counts.entries
    monkeypatch.undo()
    run(path, table="fresh")
    assert rows(path) == rows(path, "fresh")


@pytest.mark.parametrize(
    "damage",
    [
        "delete from similarities where id = 'id003'",
        "delete from similarities where rowid % 7 = 0",
        "update similarities set score = 'x' where rowid % 7 = 0",
        "update similarities set other_id = 'nobody' where rowid % 10 = 0",
        "insert into similarities values ('id003', 'nobody', 2.0), ('gone', 'id001', 0.5)",
        "insert or ignore into similarities select 'id003', id, 0.5 from embeddings",
        "delete from _embed_similarity_entries where entry_id > 'id010'",
        "delete from _embed_similarities",
        "drop table similarities",
    ],
)
def test_only_changed_table_changed_by_hand_is_mended(db, damage):
    """Pairs that are missing, too many or damaged are computed anew."""
    run(db)
    if damage == "delete from _embed_similarities":
        execute(db, "drop table similarities")  # without its origin it is somebody else's
    execute(db, damage)
    run(db, only_changed=True)
    assert rows(db) == expected(NUMBERS, 10)


@pytest.mark.parametrize(
    "changed",
    [
        "update _embed_collections set fingerprint = 'other'",
        "update _embed_collections set metric = 'dot'",
        "update _embed_collections set model = 'n'; update collections set model = 'n'",
    ],
)
def test_only_changed_other_model_or_metric_computes_all(db, changed):
    """What the table was made of is not what is there now."""
    run(db)
    execute(db, *changed.split("; "))
    counts = run(db, only_changed=True)
    assert counts.computed == counts.entries
    metric = query(db, "select metric from _embed_collections")[0][0]
    assert rows(db) == expected(NUMBERS, 10, metric)
    assert run(db, only_changed=True).computed == 0


def test_only_changed_other_number_computes_all(db):
    """More or fewer neighbours than last time."""
    run(db)
    for number in (3, 12):
        assert run(db, number=number, only_changed=True).computed > 0
        assert rows(db) == expected(NUMBERS, number)


def test_only_changed_renamed_collection_is_still_its_own(db):
    """It is the same collection: nothing is computed, and the new name is noted."""
    run(db)
    execute(db, "update collections set name = 'new'", "update _embed_collections set name = 'new'")
    assert run(db, "new", only_changed=True).computed == 0
    assert query(db, "select collection from _embed_similarities") == [("new",)]


def test_write_similarities_first_run_with_only_changed_is_a_full_one(db):
    """In continuous integration the first run and the next are one command."""
    run(db, only_changed=True)
    assert rows(db) == expected(NUMBERS, 10)


def test_write_similarities_two_tables_do_not_disturb_each_other(db):
    """Each has its own number and its own notes; names are compared without case."""
    run(db)
    run(db, table='odd "name"', number=2)
    change(db, {"id001": None})
    counts = run(db, table='ODD "name"', number=2, only_changed=True)
    assert counts.computed < counts.entries
    left = {i: v for i, v in NUMBERS.items() if i != "id001"}
    assert rows(db, '"odd ""name"""') == expected(left, 2)
    assert rows(db) == expected(NUMBERS, 10)


@pytest.mark.parametrize(
    ("table", "statement", "words"),
    [
        ("mine", "create table mine (id, other_id, score)", "has a table 'mine' that was not made"),
        ("MINE", "create table mine (x)", "has a table 'MINE' that was not made here: choose anot"),
        ("v", "create view v as select 1", "has a view 'v' that was not made here"),
        ("i", "create index i on collections (model)", "has an index 'i'"),
        ("embeddings", "", "the name 'embeddings' is taken: choose another with --table"),
        ("Collections", "", "the name 'Collections' is taken"),
        ("_embed_mine", "", "the name '_embed_mine' is taken"),
        ("sqlite_x", "", "the name 'sqlite_x' is taken"),
        ("_sqlite_migrations", "", "the name '_sqlite_migrations' is taken"),
    ],
)
def test_write_similarities_name_in_use_refused_unchanged(db, table, statement, words):
    """Views, tables of others, LLM's and ours."""
    execute(db, *([statement] if statement else []))
    before = db.read_bytes()
    with pytest.raises(SourceError) as raised:
        run(db, table=table)
    assert words in str(raised.value)
    assert db.read_bytes() == before


def test_write_similarities_table_of_another_collection_refused_unchanged(db):
    """The message names the collection."""
    run(db)
    write(db, {"a": [1.0], "b": [2.0]}, name="other")
    before = db.read_bytes()
    with pytest.raises(SourceError, match="table 'similarities' belongs to collection 'docs'"):
        run(db, "other")
    assert db.read_bytes() == before
    run(db, "other", table="others")
    assert rows(db, "others") == [("a", "b", 1.0), ("b", "a", 1.0)]


def test_write_similarities_own_table_replaced_by_another_refused(db):
    """A table of that name with other columns is somebody else's."""
    run(db)
    execute(db, "drop table similarities", "create table similarities (x)")
    with pytest.raises(SourceError, match="was not made here"):
        run(db)


def test_write_similarities_bad_input_refused_unchanged(db):
    """No such collection, no neighbours wanted, half of a new model."""
    before = db.read_bytes()
    with pytest.raises(CollectionNotFoundError, match="Collections in this file: docs"):
        run(db, "nope")
    with pytest.raises(ValueError, match="number must be at least 1, not 0"):
        run(db, number=0)
    assert db.read_bytes() == before
    execute(db, "update _embed_collections set rebuilding = 1")
    with pytest.raises(OutdatedCollectionError, match="only partly embedded"):
        run(db)
    assert query(db, "select 1 from sqlite_master where name = 'similarities'") == []


@pytest.mark.parametrize("step", ["_write_pairs", "_write_origin", "find_neighbors"])
def test_write_similarities_interrupted_old_table_whole(db, monkeypatch, step):
    """Whatever the moment: all of the new pairs and notes, or all of the old."""
    run(db)
    before, noted = rows(db), notes(db)
    change(db, {"id001": [1.0, 1.0, 1.0, 1.0], "id002": None})
    real = getattr(similarities, step)

    def interrupted(*arguments, **options):
        real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(similarities, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(db, only_changed=True)
    assert (rows(db), notes(db)) == (before, noted)


def test_write_similarities_written_to_meanwhile_next_run_catches_up(db, monkeypatch):
    """Vectors that change during the computation are changed ones for the next run."""
    run(db)
    real = similarities.find_neighbors

    def meanwhile(*arguments, **options):
        change(db, {"id005": [1.0, 2.0, 3.0, 4.0]})
        return real(*arguments, **options)

    monkeypatch.setattr(similarities, "find_neighbors", meanwhile)
    run(db)
    assert rows(db) == expected(NUMBERS, 10)
    monkeypatch.undo()
    run(db, only_changed=True)
    assert rows(db) == expected(NUMBERS | {"id005": [1.0, 2.0, 3.0, 4.0]}, 10)


@pytest.mark.parametrize(
    ("statements", "error", "words"),
    [
        (
            ("delete from embeddings", "delete from collections"),
            CollectionNotFoundError,
            "'docs' does not exist",
        ),
        (("create view similarities as select 1",), SourceError, "has a view 'similarities'"),
    ],
)
def test_write_similarities_ground_lost_meanwhile_refused(
    db, monkeypatch, statements, error, words
):
    """What was checked at the beginning is checked again before it is written."""
    real = similarities.find_neighbors

    def meanwhile(*arguments, **options):
        execute(db, *statements)
        return real(*arguments, **options)

    monkeypatch.setattr(similarities, "find_neighbors", meanwhile)
    with pytest.raises(error, match=words):
        run(db)
    assert notes(db) == ([], [])


@pytest.mark.parametrize("by", ["store", "LLM"])
def test_collection_deleted_its_notes_go_and_the_table_stays(db, by):
    """By our code and by a tool that knows only LLM's tables."""
    run(db)
    if by == "store":
        with closing(open_database(db, writable=True)) as conn, write_transaction(conn):
            Store(conn).delete_collection(Store(conn).get_collection("docs"))
    else:
        execute(db, "delete from embeddings", "delete from collections")
    [(table, collection_id, collection, *_)], digests = notes(db)
    assert (table, collection_id, collection, digests) == ("similarities", 0, "docs", [])
    assert rows(db) == expected(NUMBERS, 10)


def test_collection_deleted_and_made_again_takes_its_table_on(db):
    """A job that runs every night goes on; the collection of another name is refused."""
    run(db)
    execute(db, "delete from embeddings", "delete from collections")
    write(db, {"x": [1.0, 2.0], "y": [2.0, 1.0]}, name="docs")
    assert run(db, only_changed=True).computed == 2
    assert {row[:2] for row in rows(db)} == {("x", "y"), ("y", "x")}
    execute(db, "delete from embeddings", "delete from collections")
    write(db, NUMBERS, name="other")
    with pytest.raises(SourceError, match="belongs to collection 'docs'"):
        run(db, "other")


def test_write_similarities_file_made_by_llm_gets_our_tables_only_now(tmp_path):
    """A file without our tables is taken as it is."""
    path = write(tmp_path / "a.db", NUMBERS)
    ours = query(
        path,
        "select type, name from sqlite_master where name like '\\_embed\\_%' escape '\\'"
        " and type in ('table', 'trigger') order by type desc",
    )
    execute(path, *[f"drop {kind} {name}" for kind, name in ours])
    run(path)
    assert rows(path) == expected(NUMBERS, 10)
    assert run(path, only_changed=True).computed == 0


def test_write_similarities_more_entries_than_a_window(tmp_path, monkeypatch):
    """Writing in windows of ids changes nothing, whatever the first and the last id are."""
    monkeypatch.setattr(similarities, "_WINDOW", 7)
    path = write(tmp_path / "a.db", NUMBERS)
    run(path)
    edits = {"id000": None, "id039": None, "a": [1.0, 0.0, 0.0, 0.0], "z": [0.0, 1.0, 0.0, 0.0]}
    change(path, edits)
    run(path, only_changed=True)
    vectors = {i: v for i, v in (NUMBERS | edits).items() if v is not None}
    assert rows(path) == expected(vectors, 10)
    counts = run(path)
    assert (counts.added, counts.changed, counts.removed) == (0, 0, 0)


def test_rename_collection_keeps_its_table_from_another_of_the_old_name(db):
    """The name noted with the table follows; who comes after is refused the table."""
    run(db)
    with closing(open_database(db, writable=True)) as conn, write_transaction(conn):
        Store(conn).rename_collection(Store(conn).get_collection("docs"), "new")
    assert query(db, "select collection_id, collection from _embed_similarities") == [(1, "new")]
    write(db, {"x": [1.0, 2.0], "y": [2.0, 1.0]}, name="docs")
    with pytest.raises(SourceError, match="belongs to collection 'new'"):
        run(db, "docs")
    assert rows(db) == expected(NUMBERS, 10)
    assert run(db, "new", only_changed=True).computed == 0
