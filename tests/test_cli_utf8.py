"""Bytes that a shell passes on and that are no UTF-8."""

from __future__ import annotations

import pytest

from tests.storage import embed, make_docs, refused

#: What Python makes of the byte FF in an argument (PEP 383).
NO_TEXT = "\udcff"


@pytest.fixture
def db(tmp_path, counting_model):
    """A file with a collection docs."""
    path = make_docs(tmp_path / "a.db", [(1, "one"), (2, "two")])
    embed("create", path, "docs", "--model", "count")
    return path


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        (("similar", "DB", "docs", NO_TEXT), "[DB] COLLECTION [ID]"),
        (("similar", "DB", "docs", "1", "--prefix", NO_TEXT), "--prefix"),
        (("search", "DB", NO_TEXT, "x"), "[DB] COLLECTION TEXT"),
        (("search", "DB", "docs", NO_TEXT), "[DB] COLLECTION TEXT"),
        (("search", "DB", "docs", "x", "--prefix", NO_TEXT), "--prefix"),
        (("collections", "show", "DB", NO_TEXT), "[DB] NAME"),
        (("collections", "rename", "DB", "docs", NO_TEXT), "[DB] OLD NEW"),
        (("create", "DB", NO_TEXT), "[TABLE]"),
        (("create", "DB", "docs", "--columns", NO_TEXT), "--columns"),
        (("multi", "c", "--files", ".", NO_TEXT, "-d", "DB"), "--files"),
        (("text", "-m", "count", "-c", NO_TEXT), "'-c' / '--content'"),
        (("jobs", "show", "DB", NO_TEXT), "[DB] JOB_ID"),
    ],
)
def test_argument_no_utf8_is_wrong_usage(db, arguments, parameter):
    """One line that names the parameter, and never a traceback."""
    given = [str(db) if argument == "DB" else argument for argument in arguments]
    said = refused(*given, files=[db], code=2)
    assert said.startswith("Invalid value for '")
    assert parameter in said
    assert said.endswith(r"'\udcff' is not UTF-8")


@pytest.mark.parametrize(
    "arguments",
    [("create", f"{NO_TEXT}.db", "docs"), ("search", "docs", "x", "-d", f"{NO_TEXT}.db")],
)
def test_database_whose_name_is_no_utf8_one_line(tmp_path, monkeypatch, arguments):
    """SQLite takes names in UTF-8."""
    monkeypatch.chdir(tmp_path)
    said = embed(*arguments, expect=1)
    assert "is not UTF-8" in said.error
    assert list(tmp_path.glob("*.db")) == []


def test_input_file_whose_name_is_no_utf8_is_read(db, tmp_path):
    """A file may be called anything; its name is stored nowhere."""
    file = tmp_path / f"{NO_TEXT}.txt"
    try:
        file.write_text("one", "utf-8")
    except OSError:
        pytest.skip("this file system has no such names")
    by_file = embed("similar", db, "docs", "-i", str(file)).stdout
    assert by_file == embed("similar", db, "docs", "-c", "one").stdout != ""
    assert embed("text", "-m", "count", "-i", str(file)).stdout.startswith("[")
