"""``similarities``: a table of related rows, from the command line."""

from __future__ import annotations

import struct

import pytest

from tests.storage import blob_of, embed, execute, make_docs, query, refused
from tests.test_explore_neighbors import oracle

ROWS = [(n, f"text number {n}") for n in range(12)]


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded."""
    path = make_docs(tmp_path / "a.db", ROWS)
    embed("create", path, "docs", "--model", "count")
    return path


def test_similarities_nothing_on_stdout_counts_on_stderr(db):
    """Ten others for each entry; a second run has nothing to do."""
    said = embed("similarities", db, "docs")
    assert said.stdout == ""
    assert said.stderr.splitlines() == [
        f"{db}: table similarities: 120 pairs of 12 entries, 12 of them computed",
        "120 added, 0 changed, 0 removed",
    ]
    assert query(db, "select count(*), count(distinct id) from similarities") == [(120, 12)]
    before = db.read_bytes()
    said = embed("similarities", "docs", "-d", db, "--only-changed")
    assert said.stderr.splitlines() == [
        f"{db}: table similarities: 120 pairs of 12 entries, 0 of them computed",
        "0 added, 0 changed, 0 removed",
    ]
    assert db.read_bytes() == before


def test_similarities_joined_table_is_the_oracle(db):
    """The nearest others of an entry, in a table of another name and length."""
    embed("similarities", db, "docs", "--table", "related", "-n", "3")
    related = query(
        db, "select other_id, score from related where id = '7' order by score desc, other_id"
    )
    vectors = {str(n): list(struct.unpack("<8f", blob_of(text))) for n, text in ROWS}
    wanted = oracle(vectors, 3)["7"]
    assert [other for other, _ in related] == [other for other, _ in wanted]
    assert [score for _, score in related] == pytest.approx([score for _, score in wanted])


def test_similarities_after_sync_only_what_changed(db):
    """The two commands of a scheduled job."""
    embed("similarities", db, "docs", "-n", "2")
    execute(db, "update docs set body = 'other' where id = 3", "delete from docs where id = 4")
    embed("sync", db, "docs")
    embed("similarities", db, "docs", "-n", "2", "--only-changed")
    incremental = query(db, "select * from similarities order by 1, 2")
    embed("similarities", db, "docs", "-n", "2", "--table", "fresh")
    assert incremental == query(db, "select * from fresh order by 1, 2")
    assert {row[0] for row in incremental} == {str(n) for n in range(12) if n != 4}


def test_similarities_unusable_vectors_said(db):
    """They are left out, of both columns."""
    execute(db, "update embeddings set embedding = zeroblob(32) where id = '3'")
    said = embed("similarities", db, "docs")
    assert f"1 row left out: no usable vector. Which: datasette embed check {db}" in said.stderr
    assert query(db, "select count(*) from similarities where '3' in (id, other_id)") == [(0,)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("nope",), "Collection 'nope' does not exist. Collections in this file: docs"),
        (("docs", "--table", "docs"), "has a table 'docs' that was not made here: choose anot"),
        (("docs", "--table", "embeddings"), "the name 'embeddings' is taken"),
    ],
)
def test_similarities_bad_input_one_line(db, options, words):
    """Nothing is written."""
    assert words in refused("similarities", db, *options, files=[db])


@pytest.mark.parametrize("options", [("-n", "0"), ("--table", " "), ("extra",)])
def test_similarities_wrong_usage_exit_code_2(db, options):
    """As every command."""
    refused("similarities", db, "docs", *options, files=[db], code=2)


def test_similarities_missing_file_not_made(tmp_path):
    """A mistyped name makes no file."""
    assert "no such file" in refused("similarities", tmp_path / "no.db", "docs")
    assert not (tmp_path / "no.db").exists()
