"""LLM's Python API: what is opened, made, stored, found and deleted, and what is refused."""

from __future__ import annotations

import json
import math
import os
import random
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlite_utils

from datasette_embed import Collection as PublicCollection
from datasette_embed import database
from datasette_embed.collection import Collection, Entry
from datasette_embed.database import open_database, sqlite3
from datasette_embed.errors import (
    CollectionNotFoundError,
    DimensionMismatchError,
    EntryNotFoundError,
    InvalidVectorError,
    ModelMismatchError,
    OutdatedCollectionError,
    ProviderError,
    SourceError,
    UnknownModelError,
)
from datasette_embed.models import Kind
from datasette_embed.records import content_hash
from datasette_embed.schema import TRIGGERS
from tests.engine_fakes import FailingModel
from tests.fakes import CountingModel, LlmStyleModel, vector_of
from tests.storage import blob_of, execute, expected, make_docs, query, run_job, stored

# As LLM 0.36 with sqlite-utils 4.2.1 makes it (sqlite_master of such a file).
LLM_FILE = (
    'CREATE TABLE "_sqlite_migrations" ("id" INTEGER PRIMARY KEY, "migration_set" TEXT,'
    ' "name" TEXT, "applied_at" TEXT)',
    'CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"'
    ' ON "_sqlite_migrations" ("migration_set", "name")',
    'CREATE TABLE "collections" ("id" INTEGER PRIMARY KEY, "name" TEXT, "model" TEXT)',
    'CREATE UNIQUE INDEX "idx_collections_name" ON "collections" ("name")',
    'CREATE TABLE "embeddings" ("collection_id" INTEGER REFERENCES "collections"("id"),'
    ' "id" TEXT, "embedding" BLOB, "content" TEXT, "content_blob" BLOB, "content_hash" BLOB,'
    ' "metadata" TEXT, "updated" INTEGER, PRIMARY KEY ("collection_id", "id"))',
    'CREATE INDEX "idx_embeddings_content_hash" ON "embeddings" ("content_hash")',
    *(
        "insert into _sqlite_migrations (migration_set, name, applied_at)"
        f" values ('llm.embeddings', '{name}', '2026-11-20 09:08:37.478141+00:00')"
        for name in (
            "m001_create_tables",
            "m002_foreign_key",
            "m003_add_updated",
            "m004_store_content_hash",
            "m005_add_content_blob",
        )
    ),
    "insert into collections values (1, 'docs', 'counting')",
    *(
        f"insert into embeddings values (1, '{n}', x'{blob_of(f'text {n}').hex()}', null, null,"
        f" x'{content_hash(f'text {n}').hex()}', null, 1700000000)"
        for n in range(3)
    ),
)
ODD_IDS = ["é🎉", "100%", "a_b", "a'b", 'a"b', "", " ", "x,y~2Fz", "\ue000", "\U0010ffff", "-1"]


@pytest.fixture
def path(tmp_path):
    """Where the file of a test is, or will be."""
    return tmp_path / "a.db"


@pytest.fixture
def model():
    """A model that nobody has registered."""
    return CountingModel()


@pytest.fixture
def docs(path, model):
    """A collection of three texts in a file; the model has forgotten its calls."""
    with Collection("docs", path, model=model) as collection:
        collection.embed_multi([(n, f"text {n}") for n in range(3)])
        model.calls.clear()
        yield collection


@pytest.fixture
def llm_file(path):
    """A file that LLM made, without anything of ours."""
    execute(path, *LLM_FILE)
    return path


def rows_of(path, columns="id, content, content_blob, metadata", name="docs"):
    """Return the stored rows of a collection, by id."""
    return query(
        path,
        f"select {columns} from embeddings where collection_id ="
        " (select id from collections where name = ?) order by id",
        (name,),
    )


def refusal(error, match, path, call, *arguments, **options):
    """Check that a call is refused and leaves the file as it is; return the error."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(error, match=match) as caught:
        call(*arguments, **options)
    assert (path.read_bytes() if path.exists() else None) == before
    return caught.value


def ids(entries):
    return [entry.id for entry in entries]


# Opening and making


def test_collection_is_the_public_one():
    """The class is what the package hands out, and its error is LLM's attribute."""
    assert PublicCollection is Collection
    assert issubclass(CollectionNotFoundError, Collection.DoesNotExist)
    assert issubclass(EntryNotFoundError, Collection.DoesNotExist)


@pytest.mark.parametrize("make", ["missing", "empty", "foreign", "other"])
def test_collection_create_false_missing_writes_nothing(path, model, make):
    """LLM makes its tables first and then refuses; here no byte changes."""
    if make == "empty":
        path.touch()
    elif make == "foreign":
        execute(path, "create table t (x)")
    elif make == "other":
        Collection("other", path, model=model).close()
    error = Collection.DoesNotExist if make != "missing" else SourceError
    words = "no such file" if make == "missing" else "Collection 'docs' does not exist"
    raised = refusal(error, words, path, Collection, "docs", path, create=False)
    assert make != "other" or raised.known == ["other"]
    assert [file.name for file in path.parent.iterdir()] == ([] if make == "missing" else ["a.db"])


@pytest.mark.parametrize("has_file", [False, True])
def test_collection_new_without_model_refused_and_nothing_made(path, has_file):
    """The words are LLM's; neither a file nor a table is left behind."""
    if has_file:
        execute(path, "create table t (x)")
    words = "Either model= or model_id= must be provided when creating a new collection"
    refusal(ValueError, words, path, Collection, "docs", path)


def test_collection_new_unknown_model_id_refused_and_nothing_made(path, counting_model):
    """The known ones are listed."""
    error = refusal(UnknownModelError, "nope", path, Collection, "docs", path, model_id="nope")
    assert "counting (count)" in error.known
    assert not path.exists()


def test_collection_new_has_all_attributes_at_once(path, counting_model):
    """An alias is resolved before it is stored; LLM's new collections have no model_id."""
    with Collection("docs", path, model_id="count") as collection:
        found = (collection.id, collection.name, collection.model_id, collection.count())
        assert found == (1, "docs", "counting", 0)
        assert collection.model() is counting_model
        assert isinstance(collection.db, sqlite_utils.Database)
    assert query(path, "select * from collections") == [(1, "docs", "counting")]


def test_collection_new_model_written_for_llm_taken(path):
    """An instance and a class of LLM's shape will do."""
    for name, model in (("a", LlmStyleModel()), ("b", LlmStyleModel)):
        with Collection(name, path, model=model) as collection:
            collection.embed(1, "x")
            assert collection.model_id == "llm-style"
        assert stored(path, name) == {"1": blob_of("x")}


@pytest.mark.parametrize("by", ["nothing", "alias", "id", "model"])
def test_collection_existing_opening_writes_nothing(path, counting_model, by):
    """However it is named, it is the same collection, and opening reads only."""
    Collection("docs", path, model=counting_model).close()
    before = path.read_bytes()
    options = {
        "nothing": {},
        "alias": {"model_id": "count"},
        "id": {"model_id": "counting"},
        "model": {"model": counting_model},
    }[by]
    with Collection("docs", path, **options) as collection:
        assert (collection.id, collection.model_id) == (1, "counting")
        assert collection.model() is counting_model
    assert path.read_bytes() == before


def test_collection_existing_other_model_refused(docs, path, counting_model):
    """LLM ignores another model_id, and mixes vectors with another model."""
    for options in ({"model": CountingModel("other")}, {"model_id": "minilm"}):
        words = "'docs' was made with counting, not (other|sentence-transformers/)"
        refusal(ModelMismatchError, words, path, Collection, "docs", path, **options)
    refusal(UnknownModelError, "nope", path, Collection, "docs", path, model_id="nope")


