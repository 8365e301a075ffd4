"""Batches of contents in hand: stored whole or not at all, beside what is known already."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from datasette_embed.database import open_database, sqlite3, write_transaction
from datasette_embed.entry_writer import EntryWriter, row_of
from datasette_embed.errors import (
    CollectionNotFoundError,
    DimensionMismatchError,
    OutdatedCollectionError,
    ProviderError,
    UnreadableTextError,
)
from datasette_embed.models import Kind
from datasette_embed.records import CollectionRecord, Row, content_hash
from datasette_embed.schema import ensure_schema
from datasette_embed.store import Store
from tests.engine_fakes import FailingModel
from tests.fakes import CountingModel
from tests.storage import blob_of, execute, query, stored


@pytest.fixture
def path(tmp_path):
    """Where the file is."""
    return tmp_path / "a.db"


@pytest.fixture
def store(path):
    """A file with the empty collection ``docs``."""
    with closing(open_database(path, writable=True, create=True)) as conn:
        ensure_schema(conn, str(path))
        store = Store(conn)
        store.create_collection(
            CollectionRecord(0, "docs", "counting", fingerprint="counting", dimensions=8)
        )
        yield store


@pytest.fixture
def model():
    """A model that counts."""
    return CountingModel()


def rows_of(*entries):
    return [Row(*entry) for entry in entries]


def write(store, model, *entries, keep=False, key=None, digest=content_hash):
    """Write one batch with a writer of its own, and return the writer."""
    writer = EntryWriter(store, "a.db", "docs", model, digest)
    writer.write(rows_of(*entries), store=keep, key=key)
    return writer


# Taking a collection on


def test_writer_collection_gone_refused(store, model):
    """It names the collection, and those there are."""
    with pytest.raises(CollectionNotFoundError, match="'gone' does not exist.*docs"):
        EntryWriter(store, "a.db", "gone", model, content_hash)


def test_writer_other_version_refused(store, model):
    """Two versions of a model are not mixed."""
    model.revision = "2"
    with pytest.raises(OutdatedCollectionError, match="another version of its model"):
        EntryWriter(store, "a.db", "docs", model, content_hash)


def test_writer_rebuilding_collection_refused(store, model):
    """Half of it is still of the old version."""
    store.conn.execute("update _embed_collections set rebuilding = 1")
    with pytest.raises(OutdatedCollectionError, match="only partly embedded"):
        EntryWriter(store, "a.db", "docs", model, content_hash)


def test_writer_collection_of_another_tool_taken_on(store, model):
    """Metric and fingerprint are the model's, the dimensions those of the stored vectors."""
    store.conn.execute("delete from _embed_collections")
    store.conn.execute(
        "insert into embeddings (collection_id, id, embedding) values (1, 'a', ?)", (b"\0" * 32,)
    )
    model.metric, model.dimensions = "dot", None
    writer = EntryWriter(store, "a.db", "docs", model, content_hash)
    assert store.get_collection("docs").fingerprint is None
    writer.write([Row("b", "text")], store=False, key=None)
    record = store.get_collection("docs")
    assert (record.metric, record.fingerprint, record.dimensions) == ("dot", "counting", 8)


def test_writer_known_collection_opening_changes_no_byte(store, model, path):
    """A writer that writes nothing writes nothing."""
    before = path.read_bytes()
    writer = EntryWriter(store, "a.db", "docs", model, content_hash)
    writer.write([], store=True, key=None)
    writer.check_readable()
    assert path.read_bytes() == before


# Writing


def test_write_batch_new_changed_known_and_unchanged_at_once(store, model, path):
    """One call of the model, for what nobody knows; one transaction for all of it."""
    write(store, model, ("1", "a"), ("2", "b"), ("3", "c"))
    model.calls.clear()
    changes = store.conn.total_changes
    write(store, model, ("1", "b"), ("2", "new"), ("3", "c"), ("4", "a"), ("5", "new"))
    assert model.calls == [["new"]]
    assert stored(path) == {
        "1": blob_of("b"),
        "2": blob_of("new"),
        "3": blob_of("c"),
        "4": blob_of("a"),
        "5": blob_of("new"),
    }
    assert store.conn.total_changes > changes
    assert not store.conn.in_transaction


