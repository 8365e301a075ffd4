"""Registry: names, sources, and what is refused at the door."""

from __future__ import annotations

import gc
import json
import logging
import weakref

import pytest
from datasette import hookimpl

from datasette_embed.errors import ModelRegistrationError, UnknownModelError
from datasette_embed.model_entries import ModelEntry
from datasette_embed.models import EmbeddingModel
from datasette_embed.models_file import add_model_entry
from datasette_embed.registry import Registry, build_registry, forget_registries, get_registry
from datasette_embed.server import warm_models
from datasette_embed.settings import Settings
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, LlmStyleModel, vector_of

BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"


def test_get_id_or_alias_the_same_object():
    """Names resolve to one instance, matched exactly."""
    registry, model = Registry(), CountingModel()
    registry.register(model, ["c", "count", "c"])
    assert registry.get("counting") is registry.get("c") is registry.get("count") is model
    assert registry.find("C") is None
    assert registry.list_models()[0].aliases == ("c", "count")


def test_get_unknown_error_lists_ids_and_aliases():
    """The message is what the person needs next."""
    registry = Registry()
    registry.register(CountingModel("b"))
    registry.register(CountingModel("a"), ("alpha", "first"))
    with pytest.raises(
        UnknownModelError, match="Unknown model: x. Known models: a .alpha, first., b"
    ):
        registry.get("x")
    assert [entry.model.model_id for entry in registry.list_models()] == ["a", "b"]


def test_register_class_written_for_llm_is_adapted():
    """Neither a base class nor an instance is needed."""
    registry = Registry()
    registry.register(LlmStyleModel, aliases=None)
    model = registry.get("llm-style")
    assert isinstance(model, EmbeddingModel)
    assert model.embed("x") == vector_of("x")


class NoId:
    def embed_batch(self, items):
        return []


class NoBatch:
    model_id = "no-batch"


class TwoArguments:
    model_id = "two"

    def embed_batch(self, items, other):
        return []


class NoArguments:
    model_id = "none"

    def embed_batch(self):
        return []


class NeedsArguments:
    model_id = "needs"

    def __init__(self, key):
        self.key = key


class Abstract(EmbeddingModel):
    model_id = "abstract"


def changed(**attributes):
    model = CountingModel()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (NoId(), r"test_registry.NoId: model_id must be text that is not blank, not None"),
        (changed(model_id=" "), r"CountingModel: model_id must be text"),
        (NoBatch(), r"test_registry.NoBatch .no-batch. has no method embed_batch\(items\)"),
        (
            TwoArguments(),
            r"TwoArguments: embed_batch\(items, other\) cannot be called as "
            r"embed_batch\(items, \*, kind, key\): missing a required argument: 'other'",
        ),
        (NoArguments(), r"NoArguments: embed_batch\(\) cannot be called as"),
        (NeedsArguments, r"NeedsArguments cannot be made without arguments .*instance"),
        (Abstract, r"Abstract cannot be made without arguments .*embed_batch"),
        (changed(batch_size=0), "batch_size must be a whole number of 1 or more, or None, not 0"),
        (changed(dimensions="8"), "dimensions must be a whole number"),
        (changed(metric="l2"), "metric must be cosine or dot, not 'l2'"),
        (changed(supports_text=False, supports_binary=False), "are both false"),
        ("a string", "builtins.str: model_id must be text"),
    ],
)
def test_register_no_model_error_names_the_class_and_the_mistake(model, message):
    """A plugin's author is told at registration, not when somebody searches."""
    registry = Registry()
    with pytest.raises(ModelRegistrationError, match=message):
        registry.register(model)
    assert registry.list_models() == []


@pytest.mark.parametrize(
    ("model_id", "aliases", "message"),
    [
        ("counting", (), r"the name 'counting' already belongs to .*CountingModel \(counting\)"),
        ("other", ("new", "count"), "the name 'count' already belongs to"),
        ("count", (), "the name 'count' already belongs to"),
        ("other", ("counting",), "the name 'counting' already belongs to"),
        ("other", "count", "a list of names, not the text 'count'"),
        ("other", ("new", 3), "an alias must be text that is not blank, not 3"),
    ],
)
def test_register_name_taken_nothing_is_registered(model_id, aliases, message):
    """A model is registered under all of its names or under none."""
    registry = Registry()
    registry.register(CountingModel(), ("count",))
    with pytest.raises(ModelRegistrationError, match=message):
        registry.register(CountingModel(model_id), aliases)
    assert registry.find("new") is None
    assert registry.find("other") is None
    assert len(registry.list_models()) == 1