@pytest.mark.parametrize("by", [{}, {"model_id": "gone"}])
def test_collection_existing_of_unknown_model_works_without_it(path, by):
    """Counting, searching by id and deleting need no model; embedding says which is missing."""
    with Collection("docs", path, model=CountingModel("gone")) as collection:
        collection.embed_multi([(1, "a"), (2, "b")])
    with Collection("docs", path, **by) as collection:
        assert (collection.model_id, collection.count()) == ("gone", 2)
        assert ids(collection.similar_by_id(1)) == ["2"]
        for call in (collection.model, lambda: collection.embed(3, "c")):
            refusal(UnknownModelError, "Unknown model: gone", path, call)
        refusal(UnknownModelError, "Unknown model: gone", path, collection.similar, "c")
        collection.delete()
    assert query(path, "select count(*) from embeddings") == [(0,)]


def test_collection_without_db_is_in_memory(model, tmp_path, monkeypatch):
    """Two of them have nothing in common, and no file is made."""
    monkeypatch.chdir(tmp_path)
    with (
        Collection("docs", model=model) as one,
        Collection("docs", ":memory:", model=model) as two,
    ):
        one.embed(1, "a")
        assert (one.count(), two.count()) == (1, 0)
    assert list(tmp_path.iterdir()) == []


def connected(path, **options):
    conn = sqlite3.connect(path, **options)
    conn.row_factory = sqlite3.Row
    return conn


@pytest.mark.parametrize(
    "open_it",
    [
        str,
        lambda path: path,
        sqlite3.connect,
        connected,
        lambda path: connected(path, isolation_level=None),
        lambda path: open_database(path, writable=True, create=True),
        sqlite_utils.Database,
        lambda path: sqlite_utils.Database(connected(path)),
    ],
    ids=["str", "path", "default", "row", "row-autocommit", "ours", "sqlite-utils", "utils-row"],
)
def test_collection_any_database_everything_works(path, model, open_it):
    """Paths, connections in any mode, sqlite-utils: all is committed, nothing stays open."""
    db = open_it(path)
    with Collection("docs", db, model=model) as collection:
        collection.embed_multi_with_metadata([(1, "a", {"x": 1}), ("2", "b", None)], store=True)
        collection.embed(1, "a", {"x": 2})
        collection.embed(3, "a")
        assert not collection.db.conn.in_transaction
        assert stored(path) == expected([(1, "a"), (2, "b"), (3, "a")])
        found = collection.similar_by_id(1, 1)
        assert found == [Entry("3", 1.0)]
        assert collection.similar_by_id("3", 1) == [Entry("1", 1.0, "a", {"x": 2})]
        assert Collection.exists(db, "docs")
        assert collection.count() == 3
    assert model.calls == [["a", "b"]]
    if not isinstance(db, str | os.PathLike):
        conn = getattr(db, "conn", db)
        assert conn.execute("select count(*) from embeddings").fetchone()[0] == 3  # still open
        conn.close()
    else:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            collection.db.conn.execute("select 1")


def test_collection_sqlite_utils_database_is_db_itself(path, model):
    """``db`` is the caller's object, as in LLM."""
    with closing(sqlite3.connect(path)) as conn:
        db = sqlite_utils.Database(conn)
        assert Collection("docs", db, model=model).db is db


def test_collection_no_database_at_all_refused(model):
    """What is no database is named by its type."""
    with pytest.raises(TypeError, match="a path or None, not int"):
        Collection("docs", 5, model=model)


def test_collection_file_with_own_collections_table_left_alone(path, model):
    """A table of that name may be anybody's."""
    execute(path, "create table collections (id integer primary key, name text, price real)")
    words = "already has a table named 'collections' of its own"
    refusal(SourceError, words, path, Collection, "docs", path, model=model)
    refusal(Collection.DoesNotExist, "docs", path, Collection, "docs", path, create=False)
    assert Collection.exists(path, "docs") is False


@pytest.mark.parametrize("name", ["docs", "é🎉", "a'b", 'a"b', "100%", "a/b?c=d", " x "])
def test_collection_odd_name_is_that_collection(path, model, name):
    """Names are text that is never parsed."""
    with Collection(name, path, model=model) as collection:
        collection.embed(1, "a")
    with Collection(name, path, model=model, create=False) as collection:
        assert (collection.name, collection.count()) == (name, 1)
    assert Collection.exists(path, name)
    assert not Collection.exists(path, name + "x")


def test_exists_no_file_or_no_tables_false_and_nothing_made(path):
    """Asking never makes anything."""
    assert Collection.exists(path, "docs") is False
    assert not path.exists()
    execute(path, "create table t (x)")
    before = path.read_bytes()
    assert Collection.exists(path, "docs") is False
    with closing(sqlite3.connect(path)) as conn:
        assert Collection.exists(conn, "docs") is False
        assert Collection.exists(sqlite_utils.Database(conn), "docs") is False
    assert path.read_bytes() == before


def test_exists_no_database_refused(path):
    """A file that is no database has no answer."""
    path.write_text("just some text, long enough to have a header" * 20)
    refusal(SourceError, "is not a SQLite database", path, Collection.exists, path, "docs")


# Embedding


def test_embed_all_columns_are_llms(docs, path):
    """Vector, hash, times and the two columns of content."""
    docs.embed("t", "zq", {"a": [1, {"b": None}], "é": "ü"}, store=True)
    docs.embed("b", b"\xff\x00", store=True)
    docs.embed("n", "nothing kept", {})
    found = {row[0]: row[1:] for row in rows_of(path, "id, content, content_blob, metadata")}
    assert found["t"] == ("zq", None, json.dumps({"a": [1, {"b": None}], "é": "ü"}))
    assert found["b"] == (None, b"\xff\x00", None)
    assert found["n"] == (None, None, None)
    hashes = dict(rows_of(path, "id, content_hash"))
    assert hashes["t"] == content_hash("zq")
    assert hashes["b"] == content_hash(b"\xff\x00")
    times = query(path, "select typeof(updated), min(updated) > 1.7e9 from embeddings group by 1")
    assert times == [("integer", 1)]
    assert stored(path)["t"] == blob_of("zq")


@pytest.mark.parametrize("given", [7, "7"])
def test_embed_number_as_id_is_text(docs, path, model, given):
    """A number and its text are one id: nothing is embedded twice."""
    docs.embed(7, "seven")
    docs.embed_multi(entry for entry in [(given, "seven")])
    assert model.calls == [["seven"]]
    assert query(path, "select typeof(id), count(*) from embeddings group by 1") == [("text", 4)]


@pytest.mark.parametrize("entry_id", ODD_IDS)
def test_embed_odd_id_found_and_updated_under_it(docs, path, model, entry_id):
    """Ids are text that is never parsed."""
    docs.embed(entry_id, "odd")
    docs.embed(entry_id, "odd")
    assert docs.count() == 4
    assert ids(docs.similar_by_vector(vector_of("odd"), 1)) == [entry_id]
    assert entry_id not in ids(docs.similar_by_id(entry_id))
    assert ids(docs.similar_by_vector(vector_of("odd"), None, prefix=entry_id))[0] == entry_id
    docs.embed(entry_id, "changed")
    assert stored(path)[entry_id] == blob_of("changed")
    assert model.calls == [["odd"], ["changed"]]


