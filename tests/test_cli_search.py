"""``search``: data on stdout, talk on stderr."""

from __future__ import annotations

import json
import math

import pytest

from datasette_embed.cli import contents
from datasette_embed.models import Kind
from tests.fakes import vector_of
from tests.storage import embed, execute, make_docs, refused

ROWS = [(n, f"text number {n}") for n in range(12)]


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded."""
    path = make_docs(tmp_path / "a.db", ROWS)
    embed("create", path, "docs", "--model", "count")
    counting_model.calls.clear()
    return path


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def ranking(query_vector, without=None):
    """Return (id, score, text) of all rows, nearest first, in float64."""
    scores = [(str(n), cosine(vector_of(t), query_vector), t) for n, t in ROWS if str(n) != without]
    return sorted(scores, key=lambda item: (-item[1], item[0]))


def test_search_json_is_the_exact_ranking(db, counting_model):
    """The query is embedded as a query, the text comes from the table."""
    before = db.read_bytes()
    found = json.loads(embed("search", db, "docs", "some words", "-n", "4", "--json").stdout)
    expected = ranking(vector_of("some words", Kind.QUERY))[:4]
    assert [(hit["id"], hit["content"]) for hit in found] == [(i, t) for i, _, t in expected]
    assert [hit["score"] for hit in found] == pytest.approx([s for _, s, _ in expected], abs=1e-6)
    assert counting_model.calls == [["some words"]]
    assert db.read_bytes() == before


@pytest.mark.parametrize("dimensions", [8, None])
def test_search_and_sync_model_of_another_length_named(db, counting_model, dimensions):
    """With both lengths, whether the model or the collection has told the right one."""
    counting_model.embed_batch = lambda items: [[1.0] * 4] * len(items)
    counting_model.dimensions = dimensions
    words = "counting: a vector has 4 dimensions instead of 8. Was it made by another model, or"
    assert words in refused("search", db, "docs", "some words")
    execute(db, "insert into docs values (20, 'new')")
    assert words in refused("sync", db, "docs")


def test_search_table_on_stdout_nothing_on_stderr(db):
    """Ten hits by default, in columns."""
    said = embed("search", db, "docs", "some words")
    lines = said.stdout.splitlines()
    assert lines[0].split() == ["score", "id", "text"]
    expected = [f"{s:.3f} {i} {t}" for i, s, t in ranking(vector_of("some words", Kind.QUERY))[:10]]
    assert [" ".join(line.split()) for line in lines[1:]] == expected
    assert said.stderr == ""


def test_search_text_stored_wins_and_gone_rows_are_shown_without(db):
    """The stored text is shown where it is stored; a gone table is said, not fatal."""
    execute(db, "update embeddings set content = 'stored' where id = '5'")
    hits = json.loads(embed("search", db, "docs", "x", "-n", "12", "--json").stdout)
    assert {hit["id"]: hit["content"] for hit in hits}["5"] == "stored"
    execute(db, "drop table docs")
    said = embed("search", db, "docs", "x", "-n", "12", "--json")
    assert {h["content"] for h in json.loads(said.stdout)} == {None, "stored"}
    assert "Some texts are not shown: " in said.stderr
    assert "no table named 'docs'" in said.stderr
    execute(db, "update _embed_collections set source = 'damaged'")
    said = embed("search", db, "docs", "x", "--json")
    assert len(json.loads(said.stdout)) == 10
    assert "cannot be read" in said.stderr


def test_search_long_or_unknown_text_warned_on_stderr(db, counting_model):
    """What the model does not read is said; stdout stays data."""
    counting_model.max_tokens = 4
    said = embed("search", db, "docs", "one two three four", "--json")
    assert "Warning: the text is 6 tokens long and counting reads 4" in said.stderr
    said = embed("search", db, "docs", "ä ö ü or so", "--json")
    assert "much of this text is unknown to counting" in said.stderr
    assert len(json.loads(said.stdout)) == 10


def test_search_damaged_vectors_counted_others_found(db):
    """Wrong length, NaN, text and NULL are left out and said."""
    for entry_id, value in enumerate(["x'00'", "'text'", "null", "zeroblob(32)", "zeroblob(16)"]):
        execute(db, f"update embeddings set embedding = {value} where id = '{entry_id}'")
    execute(db, f"update embeddings set embedding = x'{'0000c07f' * 8}' where id = '6'")
    said = embed("search", db, "docs", "x", "-n", "99", "--json")
    assert {hit["id"] for hit in json.loads(said.stdout)} == {"5", "7", "8", "9", "10", "11"}
    assert f"6 rows left out: no usable vector. Which: datasette embed check {db}" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("search", "nope", "x"),
            "Collection 'nope' does not exist. Collections in this file: doc",
        ),
        (("search", "docs", " "), "the text to search for: is empty"),
        (("search", "docs", "ä ö"), "counting: does not know a single word of this text"),
    ],
)
def test_search_bad_input_one_line(db, arguments, words):
    """What is wrong, and what there is."""
    command, *rest = arguments
    assert words in refused(command, db, *rest, files=[db])


@pytest.mark.parametrize("number", ["-1", "many"])
def test_search_bad_number_exit_code_2(db, number):
    """Less than nothing is no number of neighbours."""
    assert "Invalid value for '-n'" in refused("search", db, "docs", "1", "-n", number, code=2)


def test_search_none_wanted_none_found(db, counting_model):
    """Nothing is printed, and the model is not called."""
    said = embed("search", db, "docs", "x", "-n", "0", "--json")
    assert (json.loads(said.stdout), said.stderr, counting_model.calls) == ([], "", [])


def test_search_prefix_is_exact(db):
    """Only ids that begin so; the best of those."""
    found = json.loads(embed("search", db, "docs", "x", "--prefix", "1", "--json").stdout)
    expected = [i for i, _, _ in ranking(vector_of("x", Kind.QUERY)) if i in ("1", "10", "11")]
    assert [hit["id"] for hit in found] == expected
    said = embed("search", db, "docs", "x", "--prefix", "%", "--json")
    assert json.loads(said.stdout) == []
    assert said.stderr == "No other entry of 'docs' has an id that begins with '%'\n"


def test_search_model_not_registered_one_line(db):
    """Words need the model."""
    execute(db, "update collections set model = 'gone'", "update _embed_collections set model = ''")
    error = refused("search", db, "docs", "x", files=[db])
    assert error.startswith("Unknown model: gone. Known models: counting (count)")


def test_search_model_takes_no_text_one_line(db, counting_model):
    """A model of pictures cannot be asked in words."""
    counting_model.supports_text = False
    assert "does not support text strings" in refused("search", db, "docs", "x", files=[db])


def test_search_foreign_or_no_file_refused(tmp_path):
    """Somebody else's tables are named as such, a missing file stays missing."""
    path = make_docs(tmp_path / "b.db", ROWS)
    execute(path, "create table collections (id integer primary key, title text)")
    error = refused("search", path, "docs", "x", files=[path])
    assert "already has a table named 'collections' of its own" in error
    gone = tmp_path / "gone.db"
    assert refused("search", gone, "docs", "x") == f"{gone}: no such file"
    assert not gone.exists()