def test_build_registry_bundled_is_always_there_and_shared():
    """One instance a process, so that its weights are in memory once."""
    first, second = build_registry(Settings()), build_registry(Settings())
    assert first.get("minilm") is first.get("default") is first.get(BUNDLED)
    assert first.get("minilm") is second.get("minilm")
    assert first.unavailable == {}


def test_build_registry_plugin_raises_others_work(add_plugin, caplog):
    """One broken plugin is logged and listed with its reason."""

    class Broken:
        @hookimpl
        def register_embedding_models(self, register):
            register(CountingModel("good"))
            raise RuntimeError("no network")

    class Clumsy:
        @hookimpl
        def register_embedding_models(self, register):
            register(NoBatch())

    for plugin in (Broken(), ModelsPlugin((CountingModel(), ())), Clumsy()):
        add_plugin(plugin)
    with caplog.at_level(logging.ERROR):
        registry = build_registry(Settings())
    assert registry.find("counting") is not None
    assert registry.find("good") is not None
    reasons = sorted(registry.unavailable.values())
    assert reasons[0] == "RuntimeError: no network"
    assert "NoBatch (no-batch) has no method embed_batch" in reasons[1]
    assert any("Broken" in name for name in registry.unavailable)
    assert any("Broken" in record.getMessage() for record in caplog.records)


def test_build_registry_user_file_and_config_are_registered(monkeypatch):
    """Both list models by name; torch is not needed to name them."""
    add_model_entry(ModelEntry("sentence-transformers", "a/b", aliases=("ab",)))
    settings = Settings(models=(ModelEntry("sentence-transformers", "c", model_id="c"),))
    registry = build_registry(settings)
    assert registry.get("ab").model_id == "sentence-transformers/a/b"
    assert registry.get("c").model == "c"