def test_write_batch_is_cut_by_the_tokens_and_items_of_a_call(store, model, path):
    """As the batches of a job are; all of it is stored in one transaction, in its order."""
    model.max_batch_tokens = 8  # each of these texts has three or four
    texts = ["a", "b c", "d", "e f", "g"]
    write(store, model, *[(str(n), text) for n, text in enumerate(texts)])
    assert model.calls == [["a", "b c"], ["d", "e f"], ["g"]]
    assert stored(path) == {str(n): blob_of(text) for n, text in enumerate(texts)}
    model.calls.clear()
    model.batch_size = 1
    write(store, model, ("8", "h"), ("9", "i"))
    assert model.calls == [["h"], ["i"]]


def test_write_calls_of_different_dimensions_store_nothing(store, path):
    """Where neither the model nor the collection says how long its vectors are."""
    store.conn.execute("update _embed_collections set dimensions = null")
    lengths = iter((8, 4))

    class Changing(CountingModel):
        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            length = next(lengths)
            return [[1.0] * length for _ in items]

    model = Changing(dimensions=None, batch_size=1)
    with pytest.raises(DimensionMismatchError, match="8"):
        write(store, model, ("1", "a"), ("2", "b"))
    assert stored(path) == {}


def test_write_collection_that_stores_contents_goes_on_storing(store, model, path):
    """What the collection was made to keep is kept without being asked."""
    store.conn.execute("update _embed_collections set store = 1")
    write(store, model, ("1", "a"))
    assert query(path, "select id, content from embeddings") == [("1", "a")]
    execute(path, "update embeddings set content = null")
    write(store, model, ("1", "a"))
    assert query(path, "select id, content from embeddings") == [("1", "a")]
    assert model.calls == [["a"]]


def test_write_moved_contents_over_batches_no_call(store, model, path):
    """One writer knows what its earlier batches have replaced."""
    entries = [(str(n), f"text {n}") for n in range(6)]
    write(store, model, *entries)
    model.calls.clear()
    writer = EntryWriter(store, "a.db", "docs", model, content_hash)
    moved = [(str(n), f"text {(n + 1) % 6}") for n in range(6)]
    for entry in moved:
        writer.write(rows_of(entry), store=False, key=None)
    assert model.calls == []
    assert stored(path) == {entry_id: blob_of(text) for entry_id, text in moved}


def test_write_failure_nothing_of_the_batch_stored(store, model, path):
    """Neither the known contents nor what was only to be refreshed."""
    write(store, model, ("1", "a"), ("2", "b"))
    before = path.read_bytes()
    model.fails_with = RuntimeError("secret words")
    with pytest.raises(ProviderError, match="the model failed") as caught:
        write(store, model, ("1", "b"), ("2", "b", None, '{"n": 1}'), ("3", "new"), keep=True)
    assert "secret" not in str(caught.value)
    assert path.read_bytes() == before


def test_write_sqlite_fails_half_way_nothing_of_the_batch_stored(store, model, path):
    """The vectors and what stands beside them come in one transaction."""
    write(store, model, ("1", "a"), ("2", "b"))
    store.conn.execute(
        "create trigger refuse before insert on embeddings when new.id = '4'"
        " begin select raise(abort, 'no'); end"
    )
    before = path.read_bytes()
    entries = [("1", "b"), ("2", "b", None, '{"n": 1}'), ("3", "c"), ("4", "d")]
    with pytest.raises(sqlite3.IntegrityError, match="no"):
        write(store, model, *entries)
    assert path.read_bytes() == before
    store.conn.execute("drop trigger refuse")
    write(store, model, *entries)
    assert stored(path) == {str(n): blob_of(t) for n, t in enumerate("bbcd", 1)}


def test_write_model_of_unknown_dimensions_learns_them_once(store, path):
    """The first batch decides, and the next ones are held to it."""
    store.conn.execute("update _embed_collections set dimensions = null")

    class Shrinking(CountingModel):
        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            vectors = super().embed_batch(items, kind=kind, key=key)
            return vectors if len(self.calls) == 1 else [vector[:4] for vector in vectors]

    writer = EntryWriter(store, "a.db", "docs", Shrinking(dimensions=None), content_hash)
    writer.write(rows_of(("1", "a")), store=False, key=None)
    assert query(path, "select dimensions from _embed_collections") == [(8,)]
    writer.write(rows_of(("2", "a")), store=False, key=None)  # known: no call
    with pytest.raises(
        DimensionMismatchError, match="counting: a vector has 4 dimensions instead of 8"
    ):
        writer.write(rows_of(("3", "b")), store=False, key=None)
    assert set(stored(path)) == {"1", "2"}


