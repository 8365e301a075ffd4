"""``models show``: what is known of a model, without calling it and without its key."""

from __future__ import annotations

import json

import pytest

from datasette_embed.models import EmbeddingModel
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel
from tests.storage import embed, refused

BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"
SECRET = "sk-a-key-that-nobody-may-see"


class Service(EmbeddingModel):
    """A model of which everything is known."""

    model_id = "service-small"
    dimensions = 1536
    max_tokens = 8191
    batch_size = 2048
    max_batch_tokens = 300_000
    concurrency = 4
    metric = "dot"
    price_per_million_tokens = 0.02
    licence = "MIT"
    needs_key = "service"
    key_env_var = "SERVICE_KEY"
    query_prompt = "query: "
    document_prompt = ""

    def embed_batch(self, items, *, kind="document", key=None):
        raise AssertionError("it is not to be called")


@pytest.fixture
def service(add_plugin, monkeypatch):
    monkeypatch.delenv("SERVICE_KEY", raising=False)
    add_plugin(ModelsPlugin((Service(), ("small",))))


def shown(name, *options):
    return json.loads(embed("models", "show", name, "--json", *options).stdout)


def test_show_bundled_in_lines_and_as_json():
    """By an alias; nothing is loaded for it."""
    lines = embed("models", "show", "minilm").stdout.splitlines()
    assert lines[:5] == [
        f"id:                 {BUNDLED}",
        "aliases:            minilm, default",
        "class:              BundledModel",
        "source:             bundled with this package",
        "takes:              text",
    ]
    assert "longest text:       256 tokens" in lines
    assert "key:                none" in lines
    found = shown("default")
    assert (found["id"], found["dimensions"], found["is_local"]) == (BUNDLED, 384, True)
    assert (found["needs_key"], found["key_from"], found["unavailable"]) == (None, None, None)


def test_show_everything_of_a_plugins_model(service, monkeypatch):
    """What it costs, how it is called, where its key is, and never the key."""
    monkeypatch.setenv("SERVICE_KEY", SECRET)
    found = shown("small")
    assert found == {
        "id": "service-small",
        "aliases": ["small"],
        "class": "Service",
        "source": "the plugin tests.test_cli_models_show",
        "accepts": ["text"],
        "dimensions": 1536,
        "max_tokens": 8191,
        "metric": "dot",
        "query_prompt": "query: ",
        "document_prompt": "",
        "batch_size": 2048,
        "max_batch_tokens": 300000,
        "concurrency": 4,
        "is_local": False,
        "price_per_million_tokens": 0.02,
        "licence": "MIT",
        "needs_key": "service",
        "key_from": "the environment variable SERVICE_KEY",
        "unavailable": None,
    }
    said = embed("models", "show", "small")
    assert SECRET not in said.stdout + said.stderr + json.dumps(found)
    for line in (
        "query prompt:       'query: '",
        "document prompt:    none",
        "items a call:       2,048",
        "tokens a call:      300,000",
        "calls at once:      4",
        "price:              $0.02 per million tokens",
        "key:                service, from the environment variable SERVICE_KEY",
    ):
        assert line in said.stdout.splitlines()


def test_show_key_in_llms_file_or_nowhere(service, tmp_path):
    """The place is named; without a key, what to do."""
    said = embed("models", "show", "small")
    assert "key:                service, not found" in said.stdout
    assert "run datasette embed keys set service" in said.stdout
    assert "needs an API key" in shown("small")["unavailable"]
    (tmp_path / "llm").mkdir()
    path = tmp_path / "llm" / "keys.json"
    path.write_text(json.dumps({"service": SECRET}), "utf-8")
    found = shown("small")
    assert found["key_from"] == f"the key 'service' in {path}"
    assert found["unavailable"] is None
    path.write_text("{", "utf-8")
    assert "is no JSON" in shown("small")["unavailable"]


def test_show_registered_model_names_the_file(user_directory):
    """The provider and its own name for the model; loading is on request."""
    embed("models", "register", "sentence-transformers", "a/b", "-a", "ab", "--lazy")
    from datasette_embed.registry import forget_registries

    forget_registries()
    found = shown("ab")
    assert found["source"] == f"sentence-transformers a/b, in {user_directory / 'models.json'}"
    assert (found["dimensions"], found["max_tokens"]) == (None, None)
    assert "dimensions:         known after its first call" in embed("models", "show", "ab").stdout


def test_show_load_warms_the_model(add_plugin):
    """Only with the option."""
    model = CountingModel()
    add_plugin(ModelsPlugin((model, ())))
    shown("counting")
    assert not model.warmed.is_set()
    shown("counting", "--load")
    assert model.warmed.is_set()
    assert model.calls == []


def test_show_unknown_or_unavailable_one_line(user_directory):
    """Known names for the one, the reason for the other."""
    assert refused("models", "show", "nope").startswith("Unknown model: nope. Known models: ")
    user_directory.mkdir()
    bad = {"provider": "sentence-transformers", "model": "a/b", "aliases": [""]}
    (user_directory / "models.json").write_text(json.dumps([bad]), "utf-8")
    from datasette_embed.registry import forget_registries

    forget_registries()
    error = refused("models", "show", "sentence-transformers/a/b")
    assert error.startswith("sentence-transformers/a/b is unavailable: models.json[0].aliases[0]")


@pytest.mark.adapters
def test_show_model_of_llms_plugin(monkeypatch):
    """Under its own id, and as an entry; LLM is asked, the model is not called."""
    llm = pytest.importorskip("llm")
    from llm.plugins import load_plugins, pm

    class Old(llm.EmbeddingModel):
        model_id = "old"
        needs_key = "old-service"
        supports_binary = True
        batch_size = 7

        def embed_batch(self, items):
            raise AssertionError("it is not to be called")

    class Plugin:
        @llm.hookimpl
        def register_embedding_models(self, register):
            register(Old(), aliases=["o"])

    load_plugins()
    plugin = Plugin()
    pm.register(plugin)
    try:
        found = shown("o")
        assert found["source"] == f"LLM's plugin {__name__}"
        assert (found["class"], found["accepts"]) == ("Old", ["text", "binary"])
        assert (found["needs_key"], found["key_from"]) == ("old-service", None)
        embed("models", "register", "llm", "old", "-o", "query_prompt", "q: ", "--lazy")
        from datasette_embed.registry import forget_registries

        forget_registries()
        found = shown("old")
        assert found["source"].startswith("llm old, in ")
        assert (found["class"], found["accepts"]) == ("LlmModel", ["text", "binary"])
        assert (found["needs_key"], found["batch_size"]) == ("old-service", 7)
    finally:
        pm.unregister(plugin)