@pytest.mark.parametrize("entry_id", [None, b"1", "a\0b"])
def test_embed_id_that_cannot_be_stored_refused(docs, path, model, entry_id):
    """No model is called for it."""
    refusal(
        ValueError, "an id must be a number, or text without NUL", path, docs.embed, entry_id, "x"
    )
    assert model.calls == []


def test_embed_id_with_lone_surrogate_refused_before_the_model(docs, path, model):
    """What SQLite cannot store costs nothing."""
    refusal(ValueError, ".", path, docs.embed, "\ud800", "x")
    assert model.calls == []


@pytest.mark.parametrize("value", [None, 5, ["a"], "\ud800"])
def test_embed_value_that_is_no_content_refused(docs, path, model, value):
    """Only text and bytes can be embedded."""
    refusal(ValueError, "must be str or bytes|surrogate characters", path, docs.embed, 9, value)
    assert model.calls == []


@pytest.mark.parametrize("metadata", [[1], "text", {"a": float("nan")}, {"a": float("inf")}])
def test_embed_metadata_that_is_no_object_of_json_refused(docs, path, model, metadata):
    """NaN would make the stored text invalid for every other reader."""
    words = "metadata must be a dict|not JSON compliant"
    refusal(ValueError, words, path, docs.embed, 1, "x", metadata)
    assert model.calls == []


@pytest.mark.parametrize("metadata", [{"a": object()}, {"a": b"x"}, {(1, 2): 3}])
def test_embed_metadata_not_serialisable_is_value_error(docs, path, metadata):
    """As ``embed`` says: a ValueError for metadata of a type that cannot be used."""
    refusal(ValueError, "metadata", path, docs.embed, 1, "x", metadata)


def test_embed_bytes_for_model_of_texts_refused(path):
    """The words are LLM's, and so they are the other way round."""
    texts, binary = CountingModel("texts"), CountingModel("binary")
    texts.supports_binary, binary.supports_text = False, False
    for model, value in ((texts, b"x"), (binary, "x")):
        with Collection(model.model_id, path, model=model) as collection:
            words = "This model does not support (binary data|text strings), only"
            refusal(ValueError, words, path, collection.embed, 1, value)
            refusal(ValueError, words, path, collection.similar, value)
        assert model.calls == []


def test_embed_unchanged_content_new_metadata_and_store_no_call(docs, path, model):
    """LLM drops both in silence; None and {} leave what is there."""
    docs.embed(1, "text 1", {"a": 1})
    assert rows_of(path)[1] == ("1", None, None, '{"a": 1}')
    docs.embed(1, "text 1", store=True)
    assert rows_of(path)[1] == ("1", "text 1", None, '{"a": 1}')
    docs.embed(1, "text 1", {})
    docs.embed(1, "text 1", {"b": 2})
    assert rows_of(path)[1] == ("1", "text 1", None, '{"b": 2}')
    assert model.calls == []
    assert stored(path) == expected([(n, f"text {n}") for n in range(3)])


def test_embed_unchanged_everything_changes_no_byte(docs, path):
    """What is up to date is not even touched."""
    docs.embed(1, "text 1", {"a": 1}, store=True)
    before = path.read_bytes()
    docs.embed(1, "text 1", {"a": 1}, store=True)
    docs.embed_multi([(0, "text 0"), (2, "text 2")])
    docs.embed_multi([])
    assert path.read_bytes() == before


def test_embed_changed_content_old_content_and_metadata_go(docs, path, model):
    """What was said of the old text is not said of the new one."""
    docs.embed(1, "old", {"about": "old"}, store=True)
    docs.embed(1, "new")
    assert rows_of(path)[1] == ("1", None, None, None)
    assert stored(path)["1"] == blob_of("new")
    docs.embed(1, b"\xff", store=True)
    assert rows_of(path)[1] == ("1", None, b"\xff", None)
    docs.embed(1, "text", store=True)
    assert rows_of(path)[1] == ("1", "text", None, None)


def test_embed_known_content_under_new_id_stored_without_call(docs, path, model):
    """LLM stores nothing there, or pays again."""
    docs.embed("new", "text 1", {"a": 1}, store=True)
    docs.embed_multi([("many", "text 2"), (3, "text 0"), ("twice", "text 2")])
    assert model.calls == []
    assert ("new", "text 1", None, '{"a": 1}') in rows_of(path)
    assert stored(path) == expected(
        [(n, f"text {n}") for n in range(3)]
        + [("new", "text 1"), ("many", "text 2"), (3, "text 0"), ("twice", "text 2")]
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_embed_multi_contents_trade_places_no_call(docs, path, model, batch_size):
    """Every text has been paid for, whichever batch it is in; LLM leaves both stale."""
    docs.embed_multi([(n, f"text {(n + 1) % 3}") for n in range(3)], batch_size=batch_size)
    assert stored(path) == expected([(n, f"text {(n + 1) % 3}") for n in range(3)])
    assert model.calls == []


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_embed_multi_repeated_id_last_wins(docs, path, model, batch_size):
    """As if they had been embedded one after the other."""
    entries = [(1, "first", {"n": 1}), ("x", "other", None), ("1", "last", {"n": 2})]
    docs.embed_multi_with_metadata(entries, store=True, batch_size=batch_size)
    assert rows_of(path)[1] == ("1", "last", None, '{"n": 2}')
    assert stored(path)["1"] == blob_of("last")
    assert docs.count() == 4


def test_embed_multi_same_content_twice_in_a_batch_one_item(docs, path, model):
    """Each of the ids keeps metadata of its own."""
    docs.embed_multi_with_metadata([("a", "twin", {"n": 1}), ("b", "twin", {"n": 2})], store=True)
    assert model.calls == [["twin"]]
    assert rows_of(path)[3:] == [
        ("a", "twin", None, '{"n": 1}'),
        ("b", "twin", None, '{"n": 2}'),
    ]


def test_embed_text_and_its_bytes_are_two_contents(path):
    """LLM gives both one hash and drops the second; for such a model they are different."""
    model = MixedModel()
    with Collection("docs", path, model=model) as collection:
        collection.embed_multi([(1, "zq"), (2, b"zq")], store=True)
        collection.embed_multi([(1, "zq"), (2, b"zq")])
        collection.embed_multi([(1, b"zq"), (2, "zq")], store=True)
    assert model.calls == [["zq", b"zq"]]
    assert rows_of(path) == [("1", None, b"zq", None), ("2", "zq", None, None)]
    assert stored(path) == {"1": encode(MixedModel.oracle(b"zq")), "2": blob_of("zq")}


class FoldedCollection(Collection):
    """A collection that takes texts as equal whatever their letters' case."""

    @staticmethod
    def content_hash(input):
        return content_hash(input.lower())


def test_content_hash_overridden_decides_what_is_unchanged(path, model):
    """The hash is the subclass's, when reading and when writing."""
    with FoldedCollection("docs", path, model=model) as collection:
        collection.embed(1, "Text")
        collection.embed(1, "TEXT")
        collection.embed(2, "text")
    assert model.calls == [["Text"]]
    assert rows_of(path, "id, content_hash") == [
        ("1", content_hash("text")),
        ("2", content_hash("text")),
    ]


def test_content_hash_overridden_each_id_keeps_its_own_content(path, model):
    """Equal by the hash is not the same text: what is stored is what was given."""
    with FoldedCollection("docs", path, model=model) as collection:
        collection.embed_multi([(1, "Text"), (2, "TEXT")], store=True)
    assert rows_of(path, "id, content") == [("1", "Text"), ("2", "TEXT")]


@pytest.mark.parametrize("content", ["é", b"\xff\x00", ""])
def test_content_hash_is_llms(content):
    """md5, 16 bytes, callable on the class."""
    import hashlib

    data = content.encode("utf-8") if isinstance(content, str) else content
    assert Collection.content_hash(content) == hashlib.md5(data).digest()


@pytest.mark.parametrize("size", [0, -1])
def test_embed_multi_batch_size_below_one_refused(docs, path, size):
    """LLM's model stores nothing then, and says nothing."""
    entries = [(9, "nine")]
    words = f"batch_size must be at least 1, not {size}"
    refusal(ValueError, words, path, docs.embed_multi, entries, batch_size=size)


@pytest.mark.parametrize(
    ("asked", "limit", "sizes"), [(100, 3, [3, 3, 1]), (2, 5, [2, 2, 2, 1]), (5, None, [5, 2])]
)
def test_embed_multi_batches_as_small_as_the_smaller_limit(path, asked, limit, sizes):
    """The caller's size and the model's, whichever is smaller; a generator will do."""
    model = CountingModel(batch_size=limit)
    with Collection("docs", path, model=model) as collection:
        collection.embed_multi(((n, f"t{n}") for n in range(7)), batch_size=asked)
    assert model.batch_sizes == sizes


def test_embed_multi_failure_at_250_of_300_keeps_200(path):
    """Batches of a hundred: two are kept, and the next run pays for the rest only."""

    class Failing(CountingModel):
        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            vectors = super().embed_batch(items, kind=kind, key=key)
            if "text 250" in items and len(self.calls) == 3:
                raise RuntimeError("secret words")
            return vectors

    model = Failing()
    entries = [(n, f"text {n}") for n in range(300)]
    with Collection("docs", path, model=model) as collection:
        with pytest.raises(ProviderError, match="the model failed .RuntimeError.") as caught:
            collection.embed_multi(iter(entries))
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert collection.count() == 200
        assert stored(path) == expected(entries[:200])
        collection.embed_multi(entries)
    assert stored(path) == expected(entries)
    assert model.batch_sizes == [100, 100, 100, 100]


def test_embed_multi_bad_entry_in_second_batch_first_is_kept(docs, path, model):
    """The batch with the mistake is left out whole, before the model is asked."""
    entries = [("a", "one"), ("b", "two"), ("c", "three"), (None, "four")]
    with pytest.raises(ValueError, match="an id must be a number, or text"):
        docs.embed_multi(entries, batch_size=2)
    assert [row[0] for row in rows_of(path)] == ["0", "1", "2", "a", "b"]
    assert model.calls == [["one", "two"]]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda vectors: vectors[:-1], ProviderError, "returned 1 vectors for 2 items"),
        (
            lambda vectors: [v[:4] for v in vectors],
            DimensionMismatchError,
            "4 dimensions instead of 8",
        ),
        (lambda vectors: [vectors[0], vectors[1][:4]], InvalidVectorError, "4 dimensions where"),
        (lambda vectors: [vectors[0], [math.nan] * 8], InvalidVectorError, "row 1: NaN"),
        (lambda vectors: [vectors[0], None], InvalidVectorError, "row 1"),
    ],
    ids=["short", "other-dimensions", "two-lengths", "nan", "nothing"],
)
@pytest.mark.parametrize("dimensions", [8, None])
def test_embed_multi_wrong_model_output_refused_nothing_stored(
    docs, path, dimensions, change, error, words
):
    """LLM drops the tail of a short answer in silence, and stores any length."""

    class Wrong(CountingModel):
        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            return change(super().embed_batch(items, kind=kind, key=key))

    with Collection("docs", path, model=Wrong(dimensions=dimensions)) as collection:
        refusal(error, words, path, collection.embed_multi, [(1, "changed"), (9, "new")])


