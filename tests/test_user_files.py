"""Small files in a user's folder, replaced whole."""

from __future__ import annotations

import os

import pytest

from datasette_embed.errors import SourceError
from datasette_embed.user_files import read_line, replace_text


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