def test_write_damaged_vector_is_made_again(store, model, path):
    """A hash beside a vector that cannot be one is no reason to leave it."""
    write(store, model, ("1", "a"))
    execute(path, "update embeddings set embedding = x'00'")
    write(store, model, ("1", "a"))
    assert stored(path) == {"1": blob_of("a")}
    assert model.calls == [["a"], ["a"]]


def test_write_long_text_warned_of(store, path):
    """What the model did not read of an entry is kept beside it, and goes with it."""
    model = CountingModel(max_tokens=4)
    write(store, model, ("1", "one two three"), ("2", "short"))
    warned = "select entry_id, warning, tokens, tokens_lost from _embed_warnings"
    assert query(path, warned) == [("1", "truncated", 5, 1)]
    write(store, model, ("1", "short"))
    assert query(path, warned) == []


def test_write_known_long_text_under_new_id_warned_of(store, path):
    """A vector that was there already speaks for no more of the text."""
    model = CountingModel(max_tokens=4)
    write(store, model, ("1", "one two three"))
    write(store, model, ("2", "one two three"))
    warned = "select entry_id, warning, tokens, tokens_lost from _embed_warnings order by 1"
    assert query(path, warned) == [("1", "truncated", 5, 1), ("2", "truncated", 5, 1)]


# Texts the model cannot read


def test_check_readable_names_what_was_left_out(store, model, path):
    """Over several batches; up to five ids, and the number of all."""
    writer = EntryWriter(store, "a.db", "docs", model, content_hash)
    writer.write(rows_of(("1", "a"), ("2", "ลอง"), ("3", "ลอง")), store=False, key=None)
    writer.write(rows_of(("4", "ดู"), ("5", "b")), store=False, key=None)
    assert set(stored(path)) == {"1", "5"}
    words = r"can make nothing of 3 of the entries, which were left out \(2, 3, 4\): they are"
    with pytest.raises(UnreadableTextError, match=words):
        writer.check_readable()


def test_check_readable_all_read_says_nothing(store, model, path):
    """A text of which a part is unknown is stored."""
    writer = write(store, model, ("1", "ลอง word"), ("2", b"\xff"))
    writer.check_readable()
    assert set(stored(path)) == {"1", "2"}


def test_write_only_unreadable_no_call(store, model, path):
    """A batch of nothing else reaches no model; other rows are refreshed all the same."""
    write(store, model, ("1", "a"))
    model.calls.clear()
    writer = write(store, model, ("2", "ลอง"), ("1", "a", None, '{"n": 1}'))
    assert model.calls == []
    assert query(path, "select id, metadata from embeddings") == [("1", '{"n": 1}')]
    with pytest.raises(UnreadableTextError, match="nothing of 1 of the entries.*2"):
        writer.check_readable()


# Rows


@pytest.mark.parametrize(
    ("given", "expected"), [(1, "1"), ("1", "1"), (0, "0"), (-5, "-5"), ("é", "é"), ("", "")]
)
def test_row_of_id_becomes_text(given, expected):
    """As SQLite would store it in a column of text."""
    assert row_of(given, "x", None).entry_id == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, None),
        ({}, None),
        ({"é": [1, {"b": None}]}, {"é": [1, {"b": None}]}),
        ({1: True}, {"1": True}),
    ],
)
def test_row_of_metadata_becomes_json(metadata, expected):
    """No metadata and empty metadata are the same, as in LLM."""
    found = row_of(1, "x", metadata).metadata
    assert (found and json.loads(found)) == expected


@pytest.mark.parametrize("entry_id", [None, b"a", "a\0b"])
def test_row_of_id_that_cannot_be_stored_refused(entry_id):
    """The id is shown as Python shows it."""
    with pytest.raises(ValueError, match="an id must be a number, or text without NUL"):
        row_of(entry_id, "x", None)


# A rebuild during the model's call


def test_write_rebuild_begun_meanwhile_refused_and_nothing_written(store, path):
    """Vectors of the old version do not come among those of the new one."""
    model = FailingModel()
    write(store, model, ("1", "a"))
    with closing(open_database(path, writable=True)) as other:

        def meanwhile(calls):
            with write_transaction(other):
                Store(other).set_fingerprint(Store(other).get_collection("docs"), "counting@2")

        model.after_call = meanwhile
        with pytest.raises(OutdatedCollectionError, match="another version of its model"):
            write(store, model, ("1", "b"), ("2", "c"), keep=True)
    assert stored(path) == {"1": blob_of("a")}
    assert query(path, "select content, content_hash from embeddings") == [(None, None)]
    assert query(path, "select fingerprint, rebuilding from _embed_collections") == [
        ("counting@2", 1)
    ]
