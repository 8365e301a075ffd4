"""Which argument is the database, and which ones are names."""

from __future__ import annotations

import os

import click
import pytest
from click.testing import CliRunner

from datasette_embed.cli.arguments import database_and
from datasette_embed.cli.arguments import names as names_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a file without a suffix, and a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("LLM_EMBEDDINGS_DB", "env")
    return tmp_path


def called(names, arguments, code=0):
    """Return what a command of these names is called with, or what it says."""
    seen = []

    @click.command()
    @database_and(*names)
    @click.option("-n")
    def command(**options):
        seen.append(options)

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == code, result.output
    return result.output if code else tuple(v for k, v in seen[0].items() if k != "n")


ONE = ("collection",)
TWO = ("collection", "[entry_id]")
MANY = ("[collections...]",)


@pytest.mark.parametrize(
    ("names", "arguments", "expected"),
    [
        ((), [], ("env",)),
        ((), ["x"], ("x",)),
        ((), ["-d", "x"], ("x",)),
        (ONE, ["c"], ("env", "c")),
        (ONE, ["x", "c"], ("x", "c")),
        (ONE, ["c", "-d", "x"], ("x", "c")),
        (ONE, ["--database", "x", "a.db"], ("x", "a.db")),
        (ONE, ["folder"], ("env", "folder")),
        (ONE, ["a/b"], ("env", "a/b")),
        (TWO, ["c"], ("env", "c", None)),
        (TWO, ["c", "1"], ("env", "c", "1")),
        (TWO, ["x", "c", "1"], ("x", "c", "1")),
        (TWO, ["x.db", "c"], ("x.db", "c", None)),
        (TWO, ["x.SQLITE", "c"], ("x.SQLITE", "c", None)),
        (TWO, ["x.sqlite3", "c"], ("x.sqlite3", "c", None)),
        (TWO, ["file", "c"], ("file", "c", None)),
        (TWO, ["folder", "1"], ("env", "folder", "1")),
        (TWO, ["./x", "c"], ("./x", "c", None)),
        (TWO, ["", "c"], ("env", "", "c")),
        (TWO, [500 * "x", "c"], ("env", 500 * "x", "c")),
        (TWO, ["-d", "x", "file", "1"], ("x", "file", "1")),
        (TWO, ["--", "-x", "-1"], ("env", "-x", "-1")),
        (("collection", "text"), ["c", "t"], ("env", "c", "t")),
        (("[collection]", "[entry_id]"), [], ("env", None, None)),
        (("[collection]", "[entry_id]"), ["c", "1"], ("env", "c", "1")),
        (MANY, [], ("env", ())),
        (MANY, ["a", "b", "c"], ("env", ("a", "b", "c"))),
        (MANY, ["x.db", "b", "c"], ("x.db", ("b", "c"))),
        (MANY, ["-d", "x", "x.db"], ("x", ("x.db",))),
    ],
)
def test_database_and_names_both_forms(folder, names, arguments, expected):
    """Ours with the database first, and LLM's with -d or none."""
    assert called(names, arguments) == expected


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        (ONE, [], "Error: Missing argument 'COLLECTION'.\n"),
        (ONE, ["-d", "x"], "Error: Missing argument 'COLLECTION'.\n"),
        (
            ONE,
            ["file"],
            "Error: Missing argument 'COLLECTION'. (file is taken for the database.)\n",
        ),
        (TWO, ["x.db"], "'COLLECTION'. (x.db is taken for the database.)\n"),
        (("collection", "text"), ["c"], "Error: Missing argument 'TEXT'.\n"),
        (ONE, ["x", "c", "d"], "Error: Got unexpected extra arguments (c d)\n"),
        (ONE, ["x.db", "c", "d"], "Error: Got unexpected extra argument (d)\n"),
        (ONE, ["c", "-d", ""], "Invalid value for '-d' / '--database': is empty"),
    ],
)
def test_wrong_number_of_arguments_is_wrong_usage(folder, names, arguments, words):
    """In click's words, with exit code 2."""
    assert words in called(names, arguments, 2)


@pytest.mark.parametrize(
    ("names", "usage"),
    [
        ((), "[OPTIONS] [DB]\n"),
        (TWO, "[OPTIONS] [DB] COLLECTION [ID]\n"),
        (("old", "new"), "[OPTIONS] [DB] OLD NEW\n"),
        (MANY, "[OPTIONS] [DB] [COLLECTION]...\n"),
    ],
)
def test_help_shows_both_forms(names, usage):
    """One usage line, and one option."""
    help_text = click.unstyle(_help(names))
    assert usage in help_text
    assert "-d, --database PATH" in help_text


def _help(names):
    @click.command()
    @database_and(*names)
    def command(**options):
        raise AssertionError("help does not run it")

    return CliRunner().invoke(command, ["--help"]).output


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ()), ("a", ("a",)), ("a, b c ,d", ("a", "b c", "d")), ("a,,b,", ("a", "b"))],
)
def test_names_of_a_list_with_commas(value, expected):
    """White space around a name is none of it."""
    assert names_of(None, None, value) == expected


@pytest.mark.parametrize("value", ["", " ", ",", " ,\t"])
def test_names_of_an_empty_list_refused(value):
    """A variable of the shell that is not set does not mean none."""
    with pytest.raises(click.BadParameter, match="is empty"):
        names_of(None, None, value)


def test_no_database_named_is_llms(folder, monkeypatch):
    """Without LLM_EMBEDDINGS_DB too; an empty variable is none."""
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("LLM_EMBEDDINGS_DB")
        else:
            monkeypatch.setenv("LLM_EMBEDDINGS_DB", value)
        assert called(ONE, ["c"]) == (
            os.path.join(os.environ["LLM_USER_PATH"], "embeddings.db"),
            "c",
        )