def test_embed_unreadable_text_left_out_and_named_others_stored(docs, path, model):
    """One text in an unknown script stops nobody else's; the ids are named."""
    entries = [(n, "ลองดู" if n % 2 else f"word {n}") for n in range(10, 24)]
    with pytest.raises(ProviderError, match="nothing of 7 of the entries.*11, 13, 15, 17, 19, …"):
        docs.embed_multi(entries, batch_size=3)
    assert stored(path) == expected(
        [(n, f"text {n}") for n in range(3)] + [e for e in entries if e[0] % 2 == 0]
    )
    assert "ลองดู" not in [item for call in model.calls for item in call]


def test_embed_key_reaches_the_model(path):
    """The key of a call is the model's argument, never its attribute."""
    seen = []

    class Paid(CountingModel):
        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            seen.append((kind, key))
            return super().embed_batch(items, kind=kind, key=key)

    with Collection("docs", path, model=Paid()) as collection:
        collection.embed(1, "a", key="k1")
        collection.embed_multi([(2, "b")], key="k2")
        collection.embed_multi_with_metadata([(3, "c", None)], key="k3")
        collection.similar("a", key="k4")
        collection.embed(4, "d")
        assert collection.model().key is None
    document, asked = Kind.DOCUMENT, Kind.QUERY
    assert seen == [
        (document, "k1"),
        (document, "k2"),
        (document, "k3"),
        (asked, "k4"),
        (document, None),
    ]


def test_embed_multi_cursor_of_the_same_connection_first_time(path, model):
    """The rows of a query on the caller's connection are a natural source."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("create table t (id integer primary key, body text)")
        conn.executemany("insert into t values (?, ?)", [(n, f"text {n}") for n in range(250)])
        conn.commit()
        collection = Collection("docs", conn, model=model)
        collection.embed_multi(conn.execute("select id, body from t"))
        assert collection.count() == 250
        assert model.batch_sizes == [100, 100, 50]


def test_embed_multi_cursor_of_the_same_connection_again(path, model):
    """The second time there is a temporary table from the first."""
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("create table t (id integer primary key, body text)")
        conn.executemany("insert into t values (?, ?)", [(n, f"text {n}") for n in range(250)])
        conn.commit()
        collection = Collection("docs", conn, model=model)
        collection.embed(0, "text 0")
        collection.embed_multi(conn.execute("select id, body from t"))
        assert collection.count() == 250


def test_embed_multi_error_of_the_callers_iterator_is_the_callers(docs):
    """Another database's error is not said to be about this file."""

    def entries():
        yield 1, "a"
        with closing(sqlite3.connect(":memory:")) as conn:
            yield from conn.execute("select * from gone")

    with pytest.raises(sqlite3.OperationalError, match="no such table: gone"):
        docs.embed_multi(entries())


# Searching


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def ranking(contents, vector):
    """Return (id, score) of ``id -> content``, nearest first, in float64."""
    scores = [(str(i), cosine(vector_of(c), vector)) for i, c in contents.items()]
    return sorted(scores, key=lambda pair: (-pair[1], pair[0]))


def check_ranking(found, wanted):
    assert ids(found) == [entry_id for entry_id, _ in wanted]
    scores = [entry.score for entry in found]
    assert scores == pytest.approx([score for _, score in wanted], abs=1e-6)
    assert all(-1 <= score <= 1 for score in scores)


@pytest.fixture
def many(path, model):
    """A collection of forty texts."""
    with Collection("docs", path, model=model) as collection:
        collection.embed_multi([(n, f"text {n}") for n in range(40)])
        model.calls.clear()
        yield collection


CONTENTS = {n: f"text {n}" for n in range(40)}


def test_similar_is_the_exact_ranking_of_the_query(many, model, path):
    """Ten by default; the text is embedded as a query; nothing is written."""
    before = path.read_bytes()
    wanted = ranking(CONTENTS, vector_of("some words", Kind.QUERY))
    check_ranking(many.similar("some words"), wanted[:10])
    check_ranking(many.similar("some words", 3), wanted[:3])
    check_ranking(many.similar("some words", number=None), wanted)
    check_ranking(many.similar(b"some words", 1000), wanted)
    assert path.read_bytes() == before
    assert model.calls == [["some words"]] * 3 + [[b"some words"]]


