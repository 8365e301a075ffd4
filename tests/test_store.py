"""Collections and entries as rows."""

from __future__ import annotations

import hashlib
from contextlib import closing
from itertools import islice

import pytest

from datasette_embed.database import open_database
from datasette_embed.errors import (
    CollectionNotFoundError,
    EntryNotFoundError,
    ModelMismatchError,
)
from datasette_embed.records import CollectionRecord, EntryWarning, NewEntry, Refresh, content_hash
from datasette_embed.schema import ensure_schema
from datasette_embed.store import Store
from tests.fakes import CountingModel
from tests.storage import blob_of, make_docs, run_job


@pytest.fixture
def conn(tmp_path):
    """A connection to a file with the tables."""
    with closing(open_database(tmp_path / "a.db", writable=True, create=True)) as conn:
        ensure_schema(conn, "a.db")
        yield conn


@pytest.fixture
def store(conn):
    """The collections of that file."""
    return Store(conn)


@pytest.fixture
def collection(store):
    """An empty collection."""
    return store.create_collection(CollectionRecord(0, "docs", "m", fingerprint="m@1"))


def entry(entry_id, text="x", **options):
    return NewEntry(entry_id, blob_of(text), content_hash(text), **options)


@pytest.mark.parametrize("content", ["", "naïve 🎉", "a\0b", b"\x00\xff"])
def test_content_hash_is_md5(content):
    """LLM's hash, of the text's UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    assert content_hash(content) == hashlib.md5(data).digest()


def test_create_collection_all_settings_come_back(store):
    """What is written is what is read."""
    record = CollectionRecord(
        0,
        "docs",
        "m",
        dimensions=3,
        metric="dot",
        fingerprint="m@1",
        source={"table": "é"},
        store=True,
        created_at="now",
    )
    made = store.create_collection(record)
    assert made == CollectionRecord(
        1, "docs", "m", 3, "dot", "m@1", {"table": "é"}, True, False, "now"
    )
    assert store.list_collections() == [made]
    assert store.find_collection("docs") == store.get_collection("docs") == made


def test_create_collection_other_model_refused(store, collection):
    """Vectors of two models cannot be compared."""
    with pytest.raises(ModelMismatchError, match="was made with m, not other"):
        store.create_collection(CollectionRecord(0, "docs", "other", fingerprint="o"))


def test_get_collection_unknown_lists_known(store, collection):
    """The names there are."""
    assert store.find_collection("nope") is None
    with pytest.raises(CollectionNotFoundError, match="Collections in this file: docs"):
        store.get_collection("nope")


def test_settings_of_another_collection_of_that_id_not_taken(conn, store, collection):
    """A tool without our triggers may leave our row behind, and reuse the id."""
    for change in ("name = 'other'", "model = 'other'"):
        conn.execute(f"update collections set {change}")
        (found,) = store.list_collections()
        assert (found.fingerprint, found.created_at) == (None, None)


@pytest.mark.parametrize(
    ("blobs", "dimensions"),
    [
        ([], None),
        ([b"1234" * 3], 3),
        ([None, "12345678", b"", b"123", b"12345678"], 2),
        (["1234", "1234", b"12345678"], 2),
        ([b"1234", b"12345678", b"12345678"], 2),
        ([b""], None),
    ],
)
def test_dimensions_not_recorded_are_those_of_most_vectors(conn, store, blobs, dimensions):
    """For a collection that another tool made."""
    conn.execute("insert into collections (name, model) values ('llm', 'm')")
    conn.executemany(
        "insert into embeddings (collection_id, id, embedding) values (1, ?, ?)",
        list(enumerate(blobs)),
    )
    assert store.get_collection("llm").dimensions == dimensions


@pytest.mark.parametrize("entry_id", ["a", "é🎉", "100%", "a_b", "a'b\"c", "", " ", '["x"]', "\\"])
def test_entries_odd_ids_are_found_again(store, collection, entry_id):
    """Ids go through JSON and come out as they were."""
    store.write_entries(collection.id, [entry(entry_id, content="text")])
    assert list(store.find_states(collection.id, [entry_id, "other"])) == [entry_id]
    assert store.find_contents(collection.id, [entry_id]) == {entry_id: "text"}
    assert store.delete_entries(collection.id, [entry_id]) == 1
    assert store.count(collection.id) == 0


def test_write_entries_replaces_and_keeps_metadata(conn, store, collection):
    """One row an id; what another tool noted stays."""
    warning = (EntryWarning.TRUNCATED, 9, 1)
    store.write_entries(collection.id, [entry("a", warnings=(warning,)), entry("b")])
    conn.execute("update embeddings set metadata = 'kept', content_blob = x'00'")
    assert store.count_warnings(collection.id) == {EntryWarning.TRUNCATED: 1}
    assert store.list_warnings(collection.id, EntryWarning.TRUNCATED, 5) == [("a", 9, 1)]
    store.write_entries(collection.id, [entry("a", "y", content="y")], keep_metadata=True)
    rows = conn.execute(
        "select id, embedding, content, content_blob, content_hash, metadata from embeddings"
    ).fetchall()
    assert sorted(rows) == [
        ("a", blob_of("y"), "y", None, content_hash("y"), "kept"),
        ("b", blob_of("x"), None, b"\x00", content_hash("x"), "kept"),
    ]
    assert store.count_warnings(collection.id) == {}


def test_find_states_and_hashes_of_this_collection_only(store, collection):
    """Another collection's vectors belong to another model, perhaps."""
    other = store.create_collection(CollectionRecord(0, "other", "m2", fingerprint="m2"))
    store.write_entries(other.id, [entry("a")])
    assert store.find_states(collection.id, ["a"]) == {}
    assert list(store.iter_by_hash(collection.id, [content_hash("x")])) == []
    assert list(store.iter_by_hash(other.id, [content_hash("x")])) == [
        (content_hash("x"), blob_of("x"))
    ]
    assert list(store.iter_by_hash(other.id, [content_hash("y")])) == []