def test_build_registry_extra_absent_model_is_unavailable(monkeypatch):
    """It is named still, and its reason says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = Settings(models=(ModelEntry("sentence-transformers", "c"),))
    registry = build_registry(settings)
    assert registry.find("sentence-transformers/c") is not None
    reason = registry.unavailable["sentence-transformers/c"]
    assert reason.endswith("pip install 'datasette-embed[sentence-transformers]'")


def test_build_registry_entry_with_a_taken_name_is_unavailable():
    """A registered alias cannot take over the default model."""
    settings = Settings(models=(ModelEntry("sentence-transformers", "c", aliases=("default",)),))
    registry = build_registry(settings)
    assert registry.get("default").model_id == BUNDLED
    assert "already belongs to" in registry.unavailable["sentence-transformers/c"]


def test_build_registry_damaged_models_file_the_rest_works(user_directory, caplog):
    """The file is named, the bundled model answers."""
    user_directory.mkdir()
    (user_directory / "models.json").write_text("{", "utf-8")
    with caplog.at_level(logging.WARNING):
        registry = build_registry(Settings())
    assert registry.find("minilm") is not None
    assert "mend or remove it" in registry.unavailable["models.json"]


def test_build_registry_bad_entry_of_the_models_file_the_others_are_there(user_directory, caplog):
    """It is listed as unavailable with its reason, and takes no other with it."""
    user_directory.mkdir()
    bad = {"provider": "sentence-transformers", "model": "bad", "aliases": [""]}
    good = {"provider": "sentence-transformers", "model": "good"}
    (user_directory / "models.json").write_text(json.dumps([bad, good]), "utf-8")
    with caplog.at_level(logging.WARNING):
        registry = build_registry(Settings())
    assert registry.find("sentence-transformers/good") is not None
    assert registry.find("sentence-transformers/bad") is None
    assert "aliases[0]: must be text" in registry.unavailable["sentence-transformers/bad"]
    assert "aliases[0]: must be text" in caplog.text


def test_build_registry_entry_with_the_bundled_id_bundled_stays_available():
    """Naming the bundled model in config is a mistake that costs nothing."""
    settings = Settings(models=(ModelEntry("sentence-transformers", "all-MiniLM-L6-v2"),))
    registry = build_registry(settings)
    assert BUNDLED not in registry.unavailable
    assert "already belongs to" in registry.unavailable[f"{BUNDLED} (registered again)"]
    assert registry.get(BUNDLED).dimensions == 384


def test_get_registry_built_once_for_the_process(counting_model):
    """Until it is told to forget."""
    first = get_registry()
    assert get_registry() is first
    assert first.get("count") is counting_model
    forget_registries()
    assert get_registry() is not first


def test_get_registry_of_two_datasettes_each_its_config(make_datasette):
    """Config belongs to one instance."""
    entry = {"provider": "sentence-transformers", "model": "only-here"}
    first, second = make_datasette(config={"models": [entry]}), make_datasette()
    assert get_registry(first).find("sentence-transformers/only-here") is not None
    assert get_registry(second).find("sentence-transformers/only-here") is None
    assert get_registry(first) is get_registry(first)


def test_get_registry_dies_with_its_datasette():
    """It is kept for as long as the instance, weakly."""

    class Site:  # Datasette 1.0 keeps itself alive, so not a real one
        def plugin_config(self, name):
            return None

    site = Site()
    reference = weakref.ref(get_registry(site))
    assert reference() is not None
    del site
    gc.collect()
    assert reference() is None


def test_get_registry_wrong_config_still_has_the_bundled_model(make_datasette):
    """The startup hook refuses such a config; a connection may come before it."""
    registry = get_registry(make_datasette(config={"models": 3}))
    assert registry.find("minilm") is not None
    assert "models" in registry.unavailable


def write_aliases(tmp_path, text):
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "aliases.json").write_text(text, "utf-8")


def test_build_registry_users_aliases_name_models_and_take_no_name(tmp_path, add_plugin):
    """LLM's file adds names; a registered one wins, chat models and blanks are passed over."""
    counting_model = CountingModel()
    add_plugin(ModelsPlugin((counting_model, ("count",)), (CountingModel("other"), ("oth",))))
    aliases = {
        "mine": "counting",
        "minilm": BUNDLED,
        "oth": "counting",
        "counting": "other",
        "fast": "gpt-5",
        " ": "counting",
        "chain": "mine",
    }
    write_aliases(tmp_path, json.dumps(aliases))
    registry = build_registry(Settings())
    assert registry.get("mine") is registry.get("counting") is counting_model
    assert registry.get("oth").model_id == "other"
    assert [registry.find(name) for name in ("fast", " ", "chain")] == [None] * 3
    assert registry.user_aliases == {"mine"}
    assert registry.unavailable == {
        "the alias oth in aliases.json": "the name belongs to other",
        "the alias counting in aliases.json": "the name belongs to counting",
    }


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_build_registry_damaged_aliases_the_rest_works(tmp_path, counting_model, caplog, text):
    """It is logged and listed; every model is there."""
    write_aliases(tmp_path, text)
    with caplog.at_level(logging.WARNING):
        registry = build_registry(Settings())
    assert registry.get("count") is counting_model
    assert "mend or remove it" in registry.unavailable["aliases.json"]
    assert "LLM's aliases cannot be used" in caplog.text


def test_warm_models_asks_the_late_source_too():
    """In the thread that loads models at startup, so that no page is the first to wait."""
    registry, asked = Registry(), []
    registry.register(CountingModel())
    registry.add_late_source(asked.append)
    warm_models(registry, ("counting",))
    assert registry.get("counting").warmed.is_set()
    assert asked == [registry]


@pytest.mark.parametrize("provider", ["onnx", "openai", "ollama", "sentence-transformers"])
def test_build_registry_another_longest_text_is_another_fingerprint(provider):
    """Texts are cut elsewhere, so their vectors are others."""
    found = []
    for options in ({}, {"max_tokens": 5}, {"max_tokens": 6}):
        entry = ModelEntry(provider, "some/model", model_id="mine", options=options)
        found.append(build_registry(Settings(models=(entry,))).get("mine").fingerprint)
    assert len(set(found)) == 3
