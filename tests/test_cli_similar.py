"""``similar``: what LLM's command does, option for option."""

from __future__ import annotations

import json
import math
import struct
import sys

import pytest

from datasette_embed import database
from datasette_embed.cli.arguments import read_input
from datasette_embed.errors import SourceError
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


@pytest.fixture
def llm_file(tmp_path, counting_model):
    """A file as LLM writes it: no tables of ours, content and metadata stored."""
    path = tmp_path / "llm.db"
    rows = [
        ("a", [1, 0], "Café\n  two lines\t.", '{"topic": "é"}'),
        ("b", [1, 1], None, None),
        ("A_1", [0, 1], "", "{}"),
        ("a_2", [-1, 0], "x", None),
        ("aX3", [-1, -1], "y", None),
    ]
    execute(
        path,
        "create table collections (id integer primary key, name text, model text)",
        "create table embeddings (collection_id integer, id text, embedding blob, content text,"
        " content_blob blob, content_hash blob, metadata text, updated integer,"
        " primary key (collection_id, id))",
        "insert into collections values (1, 'docs', 'counting')",
    )
    for entry_id, vector, content, metadata in rows:
        blob = struct.pack("<2f", *vector).hex()
        quoted = [
            "null" if text is None else "'" + text.replace("'", "''") + "'"
            for text in (content, metadata)
        ]
        execute(
            path,
            f"insert into embeddings values (1, '{entry_id}', x'{blob}', {quoted[0]}, null, null,"
            f" {quoted[1]}, 0)",
        )
    return path


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def ranking(query_vector, without=None):
    """Return (id, score, text) of all rows, nearest first, in float64."""
    scores = [(str(n), cosine(vector_of(t), query_vector), t) for n, t in ROWS if str(n) != without]
    return sorted(scores, key=lambda item: (-item[1], item[0]))


def found_by(*arguments, input=None):
    """Return the objects that ``similar`` prints, one a line."""
    said = embed("similar", *arguments, input=input)
    assert said.stderr == ""
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_similar_to_an_entry_itself_left_out_and_no_model_call(db, counting_model):
    """Its vector is in the file; the text comes from the table."""
    found = found_by(db, "docs", "3", "-n", "99")
    expected = ranking(vector_of(ROWS[3][1]), "3")
    assert [(hit["id"], hit["content"]) for hit in found] == [(i, t) for i, _, t in expected]
    assert [hit["score"] for hit in found] == pytest.approx([s for _, s, _ in expected], abs=1e-6)
    assert {tuple(hit) for hit in found} == {("id", "score", "content", "metadata")}
    assert {hit["metadata"] for hit in found} == {None}
    assert len(found_by(db, "docs", "3")) == 10
    assert counting_model.calls == []


def test_similar_lines_are_llms(llm_file):
    """Stored content and metadata, ASCII only, in LLM's order of keys."""
    lines = embed("similar", llm_file, "docs", "b").stdout.splitlines()
    assert lines[0].startswith('{"id": "A_1", "score": 0.707')
    assert lines[0].endswith(', "content": "", "metadata": {}}')
    assert lines[1].startswith('{"id": "a", "score": 0.707')
    assert lines[1].endswith(
        ', "content": "Caf\\u00e9\\n  two lines\\t.", "metadata": {"topic": "\\u00e9"}}'
    )
    assert [json.loads(line)["id"] for line in lines] == ["A_1", "a", "a_2", "aX3"]


def test_similar_plain_is_llms(llm_file):
    """Content and metadata indented by two; nothing for what is empty."""
    scores = {hit["id"]: hit["score"] for hit in found_by(llm_file, "docs", "b")}
    for option in ("-p", "--plain"):
        assert embed("similar", llm_file, "docs", "b", "-n", "2", option).stdout == (
            f"A_1 ({scores['A_1']})\n\n\n"
            f'a ({scores["a"]})\n\n  Café\n    two lines\t.\n  {{"topic": "\\u00e9"}}\n\n'
        )


def test_similar_plain_control_characters_are_written_out(llm_file):
    """What a file says cannot send the terminal a command."""
    execute(llm_file, "update embeddings set content = char(27) || '[2J' || char(13, 10) || 'x'")
    said = embed("similar", llm_file, "docs", "b", "-n", "1", "-p")
    assert "\x1b" not in said.stdout
    assert "\n  \\x1b[2J\n  x\n" in said.stdout


def test_similar_table_for_people(db):
    """Score, id and the beginning of the text, in columns."""
    lines = embed("similar", db, "docs", "3", "-n", "3", "--table").stdout.splitlines()
    assert lines[0].split() == ["score", "id", "text"]
    expected = [f"{s:.3f} {i} {t}" for i, s, t in ranking(vector_of(ROWS[3][1]), "3")[:3]]
    assert [" ".join(line.split()) for line in lines[1:]] == expected
    refused("similar", db, "docs", "3", "-p", "-t", code=2)


