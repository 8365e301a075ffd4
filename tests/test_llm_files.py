"""LLM's own files: read where they are, written so that LLM reads them, never made by reading."""

from __future__ import annotations

import json
import os
import stat

import click
import pytest

from datasette_embed import llm_files
from datasette_embed.errors import SourceError


@pytest.fixture
def folder(tmp_path):
    """LLM's folder of this test, which does not exist yet (the fixture of conftest names it)."""
    return tmp_path / "llm"


@pytest.fixture
def aliases_file(folder):
    """A file of aliases as LLM writes it: of a chat model, and one that LLM did not write."""
    folder.mkdir()
    path = folder / "aliases.json"
    path.write_text('{"fast": "gpt-5", "odd": ["x"], "e": "counting"}\n', "utf-8")
    return path


def test_paths_follow_llms_variables(folder, monkeypatch):
    """LLM_USER_PATH moves the folder, LLM_EMBEDDINGS_DB the database."""
    assert llm_files.llm_directory() == folder
    assert llm_files.embeddings_path() == folder / "embeddings.db"
    assert llm_files.default_database() == str(folder / "embeddings.db")
    monkeypatch.setenv("LLM_EMBEDDINGS_DB", "other.db")
    assert llm_files.default_database() == "other.db"
    monkeypatch.setenv("LLM_USER_PATH", "")
    assert str(llm_files.llm_directory()) == click.get_app_dir("io.datasette.llm")


def test_reading_makes_nothing(folder):
    """Neither a file nor the folder."""
    assert llm_files.read_default_model() is None
    assert llm_files.read_aliases() == {}
    llm_files.remove_default_model()
    assert not folder.exists()


def test_default_model_written_read_removed(folder):
    """The file is LLM's: the id and nothing else."""
    llm_files.write_default_model("counting")
    assert (folder / "default_embedding_model.txt").read_text("utf-8") == "counting"
    assert llm_files.read_default_model() == "counting"
    (folder / "default_embedding_model.txt").write_text(" other\n", "utf-8")
    assert llm_files.read_default_model() == "other"
    llm_files.remove_default_model()
    assert list(folder.iterdir()) == []


def test_default_model_blank_or_unreadable(folder):
    """A blank file sets nothing; one that is no text is named."""
    folder.mkdir()
    path = folder / "default_embedding_model.txt"
    path.write_text("\n", "utf-8")
    assert llm_files.read_default_model() is None
    path.write_bytes(b"\xff")
    with pytest.raises(SourceError, match=r"default_embedding_model.txt: cannot be read as text"):
        llm_files.read_default_model()


def test_aliases_what_is_no_text_is_passed_over_and_kept(aliases_file):
    """Other people's entries stay as they are, in their order."""
    assert llm_files.read_aliases() == {"fast": "gpt-5", "e": "counting"}
    llm_files.write_alias("c", "counting")
    llm_files.write_alias("e", "other")
    assert list(json.loads(aliases_file.read_text("utf-8")).items()) == [
        ("fast", "gpt-5"),
        ("odd", ["x"]),
        ("e", "other"),
        ("c", "counting"),
    ]
    assert llm_files.remove_alias("c") == "counting"
    assert set(json.loads(aliases_file.read_text("utf-8"))) == {"fast", "odd", "e"}


def test_remove_alias_unknown_names_the_known_ones(aliases_file):
    """And leaves the file alone."""
    before = aliases_file.read_bytes()
    with pytest.raises(SourceError, match=r"has no alias 'x'. Its aliases: fast, odd, e"):
        llm_files.remove_alias("x")
    assert aliases_file.read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_aliases_damaged_named_and_left_alone(aliases_file, text):
    """LLM would write over it; what a person wrote by hand is not thrown away."""
    aliases_file.write_bytes(text.encode("latin-1"))
    for call in (
        llm_files.read_aliases,
        lambda: llm_files.write_alias("c", "counting"),
        lambda: llm_files.remove_alias("c"),
    ):
        with pytest.raises(SourceError, match=r"aliases.json: .* mend or remove it"):
            call()
    assert aliases_file.read_bytes() == text.encode("latin-1")


def test_write_keeps_permissions_and_links(aliases_file, tmp_path):
    """A file that is a link to a folder of settings stays one."""
    real = tmp_path / "settings.json"
    aliases_file.rename(real)
    aliases_file.symlink_to(real)
    real.chmod(0o640)
    llm_files.write_alias("c", "counting")
    assert aliases_file.is_symlink()
    assert json.loads(real.read_text("utf-8"))["c"] == "counting"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_write_fails_error_and_nothing_left_behind(aliases_file, monkeypatch):
    """The old file stays whole, and no temporary one beside it."""
    before = aliases_file.read_bytes()

    def fail(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SourceError, match=r"aliases.json: cannot be written \(disk full\)"):
        llm_files.write_alias("c", "counting")
    assert aliases_file.read_bytes() == before
    assert list(aliases_file.parent.iterdir()) == [aliases_file]