def test_set_fingerprint_every_hash_goes_vectors_stay(conn, store, collection):
    """The collection stays searchable while it is embedded again."""
    store.write_entries(collection.id, [entry("a"), entry("b")])
    store.set_fingerprint(collection, "m@2")
    assert {s.content_hash for s in store.find_states(collection.id, ["a", "b"]).values()} == {None}
    assert list(store.iter_by_hash(collection.id, [content_hash("x")])) == []
    assert store.get_embedding(collection, "a") == blob_of("x")
    assert store.get_collection("docs").fingerprint == "m@2"


@pytest.mark.parametrize("value", [None, "text", 5, 1.5])
def test_get_embedding_no_blob_is_empty(conn, store, collection, value):
    """Whatever a damaged file holds, bytes come back."""
    conn.execute(
        "insert into embeddings (collection_id, id, embedding) values (1, 'a', ?)", (value,)
    )
    assert store.get_embedding(collection, "a") == b""
    with pytest.raises(EntryNotFoundError, match="'docs' has no entry with the id 'b'"):
        store.get_embedding(collection, "b")


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_iter_embeddings_by_id_each_once(store, collection, window):
    """Also the entry whose id is empty."""
    ids = ["", " ", "10", "9", "a", "é"]
    store.write_entries(collection.id, [entry(i) for i in reversed(ids)])
    windows = list(store.iter_embeddings(collection.id, window))
    assert [i for rows in windows for i, _ in rows] == ids
    assert max(map(len, windows)) <= window


@pytest.mark.parametrize("text_factory", [str, lambda data: data.decode("utf-8", "replace")])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_iter_embeddings_ids_that_are_no_text_come_once(tmp_path, encoding, text_factory):
    """The byte 0xFF reads as U+FFFD, which comes before it: no window is read again for that."""
    with closing(open_database(tmp_path / "b.db", writable=True, create=True)) as conn:
        conn.execute(f"pragma encoding = '{encoding}'")
        ensure_schema(conn, "b.db")
        sql = "insert into embeddings (collection_id, id, embedding) values (1, cast(? as text), ?)"
        for entry_id in ("1", "é", "z"):
            conn.execute(sql, (entry_id, b"v"))
        bad = "ff" if encoding == "UTF-8" else "ffdc"
        conn.execute(sql.replace("?", f"x'{bad}'", 1), (b"w",))
        conn.text_factory = text_factory
        windows = list(islice(Store(conn).iter_embeddings(1, 1), 9))
    assert [rows[0] for rows in windows] == [
        ("1", b"v"),
        ("z", b"v"),
        ("é", b"v"),
        ("\ufffd", b"w"),
    ]