def test_search_empty_collection_says_so(db):
    """No hits is no error."""
    execute(db, "delete from embeddings")
    said = embed("search", db, "docs", "x", "--json")
    assert (json.loads(said.stdout), said.stderr) == (
        [],
        "Collection 'docs' has no entries to compare with\n",
    )


def test_search_view_that_never_ends_texts_are_not_shown(db, monkeypatch):
    """A stranger's file cannot make a search hang."""
    monkeypatch.setattr(contents, "LIMIT_SECONDS", 0.05)
    execute(
        db,
        "alter table docs rename to renamed",
        "create view docs as with recursive n(id) as (select 1 union all select id + 1 from n)"
        " select -id as id, 'x' as body from n",
    )
    said = embed("search", db, "docs", "x", "--json")
    assert len(json.loads(said.stdout)) == 10
    assert said.stderr == "No text is shown: reading them takes too long\n"


def test_search_rows_elsewhere_or_of_a_compound_key_said_once(db, tmp_path):
    """Hits without a text say why."""
    into = tmp_path / "vectors.db"
    embed("create", db, "docs", "--model", "count", "--into", into)
    said = embed("search", into, "docs", "x")
    assert said.stderr == (
        "No text is shown: their rows are in another file (--store keeps the text beside the "
        "vector)\n"
    )
    execute(
        db,
        "create table two (a text, b text, body text, primary key (a, b))",
        "insert into two values ('x', 'y', 'some text')",
    )
    embed("create", db, "two", "--columns", "body", "--model", "count")
    said = embed("search", db, "two", "x", "--json")
    assert [hit["id"] for hit in json.loads(said.stdout)] == ["x,y"]
    assert said.stderr == (
        "No text is shown: their rows are gone, or have a key of several columns\n"
    )


def test_search_collection_of_llm_says_why_no_text_is_shown(db):
    """Without our tables nothing says where the rows are."""
    execute(db, "update _embed_collections set source = null")
    assert embed("search", db, "docs", "x").stderr == (
        "No text is shown: the collection does not say what it was made from\n"
    )


def test_search_query_shows_its_texts(db):
    """A collection made from a query is looked up in the query."""
    sql = "select id, upper(body) from docs"
    embed("create", db, "--sql", sql, "--collection", "q", "--model", "count")
    hits = json.loads(embed("search", db, "q", "x", "--json").stdout)
    assert {hit["content"] for hit in hits} <= {text.upper() for _, text in ROWS}
    assert len(hits) == 10


def test_search_text_with_control_characters_on_one_line(db):
    """What is shown cannot clear the screen."""
    execute(db, "update docs set body = 'a' || char(27) || '[2J' || char(10) || 'b'")
    lines = embed("search", db, "docs", "x").stdout.splitlines()
    assert len(lines) == 11
    assert all(line.endswith("a\\x1b[2J b") for line in lines[1:])
