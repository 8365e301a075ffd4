"""How the commands print: commands to paste, tables, and nothing that moves the cursor."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from datasette_embed.cli.output import command_text, one_line, print_table, visible


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (command_text("search", "a.db", "c", "two words"), "search a.db c 'two words'"),
        (command_text("jobs show", "a b.db", 1), "jobs show 'a b.db' 1"),
        (command_text("sync", "a.db", "-c"), "sync -- a.db -c"),
        (command_text("create", "-a.db", "t", collection="c"), "create --collection c -- -a.db t"),
        (command_text("check", "$a", repair=True), "check --repair '$a'"),
        (command_text("sync", "it's.db", into=None), "sync 'it'\"'\"'s.db'"),
    ],
)
def test_command_text_can_be_pasted(command, expected):
    """Quoted for the shell, and a dash in front is no option."""
    assert command == f"datasette embed {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("naïve 日本 👩‍🚀", "naïve 日本 👩‍🚀"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u2028b\x85\x9b", "a\\u2028b\\x85\\x9b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_visible_writes_out_what_moves_the_cursor(text, expected):
    """Letters of every script and joined emoji stay as they are."""
    assert visible(text) == expected


def test_print_table_one_line_a_row(capsys, monkeypatch):
    """Whatever the ids and texts hold; None is nothing; the last column is cut."""
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("id", "text"), [("a\nb", "x\ny\x1b[0m"), (None, "long " * 1000)])
    assert capsys.readouterr().out.splitlines() == [
        "id    text",
        "a\\nb  x y\\x1b[0m",
        "      " + ("long " * 7)[:33].rstrip() + "…",
    ]


@pytest.mark.parametrize("length", [1, 2, 10, 200])
def test_one_line_is_never_longer(length):
    """Control characters become longer before the text is cut, not after."""
    for text in ("\x1b" * 50, "word " * 500, "", "short"):
        assert len(one_line(text, length)) <= length
    assert one_line("short", 10) == "short"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("arguments", [("models", "list"), ("text", "-c", "words")])
@pytest.mark.parametrize(
    ("where", "words"), [(">/dev/full", "No space left"), (">&-", "is closed")]
)
def test_output_that_cannot_be_written_is_one_line(arguments, where, words):
    """A full disk and a closed standard output are no traceback, and no success."""
    script = "from datasette.cli import cli; cli()"
    command = shlex.join([sys.executable, "-c", script, "embed", *arguments])
    done = subprocess.run(f"{command} {where}", shell=True, capture_output=True, text=True)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert words in line