def test_similar_by_id_leaves_itself_out(many):
    """An id may be a number."""
    wanted = ranking({n: c for n, c in CONTENTS.items() if n != 7}, vector_of("text 7"))
    for entry_id in (7, "7"):
        check_ranking(many.similar_by_id(entry_id), wanted[:10])
        check_ranking(many.similar_by_id(entry_id, None), wanted)


def test_similar_by_vector_any_sequence_and_skip_id(many):
    """Lists, tuples, arrays; the entry to skip costs no place."""
    import numpy as np

    vector = vector_of("words")
    wanted = ranking(CONTENTS, vector)
    best = wanted[0][0]
    for given in (vector, tuple(vector), np.array(vector), np.array(vector, dtype=">f8")):
        check_ranking(many.similar_by_vector(given), wanted[:10])
    for skipped in (best, int(best)):
        check_ranking(many.similar_by_vector(vector, 5, skipped), wanted[1:6])


def test_similar_number_zero_is_none_and_negative_refused(many):
    """LLM takes -1 for everything and runs what is no number as SQL."""
    assert many.similar_by_vector(vector_of("x"), 0) == []
    assert many.similar_by_id(1, 0) == []
    for call in (many.similar_by_id, many.similar):
        with pytest.raises(ValueError, match="number must be 0 or more, or None for all, not -1"):
            call("1", -1)
    with pytest.raises(ValueError, match="number must be 0 or more, or None for all, not '1 --'"):
        many.similar_by_vector(vector_of("x"), "1 --")


def test_similar_ties_in_order_of_ids(docs):
    """Equal scores have an order, also where the number cuts through them."""
    docs.embed_multi([(name, "twin") for name in ("d", "b", "ä", "a", "c")])
    assert ids(docs.similar_by_vector(vector_of("twin"), 3)) == ["a", "b", "c"]
    assert ids(docs.similar_by_vector(vector_of("twin"), 5)) == ["a", "b", "c", "d", "ä"]
    assert ids(docs.similar_by_id("b", 3)) == ["a", "c", "d"]


EDGES = ["a", "A", "a_", "aXb", "A_b", "a%", "ab", "a%b", "%", "_", "é", "É", "e\u0301"]
EDGES += ["\ud7ff", "\ud7ffx", "\ue000", "\U0010ffff", "\U0010ffffx", "a\U0010ffff", "b", "ÿ", "Ā"]


@pytest.mark.parametrize("prefix", [*EDGES, "", None, "a\U0010ffff\U0010ffff", "zz"])
def test_similar_prefix_is_exact(path, model, prefix):
    """No wildcard and no folding of case, up to the last characters there are."""
    with Collection("docs", path, model=model) as collection:
        collection.embed_multi([(name, f"t{n}") for n, name in enumerate(EDGES)])
        wanted = {name for name in EDGES if name.startswith(prefix or "")}
        assert set(ids(collection.similar_by_vector([1.0] * 8, None, prefix=prefix))) == wanted
        assert set(ids(collection.similar("x", 100, prefix))) == wanted
        assert set(ids(collection.similar_by_id("a", None, prefix))) == wanted - {"a"}


@pytest.mark.parametrize("prefix", ["a", "ā", "ÿ", "Ā"])
def test_similar_prefix_in_utf16_file_is_exact(path, model, prefix):
    """SQLite compares the bytes of the file's own encoding."""
    names = ["a", "ab", "b", "ā1", "Ā", "ÿ1", "z"]
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("pragma encoding = 'UTF-16le'")
        with Collection("docs", conn, model=model) as collection:
            collection.embed_multi([(name, f"t{n}") for n, name in enumerate(names)])
            found = ids(collection.similar_by_vector([1.0] * 8, None, prefix=prefix))
            in_transaction = []
            conn.execute("begin")  # the scan of the file
            in_transaction = ids(collection.similar_by_vector([1.0] * 8, None, prefix=prefix))
            conn.execute("rollback")
    wanted = {name for name in names if name.startswith(prefix)}
    assert (set(found), set(in_transaction)) == (wanted, wanted)


def test_similar_damaged_vectors_kill_no_search(docs, path):
    """LLM's whole search dies of one of them; here they are passed over."""
    damaged = [
        b"",
        b"\0",
        b"\0\0\0",
        struct.pack("<8f", *[0.0] * 8),
        struct.pack("<8f", math.nan, *[1.0] * 7),
        struct.pack("<8f", math.inf, *[1.0] * 7),
        struct.pack("<4f", *[1.0] * 4),
        struct.pack("<9f", *[1.0] * 9),
        None,
        "text",
        5,
    ]
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.executemany(
            "insert into embeddings (collection_id, id, embedding) values (1, ?, ?)",
            [(f"bad{n}", value) for n, value in enumerate(damaged)],
        )
    contents = {n: f"text {n}" for n in range(3)}
    check_ranking(docs.similar_by_vector(vector_of("x"), None), ranking(contents, vector_of("x")))
    check_ranking(docs.similar("x", None), ranking(contents, vector_of("x", Kind.QUERY)))
    assert set(ids(docs.similar_by_id(1))) == {"0", "2"}
    for n in range(len(damaged)):
        with pytest.raises(
            (InvalidVectorError, DimensionMismatchError), match="cannot be used|of 8"
        ):
            docs.similar_by_id(f"bad{n}")


def test_similar_id_stored_as_blob_kills_no_search(docs, path):
    """LLM stores the id it is given, bytes too; one such row must not end every search."""
    execute(
        path,
        f"insert into embeddings (collection_id, id, embedding)"
        f" values (1, x'41', x'{blob_of('x').hex()}')",
    )
    assert {"0", "1", "2"} <= set(ids(docs.similar_by_vector(vector_of("x"), None)))


@pytest.mark.parametrize(
    ("vector", "error", "words"),
    [
        ([1.0] * 4, DimensionMismatchError, "counting: a vector has 4 dimensions instead of 8"),
        ([0.0] * 8, InvalidVectorError, "zero, or has NaN"),
        ([math.nan] * 8, InvalidVectorError, "zero, or has NaN"),
        ([math.inf] * 8, InvalidVectorError, "zero, or has NaN"),
        ([1e300] * 8, InvalidVectorError, "too large for float32"),
        ([], InvalidVectorError, "at least one number"),
        (["a"] * 8, InvalidVectorError, "not a list of numbers"),
        (b"x" * 32, InvalidVectorError, "not a list of numbers"),
    ],
)
def test_similar_by_vector_unusable_query_refused(docs, vector, error, words):
    """LLM cuts the longer of two lengths, and divides by zero."""
    with pytest.raises(error, match=words):
        docs.similar_by_vector(vector)


def test_similar_by_id_unknown_refused(docs):
    """The error is Collection.DoesNotExist and names the entry."""
    with pytest.raises(Collection.DoesNotExist, match="'docs' has no entry with the id 'nope'"):
        docs.similar_by_id("nope")


def test_similar_unknown_text_refused_without_call(docs, model):
    """A text of which the model knows no word would find anything."""
    with pytest.raises(ProviderError, match="does not know a single word"):
        docs.similar("ลองดู")
    assert model.calls == []


@pytest.mark.parametrize("number", [10, None])
def test_similar_empty_collection_finds_nothing(path, number):
    """Whatever the query; the length of its vectors is not known yet."""
    with Collection("docs", path, model=CountingModel(dimensions=None)) as collection:
        assert collection.similar("x", number) == []
        assert collection.similar_by_vector([1.0] * 8, number) == []


