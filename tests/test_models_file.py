"""Models file: written whole, read back, never overwritten when it is damaged."""

from __future__ import annotations

import json
import os

import pytest

from datasette_embed.errors import SourceError, UnknownModelError
from datasette_embed.model_entries import ModelEntry
from datasette_embed.models_file import add_model_entry, read_models_file, remove_model_entry

FIRST = ModelEntry("sentence-transformers", "first", aliases=("one",))
SECOND = ModelEntry("sentence-transformers", "second", model_id="two", options={"truncate_dim": 8})
BAD = {"provider": "sentence-transformers", "model": "first", "aliases": [""]}


def entries():
    """Return the models of the file, all of which can be used."""
    found = read_models_file()
    assert [known.reason for known in found] == [None] * len(found)
    return tuple(known.entry for known in found)


def test_read_no_file_no_entries():
    """Nothing registered is no error."""
    assert entries() == ()


def test_add_two_entries_both_are_read(user_directory):
    """The file is a JSON list of the documented shape, in the folder that was made for it."""
    assert add_model_entry(FIRST) == user_directory / "models.json"
    add_model_entry(SECOND)
    assert entries() == (FIRST, SECOND)
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
    assert entries() == (changed,)


@pytest.mark.parametrize("name", ["one", "sentence-transformers/first"])
def test_remove_by_id_or_alias_leaves_the_others(name):
    """Either name will do."""
    add_model_entry(FIRST)
    add_model_entry(SECOND)
    assert remove_model_entry(name) == FIRST.resolved_id
    assert entries() == (SECOND,)


def test_remove_unknown_error_lists_what_is_there():
    """A name that was never registered changes nothing."""
    add_model_entry(SECOND)
    with pytest.raises(UnknownModelError, match="Unknown model: nope. Known models: two"):
        remove_model_entry("nope")
    assert entries() == (SECOND,)


@pytest.mark.parametrize("text", ["{", "{}", "3", "\xff"])
def test_damaged_file_error_and_left_as_it_was(user_directory, text):
    """What a person wrote by hand is not thrown away."""
    user_directory.mkdir()
    path = user_directory / "models.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match="mend or remove it"):
        read_models_file()
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
    assert entries() == (FIRST,)
    assert os.listdir(user_directory) == ["models.json"]


@pytest.fixture
def mixed_file(user_directory):
    """A models file with two entries that cannot be used, before and behind one that can."""
    user_directory.mkdir()
    path = user_directory / "models.json"
    path.write_text(json.dumps([BAD, SECOND.as_json(), 3]), "utf-8")
    return path


def test_read_bad_entries_the_others_are_there(mixed_file):
    """Each is listed under its id, or its place, with what is wrong and what to do."""
    first, second, third = read_models_file()
    assert second.entry == SECOND
    assert (first.entry, third.entry) == (None, None)
    assert (first.name, third.name) == ("sentence-transformers/first", "models.json[2]")
    assert first.reason == (
        "models.json[0].aliases[0]: must be text that is not blank, not ''. Mend it, or: "
        "datasette embed models remove 'sentence-transformers/first'"
    )
    assert "must be an object with provider and model, not 3" in third.reason


def test_add_beside_bad_entries_they_stay_but_for_the_same_id(mixed_file):
    """What a person wrote is kept, and registering a model again mends its entry."""
    other = ModelEntry("sentence-transformers", "other")
    add_model_entry(other)
    assert json.loads(mixed_file.read_text("utf-8")) == [BAD, SECOND.as_json(), 3, other.as_json()]
    add_model_entry(FIRST)
    assert json.loads(mixed_file.read_text("utf-8")) == [
        SECOND.as_json(),
        3,
        other.as_json(),
        FIRST.as_json(),
    ]


def test_remove_bad_entry_by_the_name_it_is_listed_under(mixed_file):
    """Without an editor."""
    assert remove_model_entry("sentence-transformers/first") == "sentence-transformers/first"
    assert remove_model_entry("models.json[1]") == "models.json[1]"
    assert entries() == (SECOND,)
