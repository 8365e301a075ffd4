"""``models``: list, register, remove."""

from __future__ import annotations

import json

from tests.storage import embed, refused

BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"


def test_models_list_names_every_model(counting_model):
    """Ids with their aliases; JSON for programs."""
    said = embed("models", "list")
    assert any(line.split()[:2] == ["counting", "count"] for line in said.stdout.splitlines())
    found = {entry["id"]: entry for entry in json.loads(embed("models", "list", "--json").stdout)}
    assert found["counting"] == {
        "id": "counting",
        "aliases": ["count"],
        "dimensions": 8,
        "max_tokens": None,
        "is_local": True,
        "price_per_million_tokens": None,
        "unavailable": None,
    }
    assert (found[BUNDLED]["aliases"], found[BUNDLED]["dimensions"]) == (["minilm", "default"], 384)


def test_models_register_and_remove_change_the_users_file(user_directory):
    """A registered model is known to the next command, a removed one is not."""
    said = embed("models", "register", "sentence-transformers", "intfloat/e5-small", "-a", "e5")
    assert said.stdout == ""
    assert "Registered sentence-transformers/intfloat/e5-small in" in said.stderr
    (file,) = user_directory.iterdir()
    assert "intfloat/e5-small" in file.read_text("utf-8")
    said = embed("models", "remove", "e5")
    assert "Removed sentence-transformers/intfloat/e5-small" in said.stderr
    assert "intfloat" not in file.read_text("utf-8")


def test_models_bad_input_one_line(counting_model, user_directory):
    """Names that are taken, models that are not there; nothing is written."""
    error = refused("models", "register", "sentence-transformers", "a/b", "-a", "count")
    assert error == "The name 'count' belongs to counting"
    error = refused("models", "register", "sentence-transformers", "all-MiniLM-L6-v2")
    assert "is the bundled model: it is there already" in error
    assert "nope" in refused("models", "remove", "nope")
    refused("models", "register", "somebody", "a/b", code=2)
    assert not user_directory.exists()