def test_similar_to_content_calls_the_model_once(db, counting_model, tmp_path):
    """From an option, a file or stdin: the same entries."""
    path = tmp_path / "query.txt"
    path.write_text("some words", "utf-8")
    expected = [i for i, _, _ in ranking(vector_of("some words", Kind.QUERY))][:4]
    for arguments, stdin in (
        (["-c", "some words"], None),
        (["--content", "some words"], "other"),
        (["-i", path], None),
        (["--input", "-"], "some words"),
    ):
        found = found_by(db, "docs", "-n", "4", *arguments, input=stdin)
        assert [hit["id"] for hit in found] == expected
    assert counting_model.calls == [["some words"]] * 4


def test_similar_to_binary_content(db, counting_model, tmp_path):
    """Bytes stay bytes; without --binary they are no text."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"\xff\x00")
    found = found_by(db, "docs", "-n", "1", "-i", path, "--binary")
    assert found[0]["id"] == ranking(vector_of(b"\xff\x00", Kind.QUERY))[0][0]
    assert counting_model.calls == [[b"\xff\x00"]]
    error = refused("similar", db, "docs", "-i", path, files=[db])
    assert error == f"{path}: is not UTF-8 text. To embed its bytes use --binary"
    counting_model.supports_binary = False
    error = refused("similar", db, "docs", "-i", path, "--binary", files=[db])
    assert error == "counting: This model does not support binary data, only text strings"


@pytest.mark.parametrize(
    ("prefix", "ids"),
    [("a_", ["a_2"]), ("a", ["a", "a_2", "aX3"]), ("A", ["A_1"]), ("%", []), ("", None)],
)
def test_similar_prefix_is_exact(llm_file, prefix, ids):
    """No wildcards, and upper case is not lower case."""
    said = embed("similar", llm_file, "docs", "b", "--prefix", prefix)
    expected = ["A_1", "a", "a_2", "aX3"] if ids is None else ids
    assert [json.loads(line)["id"] for line in said.stdout.splitlines()] == expected
    assert bool(said.stderr) is (expected == [])


def test_similar_ties_are_ordered_by_id(llm_file):
    """Whatever the order in the file."""
    blob = struct.pack("<2f", 1, 2).hex()
    execute(llm_file, f"update embeddings set embedding = x'{blob}'")
    found = found_by(llm_file, "docs", "b", "-n", "3")
    assert [hit["id"] for hit in found] == ["A_1", "a", "aX3"]


def test_similar_number_none_or_less(db, counting_model):
    """None is none; less than none is no number; neither means all."""
    assert found_by(db, "docs", "3", "-n", "0", "--prefix", "1") == []
    assert found_by(db, "docs", "-c", "x", "--number", "0") == []
    assert counting_model.calls == []
    for number in ("-1", "many"):
        error = refused("similar", db, "docs", "3", "-n", number, code=2)
        assert error.startswith("Invalid value for '-n' / '--number'")


def test_similar_damaged_vectors_said_others_found(db):
    """One bad vector spoils no search, and is not worth a traceback when asked for."""
    for entry_id, value in enumerate(["x'00'", "'text'", "null", "zeroblob(32)", "zeroblob(16)"]):
        execute(db, f"update embeddings set embedding = {value} where id = '{entry_id}'")
    execute(db, f"update embeddings set embedding = x'{'0000c07f' * 8}' where id = '6'")
    said = embed("similar", db, "docs", "5", "-n", "99")
    ids = {json.loads(line)["id"] for line in said.stdout.splitlines()}
    assert ids == {"7", "8", "9", "10", "11"}
    assert f"6 rows left out: no usable vector. Which: datasette embed check {db}" in said.stderr
    for entry_id in ("0", "1", "2", "3", "4", "6"):
        error = refused("similar", db, "docs", entry_id, files=[db])
        assert error == f"the stored vector of entry '{entry_id}' cannot be used"
        assert refused("similar", db, "docs", entry_id, "-n", "0") == error


@pytest.mark.parametrize("metadata", ["{", '{"a": NaN}', "[" * 100_000])
def test_similar_damaged_metadata_comes_as_its_text(llm_file, metadata):
    """Every line is JSON that any program reads."""
    execute(llm_file, f"update embeddings set metadata = '{metadata}' where id = 'a'")
    found = {hit["id"]: hit["metadata"] for hit in found_by(llm_file, "docs", "b")}
    assert (found["a"], found["A_1"]) == (metadata, {})


@pytest.mark.parametrize("value", ["x'ff'", "cast(x'ff' as text)"])
def test_similar_content_and_metadata_that_are_no_text_show_where(llm_file, value):
    """A damaged file is no traceback."""
    execute(llm_file, f"update embeddings set content = {value}, metadata = {value} where id = 'a'")
    found = {hit["id"]: hit for hit in found_by(llm_file, "docs", "b")}
    assert (found["a"]["content"], found["a"]["metadata"]) == ("\ufffd", "\ufffd")
    for option in ("-p", "-t"):
        assert "A_1" in embed("similar", llm_file, "docs", "b", option).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("docs",), "Must provide content or an ID for the comparison"),
        (("docs", "-c", ""), "Must provide content or an ID for the comparison"),
        (("docs", "-c", " \n"), "No content provided: what to compare with is empty"),
        (("docs", "-i", "-"), "No content provided: what to compare with is empty"),
        (("docs", "-i", "-", "--binary"), "No content provided: what to compare with is empty"),
        (("docs", "-i", "/nope/x"), "/nope/x: cannot be read: No such file"),
        (("docs", "99"), "Collection 'docs' has no entry with the id '99'"),
        (("docs", ""), "Collection 'docs' has no entry with the id ''"),
        (("nope", "1"), "Collection 'nope' does not exist. Collections in this file: docs"),
        (("docs", "-c", "ä ö"), "counting: does not know a single word of this text"),
    ],
)
def test_similar_bad_input_one_line(db, arguments, words):
    """What is wrong, and what there is."""
    assert refused("similar", *arguments, "-d", db, files=[db]).startswith(words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("docs", "1", "-c", "x"), "Provide an ID, --content or --input: one of them"),
        (("docs", "-i", "x", "-c", "x"), "Provide an ID, --content or --input: one of them"),
        (("docs", "1", "--binary"), "--binary must be used with --input"),
        ((), "Missing argument 'COLLECTION'."),
        (("docs", "1", "2"), "Got unexpected extra argument (2)"),
    ],
)
def test_similar_wrong_usage_exit_code_2(db, arguments, words):
    """An argument that would be passed over in silence is refused."""
    assert refused("similar", *arguments, "-d", db, files=[db], code=2) == words


def test_similar_stdin_closed_one_line(monkeypatch):
    """Under a timer there may be none."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SourceError, match="standard input: is closed"):
        read_input("-", False)