def test_entry_has_what_is_stored(docs, path):
    """Text and metadata as they were given; what is no JSON comes as the text it is."""
    docs.embed("a", "near", {"x": [1, {"y": None}]}, store=True)
    docs.embed("b", b"near", {"n": 1}, store=True)
    execute(path, "update embeddings set metadata = '{broken' where id = 'b'")
    found = {entry.id: entry for entry in docs.similar("x", None)}
    assert (found["a"].content, found["a"].metadata) == ("near", {"x": [1, {"y": None}]})
    assert (found["b"].content, found["b"].metadata) == (None, "{broken")
    assert (found["0"].content, found["0"].metadata) == (None, None)
    assert Entry("i", 0.5) == Entry(id="i", score=0.5, content=None, metadata=None)


# Other writers


def test_embed_collection_deleted_by_another_between_two(docs, path, model):
    """Nothing is written for a collection that is not there, and no model is called."""
    execute(path, "delete from embeddings", "delete from collections")
    words = "Collection 'docs' does not exist"
    calls = [
        lambda: docs.embed(9, "new"),
        lambda: docs.similar("x"),
        lambda: docs.similar_by_id(1),
        lambda: docs.similar_by_vector(vector_of("x")),
        docs.delete,
    ]
    for call in calls:
        refusal(Collection.DoesNotExist, words, path, call)
    assert docs.count() == 0
    assert model.calls == []


def test_embed_collection_deleted_during_the_model_call_refused(docs, path, model):
    """What was paid for is lost, but no row without a collection is left."""

    class Deleting(CountingModel):
        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            execute(path, "delete from embeddings", "delete from collections")
            return super().embed_batch(items, kind=kind, key=key)

    with Collection("docs", path, model=Deleting()) as collection:
        with pytest.raises(Collection.DoesNotExist, match="'docs' does not exist"):
            collection.embed(9, "new")
    assert query(path, "select count(*) from embeddings") == [(0,)]


def test_embed_collection_remade_under_another_number_refused(docs, path, model):
    """It is another collection, whatever its name."""
    execute(
        path,
        "delete from embeddings",
        "delete from collections",
        "insert into collections (id, name, model) values (7, 'docs', 'counting')",
    )
    for call in (lambda: docs.embed(9, "new"), lambda: docs.similar_by_vector([1.0] * 8)):
        refusal(Collection.DoesNotExist, r"'docs \(1\)' does not exist", path, call)
    assert model.calls == []


REMADE = (
    "delete from embeddings",
    "delete from collections",
    "insert into collections (name, model) values ('docs', 'other')",
)


@pytest.mark.parametrize("call", ["embed", "similar"])
def test_collection_remade_for_another_model_under_its_number_refused(docs, path, model, call):
    """SQLite gives the number of a deleted collection to the next one."""
    execute(path, *REMADE)
    assert query(path, "select id from collections") == [(docs.id,)]
    action = {"embed": lambda: docs.embed(9, "new"), "similar": lambda: docs.similar("x")}[call]
    with pytest.raises((Collection.DoesNotExist, ModelMismatchError), match="docs"):
        action()
    assert query(path, "select count(*) from embeddings") == [(0,)]


def test_collection_remade_for_another_model_during_the_call_refused(docs, path):
    """The same while the model computes."""

    class Remaking(CountingModel):
        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            execute(path, *REMADE)
            return super().embed_batch(items, kind=kind, key=key)

    with Collection("docs", path, model=Remaking()) as collection:
        with pytest.raises((Collection.DoesNotExist, ModelMismatchError), match="docs"):
            collection.embed(9, "new")
    assert query(path, "select count(*) from embeddings") == [(0,)]


def test_count_deleted_and_number_reused_is_zero(docs, path, model):
    """The entries of another collection are not counted."""
    docs.delete()
    with Collection("other", path, model=model) as other:
        other.embed(1, "a")
        assert other.id == docs.id
    assert docs.count() == 0


def test_collection_other_version_of_the_model_refused(docs, path):
    """Neither written nor compared: the remedy is named."""
    newer = CountingModel()
    newer.revision = "2"
    with Collection("docs", path, model=newer) as collection:
        for call in (lambda: collection.embed(9, "new"), lambda: collection.similar("x")):
            refusal(OutdatedCollectionError, "another version of its model", path, call)
        assert len(collection.similar_by_id(1)) == 2
    assert newer.calls == []


def test_embed_in_callers_transaction_rollback_takes_it_back(path, model):
    """Nothing is committed for the caller; searches see what is there at each moment."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        with Collection("docs", conn, model=model) as collection:
            collection.embed("a", "text a")
            assert ids(collection.similar("x")) == ["a"]
            conn.execute("begin")
            collection.embed("b", "text b")
            collection.embed("a", "text b")
            assert conn.in_transaction
            assert ids(collection.similar_by_vector(vector_of("text b"))) == ["a", "b"]
            conn.execute("rollback")
            assert stored(path) == expected([("a", "text a")])
            found = collection.similar_by_vector(vector_of("text a"))
            assert [(entry.id, entry.score) for entry in found] == [("a", pytest.approx(1))]
            conn.execute("begin")
            collection.embed("b", "text b")
            conn.execute("commit")
            assert set(ids(collection.similar("x"))) == {"a", "b"}
    assert stored(path) == expected([("a", "text a"), ("b", "text b")])


def test_collection_made_in_callers_transaction_rollback_takes_it_back(llm_file, model):
    """Tables, triggers and the collection itself are the caller's to keep."""
    before = llm_file.read_bytes()
    with closing(sqlite3.connect(llm_file, isolation_level=None)) as conn:
        conn.execute("begin")
        Collection("new", conn, model=model).embed(1, "a")
        Collection("docs", conn, model=model).embed(9, "b")
        conn.execute("rollback")
        assert query(llm_file, "select name from collections") == [("docs",)]
        assert not Collection.exists(conn, "new")
        collection = Collection("docs", conn, model=model)
        collection.embed(9, "b")
    assert llm_file.read_bytes() != before
    assert set(stored(llm_file)) == {"0", "1", "2", "9"}


def test_embed_failed_in_callers_transaction_leaves_it_open(path, model):
    """A batch that fails takes back itself only."""
    with closing(sqlite3.connect(path)) as conn:
        with Collection("docs", conn, model=model) as collection:
            conn.execute("create table t (x)")
            conn.execute("insert into t values (1)")
            assert conn.in_transaction
            model.fails_with = RuntimeError("no")
            with pytest.raises(ProviderError, match="the model failed"):
                collection.embed(1, "a")
            assert conn.in_transaction
            conn.commit()
    assert query(path, "select x from t") == [(1,)]


# Files that cannot be written


@pytest.fixture(params=["connection", "file"])
def read_only(docs, path, request):
    """A database that cannot be written, by its connection or by the file's permissions."""
    docs.close()
    if request.param == "connection":
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
            yield conn
        return
    if os.geteuid() == 0:
        pytest.skip("root may write to any file")
    path.chmod(0o444)
    yield path


def test_collection_read_only_searched_but_not_written(read_only, path, model):
    """Searching needs no permission to write; embedding says what is wrong."""
    contents = {n: f"text {n}" for n in range(3)}
    with Collection("docs", read_only, model=model) as collection:
        assert collection.count() == 3
        check_ranking(collection.similar("x"), ranking(contents, vector_of("x", Kind.QUERY)))
        assert ids(collection.similar_by_id(1)) != []
        for call in (lambda: collection.embed(9, "new"), collection.delete):
            refusal(SourceError, "is read-only", path, call)
    refusal(SourceError, "is read-only", path, Collection, "new", read_only, model=model)


