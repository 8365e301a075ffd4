"""Models file: written whole, read back, never overwritten when it is damaged."""

from __future__ import annotations

import json
import os

import pytest

from datasette_embed.errors import SourceError, UnknownModelError
from datasette_embed.models_file import add_model_entry, read_model_entries, remove_model_entry
from datasette_embed.settings import ModelEntry

FIRST = ModelEntry("sentence-transformers", "first", aliases=("one",))
SECOND = ModelEntry("sentence-transformers", "second", model_id="two", truncate_dim=8)


def test_read_no_file_no_entries():
    """Nothing registered is no error."""
    assert read_model_entries() == ()


def test_add_two_entries_both_are_read(user_directory):
    """The file is a JSON list of the documented shape, in the folder that was made for it."""
    assert add_model_entry(FIRST) == user_directory / "models.json"
    add_model_entry(SECOND)
    assert read_model_entries() == (FIRST, SECOND)
    assert json.loads((user_directory / "models.json").read_text("utf-8")) == [
        {"provider": "sentence-transformers", "model": "first", "aliases": ["one"]},
        {
            "provider": "sentence-transformers",
            "model": "second",
            "id": "two",
            "truncate_dim": 8,
        },
    ]
    assert os.listdir(user_directory) == ["models.json"]


def test_add_same_id_replaces_it():
    """Registering again changes the entry."""
    add_model_entry(FIRST)
    changed = ModelEntry("sentence-transformers", "first", aliases=("uno",))
    add_model_entry(changed)
    assert read_model_entries() == (changed,)


@pytest.mark.parametrize("name", ["one", "sentence-transformers/first"])
def test_remove_by_id_or_alias_leaves_the_others(name):
    """Either name will do."""
    add_model_entry(FIRST)
    add_model_entry(SECOND)
    assert remove_model_entry(name) == FIRST
    assert read_model_entries() == (SECOND,)


def test_remove_unknown_error_lists_what_is_there():
    """A name that was never registered changes nothing."""
    add_model_entry(SECOND)
    with pytest.raises(UnknownModelError, match="Unknown model: nope. Known models: two"):
        remove_model_entry("nope")
    assert read_model_entries() == (SECOND,)


@pytest.mark.parametrize("text", ["{", "{}", '[{"provider": "x"}]', "\xff"])
def test_damaged_file_error_and_left_as_it_was(user_directory, text):
    """What a person wrote by hand is not thrown away."""
    user_directory.mkdir()
    path = user_directory / "models.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match="mend or remove it"):
        read_model_entries()
    with pytest.raises(SourceError, match="mend or remove it"):
        add_model_entry(FIRST)
    assert path.read_bytes() == text.encode("latin-1")


def test_write_fails_error_and_nothing_left_behind(user_directory, monkeypatch):
    """Half a file is never seen, nor a temporary one."""
    add_model_entry(FIRST)

    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SourceError, match="cannot be written .disk full"):
        add_model_entry(SECOND)
    assert read_model_entries() == (FIRST,)
    assert os.listdir(user_directory) == ["models.json"]
