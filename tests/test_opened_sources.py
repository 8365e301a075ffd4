"""Whose rows may be read: what a caller names, and what a file asks for."""

from __future__ import annotations

from contextlib import closing

import pytest

from datasette_embed.database import open_database
from datasette_embed.errors import CollectionNotFoundError, SourceError
from datasette_embed.opened_sources import (
    chosen_source,
    is_elsewhere,
    opened_source,
    require,
    syncable,
    synced_source,
)
from datasette_embed.records import CollectionRecord
from datasette_embed.schema import ensure_schema
from datasette_embed.sources import SourceSpec
from datasette_embed.store import Store
from tests.storage import execute, make_docs


@pytest.fixture
def db(tmp_path):
    """A file with a table docs of two rows and our tables."""
    path = make_docs(tmp_path / "a.db", [(1, "one"), (2, "two")])
    with closing(open_database(path, writable=True)) as conn:
        ensure_schema(conn, str(path))
    return path


def choose(**given):
    """Choose a source by these, and nothing else."""
    names = ("table", "sql", "template", "where", "collection")
    nothing = dict.fromkeys(names) | {"columns": (), "id_columns": (), "is_elsewhere": False}
    return chosen_source(**(nothing | given))


def test_chosen_source_name_is_the_tables_unless_given():
    """The spec holds what was chosen."""
    spec = SourceSpec(table="docs", columns=("body",), where="1", is_elsewhere=True)
    given = {"table": "docs", "columns": ("body",), "where": "1", "is_elsewhere": True}
    assert choose(**given) == ("docs", spec)
    assert choose(**given, collection="x") == ("x", spec)
    made = choose(sql="select 1, 2", id_columns=("a",), collection="x")
    assert made == ("x", SourceSpec(sql="select 1, 2", id_columns=("a",)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"table": "a", "columns": ("b",), "template": "c"}, "columns= or template=, not both"),
        ({}, "name a table or give sql=, one of them"),
        ({"table": "a", "sql": "b"}, "name a table or give sql=, one of them"),
        ({"sql": "b"}, "name the collection of the query: collection="),
        ({"sql": "b", "option": "--{}"}, "name the collection of the query: --collection"),
    ],
)
def test_chosen_source_contradiction_refused(given, message):
    """With the options spelled as the caller has them."""
    with pytest.raises(ValueError, match=message + "$"):
        choose(**given)


def add_collection(path, name="docs", **source):
    """Make a collection that says it was made from this."""
    with closing(open_database(path, writable=True)) as conn:
        return Store(conn).create_collection(
            CollectionRecord(0, name, "m", fingerprint="m", source=source or None)
        )


def never(question):
    pytest.fail(f"nobody was to be asked: {question}")


def texts(source):
    return [row.content for window in source.iter_windows() for row in window]


# syncable


def test_syncable_all_with_a_source_by_name(db):
    """Those of other tools are passed over, unless they are named."""
    for name in ("b", "a"):
        add_collection(db, name, table="docs")
    add_collection(db, "foreign")
    assert [record.name for record in syncable(str(db), ())] == ["a", "b"]
    assert [record.name for record in syncable(str(db), ("foreign", "a"))] == ["foreign", "a"]


def test_syncable_nothing_or_unknown_refused(db, tmp_path):
    """No collection to bring up to date, no such one, no such file, a table of another's."""
    with pytest.raises(SourceError, match="has no collection made from a table or a query"):
        syncable(str(db), ())
    with pytest.raises(CollectionNotFoundError, match="'gone' does not exist"):
        syncable(str(db), ("gone",))
    with pytest.raises(SourceError, match="no such file"):
        syncable(str(tmp_path / "gone.db"), ())
    other = tmp_path / "b.db"
    execute(other, "create table embeddings (x)")
    with pytest.raises(SourceError, match="already has a table named 'embeddings' of its own"):
        syncable(str(other), ())


# synced_source


def test_synced_source_same_file_read_without_asking(db):
    """Another file that is named is that of other collections."""
    record = add_collection(db, table="docs", columns=["body"])
    for rows_from in (None, str(db.parent / "gone.db")):
        with synced_source(str(db), record, rows_from, never) as source:
            assert texts(source) == ["one", "two"]


def test_synced_source_elsewhere_asked_about(db, tmp_path):
    """The question says which file and what of it; no answer, no reading."""
    other = make_docs(tmp_path / "b.db", [(1, "secret")])
    record = add_collection(db, table="docs", columns=["body"], is_elsewhere=True)
    with pytest.raises(SourceError, match="its rows are in another file: name it with --from"):
        with synced_source(str(db), record, None, never):
            pytest.fail("must not open")
    asked = []
    with pytest.raises(SourceError, match="nothing was changed, for the answer was no"):
        with synced_source(str(db), record, str(other), lambda q: bool(asked.append(q))):
            pytest.fail("must not open")
    assert asked == [f"'docs' asks to read this from {other}: table docs: body. Read it?"]
    for confirm in (lambda question: True, None):
        with synced_source(str(db), record, str(other), confirm) as source:
            assert texts(source) == ["secret"]