def test_embed_read_only_refused_before_the_model(read_only, path, model):
    """A model may cost money."""
    with Collection("docs", read_only, model=model) as collection:
        refusal(SourceError, "is read-only", path, collection.embed, 9, "new")
    assert model.calls == []


def test_collection_file_of_llm_searched_without_writing(llm_file, model):
    """No table of ours is needed to search."""
    before = llm_file.read_bytes()
    contents = {n: f"text {n}" for n in range(3)}
    with Collection("docs", llm_file, model=model) as collection:
        assert (collection.model_id, collection.count()) == ("counting", 3)
        check_ranking(collection.similar("x"), ranking(contents, vector_of("x", Kind.QUERY)))
        assert ids(collection.similar_by_id(1)) != []
        assert Collection.exists(llm_file, "docs")
    assert llm_file.read_bytes() == before


def test_collection_file_of_llm_first_embed_adds_ours(llm_file, model):
    """Known texts are recognised by LLM's hashes; LLM's tables stay as they are."""
    schema = query(llm_file, "select sql from sqlite_master order by rowid")
    with Collection("docs", llm_file, model=model) as collection:
        collection.embed_multi([(n, f"text {n}") for n in range(4)])
        collection.embed("twin", "text 0")
    assert model.calls == [["text 3"]]
    assert stored(llm_file) == expected([*((n, f"text {n}") for n in range(4)), ("twin", "text 0")])
    assert query(llm_file, "select sql from sqlite_master order by rowid")[: len(schema)] == schema
    triggers = query(llm_file, "select name from sqlite_master where type = 'trigger'")
    assert {name for (name,) in triggers} == set(TRIGGERS)
    kept = query(llm_file, "select name, model, fingerprint, dimensions from _embed_collections")
    assert kept == [("docs", "counting", "counting", 8)]


@pytest.mark.parametrize("how", ["model", "id"])
def test_collection_file_of_llm_failed_embed_changes_nothing(llm_file, model, how):
    """Our tables come with the first entry, not with the first attempt."""
    model.fails_with = RuntimeError("no")
    entry_id = None if how == "id" else 9
    with Collection("docs", llm_file, model=model) as collection:
        refusal(
            (ProviderError, ValueError),
            "the model failed|an id must be",
            llm_file,
            collection.embed,
            entry_id,
            "new",
        )


def test_collection_file_of_llm_deleted_without_our_tables(llm_file, model):
    """Deleting needs nothing of ours either."""
    with Collection("docs", llm_file) as collection:
        collection.delete()
    assert query(llm_file, "select count(*) from collections") == [(0,)]
    assert query(llm_file, "select count(*) from embeddings") == [(0,)]


# Deleting


def test_delete_takes_everything_of_this_collection_only(docs, path, model):
    """Entries, settings and the generation go; another collection stays."""
    with Collection("other", path, model=model) as other:
        other.embed(1, "other")
        docs.delete()
        assert other.count() == 1
    assert Collection.exists(path, "docs") is False
    assert query(path, "select name from collections") == [("other",)]
    for table in ("embeddings", "_embed_collections", "_embed_generations"):
        assert query(path, f"select distinct collection_id from {table}") == [(2,)], table
    with pytest.raises(Collection.DoesNotExist, match="'docs' does not exist"):
        docs.delete()


def test_delete_then_made_again_starts_empty(docs, path, model):
    """The next one may get the same number, and nothing else."""
    docs.similar("x")
    docs.delete()
    with Collection("docs", path, model=CountingModel("next", dimensions=4)) as collection:
        assert (collection.id, collection.count(), collection.similar("x")) == (1, 0, [])
        collection.embed("only", "one")
        assert ids(collection.similar("x")) == ["only"]


# Whatever the order of things


class MixedModel(CountingModel):
    """A model whose vectors of a text and of its bytes have nothing in common."""

    @staticmethod
    def oracle(item):
        return vector_of(item if isinstance(item, str) else b"\0bytes" + item)

    def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
        self.calls.append(list(items))
        return [self.oracle(item) for item in items]


def encode(vector):
    return struct.pack(f"<{len(vector)}f", *vector)


class RightBehaviour:
    """What a collection must hold: ``id -> [content, is stored, metadata]``."""

    def __init__(self):
        self.entries = {}

    def embed(self, batch, store):
        for entry_id, content, metadata in {str(e[0]): (str(e[0]), *e[1:]) for e in batch}.values():
            entry = self.entries.get(entry_id)
            if entry and entry[0] == content:
                entry[1] = entry[1] or store
                entry[2] = metadata or entry[2]
            else:
                self.entries[entry_id] = [content, store, metadata or None]

    def rows(self):
        return [
            (
                entry_id,
                encode(MixedModel.oracle(content)),
                content if is_stored and isinstance(content, str) else None,
                content if is_stored and isinstance(content, bytes) else None,
                json.dumps(metadata) if metadata else None,
            )
            for entry_id, (content, is_stored, metadata) in sorted(self.entries.items())
        ]

    def ranked(self, vector):
        scores = [(i, cosine(MixedModel.oracle(e[0]), vector)) for i, e in self.entries.items()]
        return sorted(scores, key=lambda pair: (-round(pair[1], 12), pair[0]))


SEQUENCES = int(os.environ.get("DATASETTE_EMBED_SEQUENCES", "500"))
SOME_IDS = [1, 2, 3, "1", "2", "é🎉", "a%", "a_"]
SOME_CONTENTS = ["a", "b", "c", "d", "e", b"a", b"b", b"\xff", "f"]
SOME_METADATA = [None, None, {}, {"n": 1}, {"n": [2, None]}]


def opened(path):
    """Open the file without waiting for the disk: here only what is read back counts."""
    conn = open_database(path, writable=True)
    conn.execute("pragma synchronous = off")
    return conn


def run_sequence(seed, path, conn):
    """Do random things to a collection, and compare it with what it must hold after each."""
    chooser = random.Random(seed)
    name, model, right = f"c{seed}", MixedModel(), RightBehaviour()
    own = opened(path)
    collection = Collection(name, chooser.choice([conn, own]), model=model)
    for step in range(chooser.randint(3, 8)):
        where = f"seed {seed}, step {step}"
        known = {entry[0] for entry in right.entries.values()}
        model.calls.clear()
        given = []
        action = chooser.choice(["embed", "multi", "metadata", "metadata", "swap", "gone", "open"])
        store, size = chooser.random() < 0.4, chooser.randint(1, 5)
        if action == "embed":
            given = [tuple(map(chooser.choice, (SOME_IDS, SOME_CONTENTS, SOME_METADATA)))]
            collection.embed(*given[0], store=store)
        elif action in ("multi", "metadata"):
            given = [
                (chooser.choice(SOME_IDS), chooser.choice(SOME_CONTENTS), None)
                for _ in range(chooser.randint(0, 9))
            ]
            if action == "metadata":
                given = [(i, content, chooser.choice(SOME_METADATA)) for i, content, _ in given]
                collection.embed_multi_with_metadata(iter(given), store=store, batch_size=size)
            else:
                pairs = ((i, content) for i, content, _ in given)
                collection.embed_multi(pairs, store=store, batch_size=size)
        elif action == "swap":
            contents = [entry[0] for entry in right.entries.values()]
            chooser.shuffle(contents)
            given = [(i, c, None) for i, c in zip(right.entries, contents, strict=True)]
            collection.embed_multi([e[:2] for e in given], store=store, batch_size=size)
        elif action == "gone":
            gone = [i for i in right.entries if chooser.random() < 0.4]
            for entry_id in gone:
                del right.entries[entry_id]
            conn.executemany(
                "delete from embeddings where collection_id = ? and id = ?",
                [(collection.id, entry_id) for entry_id in gone],
            )
        else:
            own.close()
            own = opened(path)
            collection = Collection(name, chooser.choice([conn, own]), model=model)
        one_at_a_time = 1 if action == "embed" else size
        for start in range(0, len(given), one_at_a_time):
            right.embed(given[start : start + one_at_a_time], store)
        found = conn.execute(
            "select id, embedding, content, content_blob, metadata from embeddings"
            " where collection_id = ? order by id",
            (collection.id,),
        ).fetchall()
        assert found == right.rows(), where
        embedded = [item for call in model.calls for item in call]
        assert len(embedded) == len(set(embedded)), where
        assert set(embedded) <= {content for _, content, _ in given} - known, where
        assert max(model.batch_sizes, default=0) <= size, where
        if chooser.random() < 0.5:
            vector = [chooser.uniform(-1, 1) for _ in range(8)]
            hits = collection.similar_by_vector(vector, None)
            assert ids(hits) == [entry_id for entry_id, _ in right.ranked(vector)], where
    collection.delete()
    own.close()


