"""``models``: list, register, remove."""

from __future__ import annotations

import json

from datasette_embed.registry import forget_registries
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
    assert error == f"{BUNDLED} is there already, without registering"
    error = refused("models", "register", "sentence-transformers", BUNDLED)
    assert error == f"{BUNDLED} is there already, without registering"
    error = refused("models", "register", "sentence-transformers", "a/b", "-a", "")
    assert error == "the entry.aliases[0]: must be text that is not blank, not ''"
    error = refused("models", "register", "sentence-transformers", " ")
    assert error == "the entry.model: must be text that is not blank, not ' '"
    assert "nope" in refused("models", "remove", "nope")
    refused("models", "register", "somebody", "a/b", code=2)
    assert not user_directory.exists()


def test_models_register_folder_its_id_holds_no_path(tmp_path, monkeypatch, user_directory):
    """A folder is kept with its whole path, under an id that anybody may see."""
    monkeypatch.chdir(tmp_path)
    for parent in ("one", "two"):
        (tmp_path / parent / "mine").mkdir(parents=True)
    said = embed("models", "register", "sentence-transformers", "one/mine")
    assert "Registered sentence-transformers/mine in" in said.stderr
    (entry,) = json.loads((user_directory / "models.json").read_text("utf-8"))
    assert entry["model"] == str(tmp_path / "one" / "mine")
    forget_registries()
    said = embed("models", "register", "sentence-transformers", str(tmp_path / "two" / "mine"))
    assert f"It takes the place of {tmp_path / 'one' / 'mine'}" in said.stderr
    forget_registries()
    assert str(tmp_path) not in embed("models", "list", "--json").stdout


def test_models_list_bad_entry_said_and_removed(user_directory):
    """One entry that cannot be used harms no other, and the command that mends it works."""
    user_directory.mkdir()
    bad = {"provider": "sentence-transformers", "model": "a/b", "aliases": [""]}
    good = {"provider": "sentence-transformers", "model": "c/d"}
    (user_directory / "models.json").write_text(json.dumps([bad, good]), "utf-8")
    said = embed("models", "list")
    assert "sentence-transformers/c/d" in said.stdout
    assert "sentence-transformers/a/b is unavailable: models.json[0].aliases[0]: must" in (
        said.stderr
    )
    embed("models", "remove", "sentence-transformers/a/b")
    forget_registries()
    said = embed("models", "list")
    assert "a/b" not in said.stderr + said.stdout
