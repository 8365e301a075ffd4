"""Models by LLM's names, and the default model."""

from __future__ import annotations

import json

import pytest

import datasette_embed
from datasette_embed import model_names
from datasette_embed.errors import ConfigError, SourceError, UnknownModelError
from datasette_embed.registry import forget_registries, get_registry

BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def folder(tmp_path):
    """LLM's folder, with aliases of an embedding model and of a chat model."""
    folder = tmp_path / "llm"
    folder.mkdir()
    aliases = {"mine": "counting", "fast": "gpt-5"}
    (folder / "aliases.json").write_text(json.dumps(aliases), "utf-8")
    return folder


def test_get_embedding_model_by_id_alias_and_users_alias_the_same_object(folder, counting_model):
    """LLM makes a new instance on every call, and loads its weights again."""
    for name in ("counting", "count", "mine"):
        assert datasette_embed.get_embedding_model(name) is counting_model


def test_get_embedding_model_unknown_is_a_key_error_without_quotes(folder, counting_model):
    """The message starts as LLM's; an alias of a chat model is no name here."""
    for name in ("nope", "fast"):
        with pytest.raises(KeyError) as caught:
            datasette_embed.get_embedding_model(name)
        assert isinstance(caught.value, UnknownModelError)
        assert str(caught.value).startswith(f"Unknown model: {name}. Known models: counting")


def test_get_embedding_models_lists_each_once(folder, counting_model):
    """With and without aliases, those of LLM's file among them."""
    ids = [model.model_id for model in datasette_embed.get_embedding_models()]
    assert "counting" in ids and BUNDLED in ids and len(set(ids)) == len(ids)
    entries = datasette_embed.get_embedding_models_with_aliases()
    assert [entry.model.model_id for entry in entries] == ids
    found = {entry.model.model_id: entry.aliases for entry in entries}
    assert found["counting"] == ("count", "mine")
    aliases = datasette_embed.get_embedding_model_aliases()
    assert aliases["mine"] is aliases["count"] is aliases["counting"] is counting_model
    assert "fast" not in aliases


@pytest.mark.parametrize(
    ("query", "is_match"),
    [("COUNT", True), ("ine", True), ("countingmodel: c", True), ("", True), ("x", False)],
)
def test_matches_alias_class_or_id_in_any_case(counting_model, query, is_match):
    """A part of any of its names, as LLM looks for it."""
    entry = datasette_embed.EmbeddingModelWithAliases(counting_model, ("Mine",))
    assert entry.matches(query) is is_match


def test_default_embedding_model_set_by_alias_kept_as_id(folder, counting_model):
    """LLM reads the same file."""
    assert datasette_embed.get_default_embedding_model() is None
    datasette_embed.set_default_embedding_model("mine")
    assert datasette_embed.get_default_embedding_model() == "counting"
    assert (folder / "default_embedding_model.txt").read_text("utf-8") == "counting"
    with pytest.raises(UnknownModelError, match="Unknown model: nope"):
        datasette_embed.set_default_embedding_model("nope")
    assert datasette_embed.get_default_embedding_model() == "counting"
    datasette_embed.set_default_embedding_model(None)
    datasette_embed.set_default_embedding_model(None)
    assert datasette_embed.get_default_embedding_model() is None


def test_default_model_named_else_llms_else_the_bundled_one(folder, counting_model):
    """Who says more wins."""
    registry = get_registry()
    assert model_names.default_model(registry).model_id == BUNDLED
    (folder / "default_embedding_model.txt").write_text("count\n", "utf-8")
    assert model_names.default_model(registry) is counting_model
    assert model_names.default_model(registry, "minilm").model_id == BUNDLED
    with pytest.raises(UnknownModelError, match="Unknown model: nope"):
        model_names.default_model(registry, "nope")


def test_default_model_not_registered_here_says_which_file_sets_it(folder):
    """And two ways out."""
    (folder / "default_embedding_model.txt").write_text("clip", "utf-8")
    with pytest.raises(
        ConfigError,
        match=r"default_embedding_model.txt: sets the default to clip, which is not registered "
        r"here. Name a model with --model .minilm., or .* datasette embed models default minilm",
    ):
        model_names.default_model(get_registry())
    assert model_names.default_model(get_registry(), "minilm").model_id == BUNDLED


def test_default_model_unreadable_file_is_an_error(folder):
    """No other model is taken in silence."""
    (folder / "default_embedding_model.txt").write_bytes(b"\xff")
    with pytest.raises(SourceError, match="cannot be read as text"):
        model_names.default_model(get_registry())


def test_users_alias_added_later_is_known_to_the_next_registry(folder, counting_model):
    """A running process keeps the names it started with."""
    assert get_registry().find("later") is None
    (folder / "aliases.json").write_text('{"later": "count"}', "utf-8")
    assert get_registry().find("later") is None
    forget_registries()
    assert get_registry().find("later") is counting_model
