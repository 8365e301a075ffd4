"""Small files in a user's folder, replaced whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from datasette_embed import user_files
from datasette_embed.errors import SourceError
from datasette_embed.user_files import changing, read_line, replace_text


def test_replace_text_on_disk_before_the_name_changes(tmp_path, monkeypatch):
    """After a crash there is the old file or the new one, never an empty one."""
    path = tmp_path / "new" / "a.txt"
    done = []
    sync, replace = os.fsync, os.replace

    def fsync(handle):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    replace_text(path, "text\n")
    assert [step for step in done if step != "folder"] == ["file", "replace"]
    if os.path.isdir("/proc/self/fd"):
        assert done[-1] == "folder"
    assert read_line(path) == "text"


def test_replace_text_folder_that_cannot_be_synced_is_fine(tmp_path, monkeypatch):
    """Not every system can be asked to."""
    sync_file = os.fsync

    def fsync(handle):
        if done:
            raise OSError("not here")
        done.append(handle)
        sync_file(handle)

    done = []
    monkeypatch.setattr(os, "fsync", fsync)
    replace_text(tmp_path / "a.txt", "text")
    assert read_line(tmp_path / "a.txt") == "text"
    assert len(done) == 1


def test_replace_text_first_error_is_told(tmp_path, monkeypatch):
    """That the temporary file cannot be removed either is not the news."""
    (tmp_path / "a.txt").write_text("old", "utf-8")

    def fail(words):
        def function(*paths):
            raise OSError(words)

        return function

    monkeypatch.setattr(os, "replace", fail("first"))
    monkeypatch.setattr(os, "unlink", fail("second"))
    with pytest.raises(SourceError, match=r"a\.txt: cannot be written \(first\)$"):
        replace_text(tmp_path / "a.txt", "new")
    assert read_line(tmp_path / "a.txt") == "old"


def test_replace_text_that_fails_leaves_no_file_behind(tmp_path):
    """A text that cannot be written is no reason for a half-written one."""
    with pytest.raises(UnicodeEncodeError, match="surrogates"):
        replace_text(tmp_path / "a.txt", "\ud800")
    assert list(tmp_path.iterdir()) == []


#: Changes each of the files that commands change, many times; its entries begin with a letter.
CHANGES = """
import sys
from datasette_embed.llm_files import remove_alias, write_alias, write_key
from datasette_embed.model_entries import ModelEntry
from datasette_embed.models_file import add_model_entry, remove_model_entry
letter = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
for n in range(25):
    add_model_entry(ModelEntry("onnx", f"{letter}{n}"))
    add_model_entry(ModelEntry("onnx", f"{letter}{n}-away"))
    remove_model_entry(f"onnx/{letter}{n}-away")
    write_alias(f"{letter}{n}", "minilm")
    write_alias(f"{letter}{n}-away", "minilm")
    remove_alias(f"{letter}{n}-away")
    write_key(f"{letter}{n}", "sk-1")
"""


@pytest.mark.skipif(user_files.fcntl is None, reason="this system has no such locks")
def test_two_processes_change_files_at_once_neither_loses_a_change(user_directory, tmp_path):
    """Read, changed and written by one at a time: models, aliases and keys."""
    llm_directory = tmp_path / "llm"
    environment = {**os.environ, "LLM_USER_PATH": str(llm_directory)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGES, letter],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for letter in "ab"
    ]
    for process in started:
        process.stdout.readline()
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate(timeout=60)
    assert [process.returncode for process in started] == [0, 0]
    wanted = {f"{letter}{n}" for letter in "ab" for n in range(25)}
    models = json.loads((user_directory / "models.json").read_text("utf-8"))
    assert {entry["model"] for entry in models} == wanted
    assert set(json.loads((llm_directory / "aliases.json").read_text("utf-8"))) == wanted
    keys = json.loads((llm_directory / "keys.json").read_text("utf-8"))
    assert {name for name in keys if not name.startswith("//")} == wanted
    assert sorted(os.listdir(llm_directory)) == ["aliases.json", "keys.json"]


@pytest.mark.skipif(user_files.fcntl is None, reason="this system has no such locks")
def test_changing_a_file_that_somebody_else_keeps_error(tmp_path, monkeypatch):
    """A command that was stopped in the middle of it keeps no other one waiting for ever."""
    monkeypatch.setattr(user_files, "PATIENCE_SECONDS", 0.05)
    with (
        changing(tmp_path / "a.txt"),
        pytest.raises(SourceError, match=r"a\.txt: is being changed by another command; try"),
        changing(tmp_path / "a.txt"),
    ):
        pass
    with changing(tmp_path / "a.txt"):
        replace_text(tmp_path / "a.txt", "text")


def test_changing_a_file_in_a_folder_that_is_none_error(tmp_path):
    """It says which file cannot be written."""
    (tmp_path / "a").write_text("no folder", "utf-8")
    with (
        pytest.raises(SourceError, match=r"models\.json: cannot be written"),
        changing(tmp_path / "a" / "models.json"),
    ):
        pass