def test_similar_model_not_registered_entries_are_compared_all_the_same(llm_file):
    """Stored vectors need no model; a content does."""
    execute(llm_file, "update collections set model = 'gone'")
    assert len(found_by(llm_file, "docs", "b")) == 4
    error = refused("similar", llm_file, "docs", "-c", "x", files=[llm_file])
    assert error.startswith("Unknown model: gone. Known models: counting (count)")


def test_similar_read_only_file_and_folder(db, monkeypatch):
    """Nothing is written, so nothing need be writable, nor is it opened so."""
    opened = []
    connect = database._connect

    def noted(path, options):
        opened.append(options)
        return connect(path, options)

    monkeypatch.setattr(database, "_connect", noted)
    db.chmod(0o444)
    db.parent.chmod(0o555)
    try:
        assert len(found_by(db, "docs", "3")) == 10
    finally:
        db.parent.chmod(0o755)
    assert opened and set(opened) <= {"mode=ro", "mode=ro&immutable=1"}


def test_similar_missing_file_stays_missing(tmp_path):
    """LLM leaves an empty file behind."""
    gone = tmp_path / "gone.db"
    assert refused("similar", gone, "docs", "1") == f"{gone}: no such file"
    assert refused("similar", "docs", "1", "-d", gone) == f"{gone}: no such file"
    error = refused("similar", "docs", "1")
    assert error.startswith(f"{tmp_path / 'llm' / 'embeddings.db'}: no such file. It is the")
    assert not gone.exists() and not (tmp_path / "llm").exists()


def test_similar_file_without_collections_refused(tmp_path):
    """One line, and the file stays as it is."""
    path = make_docs(tmp_path / "b.db", ROWS)
    error = refused("similar", path, "docs", "1", files=[path])
    assert error == "Collection 'docs' does not exist. Collections in this file: none"
    execute(path, "create table collections (id integer primary key, title text)")
    error = refused("similar", path, "docs", "1", files=[path])
    assert "already has a table named 'collections' of its own" in error


def test_similar_only_entry_of_its_collection_says_nothing(db):
    """There is nothing else to compare it with, and that is no error."""
    execute(db, "delete from embeddings where id != '3'")
    assert found_by(db, "docs", "3") == []