def test_write_contents_vectors_stay(store, collection):
    """--store later."""
    store.write_entries(collection.id, [entry("a")])
    seen = content_hash("x")
    changed = [Refresh("a", seen, "text"), Refresh("gone", seen, "x"), Refresh("a", b"old", "old")]
    store.refresh_entries(collection.id, changed)
    assert store.find_contents(collection.id, ["a", "gone"]) == {"a": "text"}
    assert store.get_embedding(collection, "a") == blob_of("x")


def test_delete_collection_nothing_left_others_stay(conn, store, collection):
    """Its jobs and failures go as well."""
    other = store.create_collection(CollectionRecord(0, "other", "m2", fingerprint="m2"))
    for record in (collection, other):
        store.write_entries(record.id, [entry("a")])
        conn.execute(
            "insert into _embed_jobs (collection_id, collection, model_id, status, created_at)"
            " values (?, 'x', 'm', 'paused', 'now')",
            (record.id,),
        )
        conn.execute(
            "insert into _embed_failures (job_id, entry_id, message, attempts)"
            " values (?, 'a', 'm', 1)",
            (record.id,),
        )
    assert store.delete_collection(collection) == 1
    assert [record.name for record in store.list_collections()] == ["other"]
    for table in ("embeddings", "_embed_jobs", "_embed_failures", "_embed_generations"):
        assert conn.execute(f"select count(*) from {table}").fetchone() == (1,), table


def test_generation_grows_with_every_write(store, collection):
    """A search that caches knows when to look again."""
    assert store.generation(collection.id) is None
    store.write_entries(collection.id, [entry("a")])
    first = store.generation(collection.id)
    store.write_entries(collection.id, [entry("a", "y")])
    assert store.generation(collection.id) > first


def test_create_collection_that_is_in_our_care_changes_nothing(conn, store):
    """Whoever was first has made it; the second gets what is there."""
    made = store.create_collection(
        CollectionRecord(
            0,
            "docs",
            "m",
            dimensions=3,
            metric="dot",
            fingerprint="m@1",
            store=True,
            source={"table": "t"},
        )
    )
    before = conn.execute("select * from _embed_collections").fetchall()
    again = store.create_collection(
        CollectionRecord(0, "docs", "m", dimensions=8, metric="cosine", fingerprint="m@2")
    )
    assert again == made
    assert conn.execute("select * from _embed_collections").fetchall() == before


def test_iter_embeddings_with_size_yields_none_for_every_other(conn, store, collection):
    """Of a stranger's value nothing but its absence is read, however much it holds."""
    sound = blob_of("a")
    for entry_id, value in (("a", sound), ("b", b"x"), ("d", None), ("e", sound)):
        conn.execute(
            "insert into embeddings (collection_id, id, embedding) values (?, ?, ?)",
            (collection.id, entry_id, value),
        )
    conn.execute("insert into embeddings (collection_id, id, embedding) values (1, 'c', 5)")
    windows = store.iter_embeddings(collection.id, 2, size=len(sound))
    assert list(windows) == [
        [("a", sound), ("b", None)],
        [("c", None), ("d", None)],
        [("e", sound)],
    ]


def test_iter_by_hash_of_many_reads_no_other_entries(tmp_path):
    """More than one statement may ask for, by the index of hashes."""
    path = make_docs(tmp_path / "a.db", [(n, f"text {n}") for n in range(2_000)])
    run_job(path, CountingModel())
    with closing(open_database(path)) as conn:
        store = Store(conn)
        collection = store.get_collection("docs")
        asked = [content_hash(f"text {n}") for n in range(1_990, 3_000)]
        statements = []
        conn.set_trace_callback(statements.append)
        found = dict(store.iter_by_hash(collection.id, asked))
        conn.set_trace_callback(None)
        plan = " ".join(row[3] for row in conn.execute(f"explain query plan {statements[0]}"))
    assert found == {content_hash(f"text {n}"): blob_of(f"text {n}") for n in range(1_990, 2_000)}
    assert (len(statements), "idx_embeddings_content_hash" in plan) == (2, True)
