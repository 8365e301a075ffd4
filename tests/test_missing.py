"""What is missing: rows beside what is stored for them, and vectors that are there already."""

from __future__ import annotations

import math
import struct
from contextlib import closing

import pytest

from datasette_embed.database import open_database, write_transaction
from datasette_embed.missing import KnownVectors, MissingContent, compare, warnings_of
from datasette_embed.models import Reading
from datasette_embed.records import (
    CollectionRecord,
    EntryWarning,
    NewEntry,
    Refresh,
    Row,
    content_hash,
)
from datasette_embed.schema import ensure_schema
from datasette_embed.store import Store
from tests.fakes import CountingModel
from tests.storage import blob_of


@pytest.fixture
def store(tmp_path):
    """A file with all tables."""
    with closing(open_database(tmp_path / "a.db", writable=True, create=True)) as conn:
        ensure_schema(conn, "a.db")
        yield Store(conn)


@pytest.fixture
def collection(store):
    """An empty collection of eight dimensions."""
    return store.create_collection(
        CollectionRecord(0, "c", "counting", fingerprint="counting", dimensions=8)
    )


@pytest.fixture
def model():
    """A model of texts and bytes."""
    return CountingModel()


def put(store, collection, entry_id, text, blob=None, **options):
    """Store an entry of this text."""
    blob = blob_of(text) if blob is None else blob
    new = NewEntry(entry_id, blob, content_hash(text), **options)
    store.write_entries(collection.id, [new])


def compared(store, collection, model, *rows, store_content=False, **options):
    rows = [Row(*row) if isinstance(row, tuple) else row for row in rows]
    states = store.find_states(collection.id, [row.entry_id for row in rows])
    options.setdefault("dimensions", collection.dimensions)
    return compare(rows, states, model, store_content=store_content, **options)


# compare


def test_compare_nothing_stored_everything_missing(store, collection, model):
    """One item a distinct content, with the ids and the metadata of all that carry it."""
    rows = [Row("1", "a", metadata='{"n": 1}'), Row("2", "b"), Row("3", "a")]
    found = compared(store, collection, model, *rows)
    assert [(item.content, item.content_hash) for item in found.missing] == [
        ("a", content_hash("a")),
        ("b", content_hash("b")),
    ]
    assert [(i.entry_ids, [row.metadata for row in i.rows]) for i in found.missing] == [
        (["1", "3"], ['{"n": 1}', None]),
        (["2"], [None]),
    ]
    assert (found.refreshes, found.unchanged) == ([], 0)


def test_compare_own_hash_decides(store, collection, model):
    """The same content under another id does not make this one up to date."""
    put(store, collection, "1", "a")
    put(store, collection, "2", "b")
    found = compared(store, collection, model, ("1", "a"), ("2", "a"), ("3", "b"))
    assert [(item.content, item.entry_ids) for item in found.missing] == [
        ("a", ["2"]),
        ("b", ["3"]),
    ]
    assert found.unchanged == 1


@pytest.mark.parametrize("blob", [b"", b"odd", b"\0" * 28, b"\0" * 36])
def test_compare_vector_of_wrong_length_is_missing(store, collection, model, blob):
    """A damaged vector is made again, whatever its hash."""
    put(store, collection, "1", "a", blob)
    assert [i.entry_ids for i in compared(store, collection, model, ("1", "a")).missing] == [["1"]]


def test_compare_no_vector_or_no_hash_is_missing(store, collection, model):
    """NULL in either place."""
    put(store, collection, "1", "a")
    put(store, collection, "2", "b")
    store.conn.execute("update embeddings set embedding = null where id = '1'")
    store.conn.execute("update embeddings set content_hash = null where id = '2'")
    found = compared(store, collection, model, ("1", "a"), ("2", "b"))
    assert [item.entry_ids for item in found.missing] == [["1"], ["2"]]


@pytest.mark.parametrize(
    ("stored", "stored_metadata", "metadata", "store_content", "expected"),
    [
        (None, None, None, False, None),
        (None, None, None, True, Refresh("1", content_hash("a"), "a", None)),
        ("a", None, None, True, None),
        ("a", None, '{"n": 1}', False, Refresh("1", content_hash("a"), None, '{"n": 1}')),
        ("a", '{"n": 1}', '{"n": 1}', True, None),
        (None, '{"n": 1}', '{"n": 2}', True, Refresh("1", content_hash("a"), "a", '{"n": 2}')),
    ],
)
def test_compare_unchanged_content_says_what_to_write_beside_it(
    store, collection, model, stored, stored_metadata, metadata, store_content, expected
):
    """Content that is not stored yet, metadata that is another; never the vector."""
    put(store, collection, "1", "a", content=stored, metadata=stored_metadata)
    row = Row("1", "a", metadata=metadata)
    found = compared(store, collection, model, row, store_content=store_content)
    assert found.missing == []
    assert found.refreshes == ([expected] if expected else [])
    assert found.unchanged == (0 if expected else 1)


def test_compare_metadata_gone_from_the_row_stays_stored(store, collection, model):
    """None says nothing about what is stored."""
    put(store, collection, "1", "a", metadata='{"n": 1}')
    assert compared(store, collection, model, Row("1", "a")).unchanged == 1


def test_compare_text_and_bytes_are_two_contents(store, collection, model):
    """For a model of both; for one of bytes only the hash is LLM's."""
    found = compared(store, collection, model, ("1", "zq"), ("2", b"zq"), ("3", b"\xff"))
    hashes = [item.content_hash for item in found.missing]
    assert len(set(hashes)) == 3
    assert (hashes[0], hashes[2]) == (content_hash("zq"), content_hash(b"\xff"))
    model.supports_text = False
    found = compared(store, collection, model, ("2", b"zq"))
    assert [item.content_hash for item in found.missing] == [content_hash(b"zq")]