def test_synced_source_unknown_definition_refused(db):
    """None at all says which command to run; a damaged one is no code."""
    with pytest.raises(SourceError, match="Run this once: datasette embed create --collection"):
        with synced_source(str(db), add_collection(db), None, never):
            pytest.fail("must not open")
    for n, stored in enumerate(({"table": 5}, {"unknown": "x"}, {"columns": "body"})):
        record = add_collection(db, f"c{n}", **stored)
        with pytest.raises(SourceError, match="cannot be read"):
            with synced_source(str(db), record, None, never):
                pytest.fail("must not open")


def test_synced_source_cannot_write_nor_attach(db, tmp_path):
    """The query of a file is read on a connection that only reads."""
    before = db.read_bytes()
    target = tmp_path / "made.db"
    for sql in ("delete from docs returning id, body", f"attach '{target}' as x"):
        record = add_collection(db, "evil", sql=sql)
        before = db.read_bytes()
        with pytest.raises(SourceError, match="."):
            with synced_source(str(db), record, None, never) as source:
                texts(source)
        assert db.read_bytes() == before
        assert not target.exists()


# opened_source


def opened(db, spec, name="docs", path=None):
    return opened_source(str(db), spec, str(path or db), name)


def test_opened_source_columns_of_the_collection_when_none_are_named(db, tmp_path):
    """The same call goes on to work when the rows have come to suggest other columns."""
    execute(
        db,
        "alter table docs add column note text",
        "update docs set note = 'a long and winding note about it'",
    )
    add_collection(db, table="docs", columns=["body"])
    with opened(db, SourceSpec(table="docs")) as source:
        assert texts(source) == ["one", "two"]
    with opened(db, SourceSpec(table="docs", columns=("note",))) as source:
        assert texts(source)[0].startswith("a long")
    with opened(db, SourceSpec(table="docs", template="<{{ id }}>")) as source:
        assert texts(source) == ["<1>", "<2>"]
    with opened(db, SourceSpec(table="docs"), name="other") as source:
        assert "winding" in texts(source)[0]
    elsewhere = tmp_path / "gone.db"
    with opened(db, SourceSpec(table="docs"), path=elsewhere) as source:
        assert "winding" in texts(source)[0]
    assert not elsewhere.exists()


def test_opened_source_template_of_the_collection(db):
    """Likewise; but not that of a collection made from another table."""
    add_collection(db, table="docs", template="({{ body }})")
    with opened(db, SourceSpec(table="docs")) as source:
        assert texts(source) == ["(one)", "(two)"]
    execute(db, "create table more (id integer primary key, body text)")
    execute(db, "insert into more values (1, 'some more')")
    with opened(db, SourceSpec(table="more")) as source:
        assert texts(source) == ["some more"]


@pytest.mark.parametrize(
    "table", ["embeddings", "collections", "Embeddings", "_embed_jobs", "_EMBED_collections"]
)
def test_opened_source_our_own_tables_refused(db, table):
    """Vectors are no texts."""
    with pytest.raises(SourceError, match="is where the vectors are kept"):
        with opened(db, SourceSpec(table=table)):
            pytest.fail("must not open")


def test_opened_source_wrong_condition_named_as_the_option(db):
    """What else is wrong keeps the name of the file."""
    with pytest.raises(SourceError, match=r"^--where: .*gone"):
        with opened(db, SourceSpec(table="docs", columns=("body",), where="gone = 1")):
            pytest.fail("must not open")
    with pytest.raises(SourceError, match=r"a\.db: .*gone"):
        with opened(db, SourceSpec(table="gone", where="gone = 1")):
            pytest.fail("must not open")


def test_opened_source_missing_file_refused(tmp_path):
    """Nothing is made."""
    with pytest.raises(SourceError, match="no such file"):
        with opened(tmp_path / "gone.db", SourceSpec(table="docs")):
            pytest.fail("must not open")
    assert list(tmp_path.iterdir()) == []


# The small ones


@pytest.mark.parametrize(
    ("db", "into", "expected"),
    [
        ("a.db", None, False),
        ("a.db", "a.db", False),
        ("a.db", "b.db", True),
        ("a.db", "./a.db", False),
    ],
)
def test_is_elsewhere_by_the_path(db, into, expected, tmp_path, monkeypatch):
    """The same file named in two ways is the same file."""
    monkeypatch.chdir(tmp_path)
    assert is_elsewhere(db, into) is expected
    assert is_elsewhere(tmp_path / db, into) is expected


@pytest.mark.parametrize("how", ["link", "dots"])
def test_is_elsewhere_another_way_to_the_same_file_is_not(db, tmp_path, how):
    """``sync`` would ask for the other file, which is this one."""
    (tmp_path / "folder").mkdir()
    other = tmp_path / "folder" / ".." / "a.db"
    if how == "link":
        other = tmp_path / "link.db"
        other.symlink_to(db)
    assert is_elsewhere(db, other) is False


def test_require_answer_no_refused():
    """Nobody to ask is leave to go on."""
    require(None, "x", "Really?")
    require(lambda question: question == "Really?", "x", "Really?")
    with pytest.raises(SourceError, match=r"^x: nothing was changed, .* was no: Really\?"):
        require(lambda question: False, "x", "Really?")