def test_collection_random_sequences_hold_what_they_must(path):
    """Any order of embedding, trading, deleting and opening: right rows, no needless call.

    Reproduce one with ``run_sequence(seed, path, conn)``; the seed is in the message.
    """
    Collection("kept", path, model=CountingModel()).embed(1, "a")
    with closing(opened(path)) as conn:
        for seed in range(SEQUENCES):
            run_sequence(seed, path, conn)
    assert stored(path, "kept") == expected([(1, "a")])
    assert query(path, "select name from collections") == [("kept",)]


def test_one_collection_in_several_threads_every_search_and_embed_is_done(path, model):
    """The connection is shared; nobody meets the transaction of somebody else."""
    with Collection("docs", path, model=model) as shared:
        shared.embed_multi((n, f"text {n}") for n in range(20))

        def work(number):
            shared.embed(f"new {number}", f"new text {number}")
            return [entry.id for entry in shared.similar(f"text {number % 20}", 3)]

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(work, range(200)))
        assert shared.count() == 220
        assert {len(ids) for ids in found} == {3}


@pytest.mark.parametrize("blank", ["", " \n", "\u200b", b""])
def test_embed_blank_left_out_and_named_others_stored(docs, path, model, blank):
    """Its vector would be anything's neighbour. LLM stores it."""
    with pytest.raises(ProviderError, match=r"nothing of 1 of the entries.* \(8\): they are empty"):
        docs.embed_multi([(8, blank), (9, "word")])
    assert stored(path) == expected([*((n, f"text {n}") for n in range(3)), (9, "word")])
    with pytest.raises(SourceError, match="the text to search for: is empty"):
        docs.similar(blank)
    assert model.calls == [["word"]]


@pytest.mark.parametrize("name", ["", "  ", None])
def test_collection_name_that_is_none_refused(path, model, name):
    """No command could name it."""
    with pytest.raises(ValueError, match="a collection's name must be text that is not blank"):
        Collection(name, path, model=model)
    assert not path.exists()


def test_collection_model_and_model_id_of_two_models_refused(path, model):
    """One of them would be ignored."""
    with pytest.raises(ValueError, match="model= is counting and model_id= sentence-"):
        Collection("docs", path, model=model, model_id="minilm")


def test_collection_rows_as_dicts_refused_in_words(path, model):
    """Positions are how rows are read here."""
    with closing(sqlite3.connect(path)) as conn:
        conn.row_factory = lambda cursor, row: dict(enumerate(row, 100))
        with pytest.raises(TypeError, match="returns rows of type dict: open one without"):
            Collection("docs", conn, model=model)


def test_embed_into_collection_of_a_table_refused(path, model):
    """The next sync would take it away again."""
    make_docs(path, [(1, "a")])
    run_job(path, model)
    with Collection("docs", path, model=model) as collection:
        refusal(SourceError, "made from a table or a query", path, collection.embed, 2, "b")


def test_embed_refresh_of_content_that_changed_meanwhile_left_alone(docs, path, model):
    """Old content beside a new vector would be stale for ever."""

    def change(items):
        with Collection("docs", path, model=CountingModel()) as other:
            other.embed(1, "newer", {"by": "other"}, store=True)

    answer = model.embed_batch
    model.embed_batch = lambda items, **options: (change(items), answer(items, **options))[1]
    docs.embed_multi_with_metadata([(1, "text 1", {"by": "us"}), (7, "new", None)], store=True)
    assert stored(path)["1"] == blob_of("newer")
    [entry] = [e for e in docs.similar_by_vector(vector_of("newer"), 1) if e.id == "1"]
    assert (entry.content, entry.metadata) == ("newer", {"by": "other"})


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_similar_content_and_metadata_of_utf16_file_are_text(tmp_path, model, encoding):
    """The file's encoding is not the reader's business."""
    path = tmp_path / "wide.db"
    execute(path, f"pragma encoding = '{encoding}'", "create table t (x)")
    with Collection("docs", path, model=model) as collection:
        collection.embed("é", "a naïve word", {"ü": 1}, store=True)
        [found] = collection.similar("word", 1)
    assert (found.id, found.content, found.metadata) == ("é", "a naïve word", {"ü": 1})


def test_similar_ids_with_nul_are_found_every_time(docs, path):
    """Another tool may have stored them, and JSON would cut them off."""
    execute(
        path,
        "insert into embeddings (collection_id, id, embedding)"
        " select collection_id, 'a' || char(0) || 'b', embedding from embeddings where id = '1'",
    )
    for _ in range(3):
        assert ids(docs.similar_by_vector(vector_of("text 1"), 2)) == ["1", "a\0b"]


def test_search_while_rebuilding_refused(docs, path):
    """Vectors of two versions cannot be compared, by id neither."""
    execute(path, "update _embed_collections set rebuilding = 1")
    for _ in range(2):
        with pytest.raises(OutdatedCollectionError, match="only partly embedded"):
            docs.similar_by_id(1)


def test_two_collections_of_one_connection_in_threads(path, model):
    """It is the connection that has transactions, not the collection."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as conn:
        pair = [Collection(name, conn, model=model) for name in "ab"]

        def work(number):
            pair[number % 2].embed(number, f"text {number}")
            return len(pair[number % 2].similar_by_vector(vector_of("x"), 1))

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(work, range(200))) == {1}
        assert [collection.count() for collection in pair] == [100, 100]


def test_embed_multi_waits_for_another_writer_rather_than_lose_a_batch(path, monkeypatch):
    """What was paid for is written when the other program is done."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.01)
    model = FailingModel()
    done = threading.Event()
    with (
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
        Collection("docs", path, model=model) as docs,
    ):

        def commit_later():
            done.wait(0.3)  # nobody sets it: a moment in which the batch must wait
            other.execute("commit")
            done.set()

        thread = threading.Thread(target=commit_later)

        def meanwhile(calls):
            other.execute("begin immediate")
            thread.start()

        model.after_call = meanwhile
        try:
            docs.embed_multi([(1, "one"), (2, "two")])
            assert done.is_set()
        finally:
            thread.join()
        assert docs.db.conn.execute("pragma busy_timeout").fetchone() == (10,)
    assert stored(path) == expected([(1, "one"), (2, "two")])