def test_compare_own_digest_is_used_on_both_sides(store, collection, model):
    """What counts as the same content is the caller's to say."""
    store.write_entries(collection.id, [NewEntry("1", blob_of("A"), b"a")])
    found = compared(
        store, collection, model, ("1", "A"), ("2", "a"), digest=lambda c: c.lower().encode()
    )
    assert found.unchanged == 1
    assert [item.content_hash for item in found.missing] == [b"a"]


def test_compare_other_collection_not_looked_at(store, collection, model):
    """Ids belong to one collection."""
    other = store.create_collection(CollectionRecord(0, "d", "m", fingerprint="m"))
    put(store, other, "1", "a")
    assert len(compared(store, collection, model, ("1", "a")).missing) == 1


# MissingContent


@pytest.mark.parametrize("keep", [False, True])
def test_new_entries_one_for_each_row(model, keep):
    """The vector is shared, metadata and content are not; the content is stored only when asked."""
    rows = [Row("1", "a b c"), Row("2", "A B C", metadata='{"n": 1}')]
    item = MissingContent(b"hash", rows)
    item.reading = Reading(5, 4, 2)
    model.max_tokens = 4
    warnings = ((EntryWarning.TRUNCATED, 5, 1), (EntryWarning.UNREADABLE, 5, 4))
    contents = ("a b c", "A B C") if keep else (None, None)
    assert item.new_entries(b"blob", model, store=keep) == [
        NewEntry("1", b"blob", b"hash", contents[0], None, warnings),
        NewEntry("2", b"blob", b"hash", contents[1], '{"n": 1}', warnings),
    ]


@pytest.mark.parametrize(
    ("reading", "max_tokens", "expected"),
    [
        (Reading(10), None, []),
        (Reading(10), 10, []),
        (Reading(11), 10, [(EntryWarning.TRUNCATED, 11, 1)]),
        (Reading(12, 2, 2), None, []),
        (Reading(12, 3, 2), None, [(EntryWarning.UNREADABLE, 12, 3)]),
        (
            Reading(12, 3, 2),
            8,
            [(EntryWarning.TRUNCATED, 12, 4), (EntryWarning.UNREADABLE, 12, 3)],
        ),
    ],
)
def test_warnings_of_what_a_model_does_not_read(reading, max_tokens, expected):
    """Beyond the limit, and more than a fifth unknown."""
    assert list(warnings_of(reading, max_tokens)) == expected


# KnownVectors


def test_known_vectors_found_under_any_id_of_this_collection(store, collection):
    """A content is known by its hash; another collection's is not."""
    other = store.create_collection(CollectionRecord(0, "d", "m", fingerprint="m"))
    put(store, collection, "1", "a")
    put(store, other, "2", "b")
    known = KnownVectors(store, collection.id)
    hashes = [content_hash("a"), content_hash("b"), content_hash("c")]
    assert known.find(iter(hashes), 8) == {hashes[0]: blob_of("a")}
    assert known.find(hashes, 4) == {}
    assert known.find(hashes, None) == {}
    assert known.find([], 8) == {}


@pytest.mark.parametrize(
    "blob",
    [b"", b"odd", struct.pack("<8f", *[0.0] * 8), struct.pack("<8f", math.nan, *[1.0] * 7)],
    ids=["empty", "odd", "zero", "nan"],
)
def test_known_vectors_unusable_is_not_known(store, collection, blob):
    """A damaged vector is not handed on."""
    put(store, collection, "1", "a", blob)
    assert KnownVectors(store, collection.id).find([content_hash("a")], 8) == {}


def test_known_vectors_damaged_twin_does_not_hide_the_sound_one(store, collection):
    """Of several rows of one content, a sound one is taken."""
    put(store, collection, "1", "a", b"odd")
    put(store, collection, "2", "a")
    known = KnownVectors(store, collection.id)
    assert known.find([content_hash("a")], 8) == {content_hash("a"): blob_of("a")}


def test_known_vectors_set_aside_survive_what_replaces_them(store, collection):
    """Contents may only have moved; what was set aside is known until the end of the run."""
    put(store, collection, "1", "a")
    put(store, collection, "2", "b")
    known = KnownVectors(store, collection.id)
    with write_transaction(store.conn):
        known.set_aside(["1", "2", "gone"])
        store.delete_entries(collection.id, ["1"])
        put(store, collection, "2", "c")
    hashes = [content_hash(text) for text in "abc"]
    assert known.find(hashes, 8) == {
        digest: blob_of(text) for digest, text in zip(hashes, "abc", strict=True)
    }
    assert KnownVectors(store, collection.id).find(hashes[:2], 8) == {}


def test_known_vectors_next_run_starts_without_those_set_aside(store, collection):
    """Another run on the same connection, of another collection too, knows only the file."""
    put(store, collection, "1", "a")
    first = KnownVectors(store, collection.id)
    with write_transaction(store.conn):
        first.set_aside(["1"])
        store.delete_entries(collection.id, ["1"])
    second = KnownVectors(store, collection.id)
    with write_transaction(store.conn):
        second.set_aside([])
    assert second.find([content_hash("a")], 8) == {}


def test_known_vectors_odd_ids_are_set_aside(store, collection):
    """Ids are text that is never parsed."""
    odd = ["é🎉", "100%", "a'b", 'a"b', "", "\ue000", "[1]"]
    for n, entry_id in enumerate(odd):
        put(store, collection, entry_id, f"t{n}")
    known = KnownVectors(store, collection.id)
    with write_transaction(store.conn):
        known.set_aside(odd)
        assert store.delete_entries(collection.id, odd) == len(odd)
    assert len(known.find([content_hash(f"t{n}") for n in range(len(odd))], 8)) == len(odd)
