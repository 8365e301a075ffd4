"""Our models inside the real LLM: its Python API, its command, and its other plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from datasette import hookimpl as datasette_hookimpl

from datasette_embed.errors import ProviderError
from datasette_embed.models import Kind
from datasette_embed.registry import get_registry
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, vector_of

llm = pytest.importorskip("llm", reason="needs the extra llm")

from llm.plugins import load_plugins, pm  # noqa: E402

from datasette_embed.adapters.llm import register_embedding_models  # noqa: E402

pytestmark = pytest.mark.adapters

ROOT = Path(__file__).parent.parent
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CSV = "id,text\n1,The price of wheat fell again\n2,A kitten asleep on a sofa\n"


def approx(vector):
    return pytest.approx(vector, abs=1e-6)


@pytest.fixture(autouse=True)
def llm_directory(tmp_path, monkeypatch):
    """A folder of the test's own for LLM's keys, aliases and databases."""
    directory = tmp_path / "llm"
    directory.mkdir()
    monkeypatch.setenv("LLM_USER_PATH", str(directory))
    return directory


def run(command, *arguments, cwd, **options):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [command, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_llm(*arguments, cwd, **options):
    return run(Path(sys.executable).with_name("llm"), *arguments, cwd=cwd, **options)


def check_commands(command, folder):
    """Embed with the bundled model and search, by the commands of one LLM."""
    (folder / "in.csv").write_text(CSV, "utf-8")
    listed = [
        line.strip()
        for line in run(command, "embed-models", cwd=folder).splitlines()
        if MINILM in line
    ]
    assert [line.removeprefix("DatasetteEmbed: ") for line in listed] == [
        f"{MINILM} (aliases: minilm)"
    ]
    embedding = json.loads(run(command, "embed", "-m", "minilm", "-c", "a cat", cwd=folder))
    assert embedding == approx(get_registry().get("minilm").embed("a cat"))
    run(command, "embed-multi", "docs", "in.csv", "-m", "minilm", "-d", "e.db", cwd=folder)
    found = run(command, "similar", "docs", "-c", "a young cat", "-d", "e.db", cwd=folder)
    assert [json.loads(line)["id"] for line in found.splitlines()] == ["2", "1"]


class OtherPlugin:
    """A plugin of LLM's with models of its own."""

    def __init__(self, *models):
        self.models = models

    @llm.hookimpl
    def register_embedding_models(self, register):
        for model_id, aliases in self.models:
            register(OtherModel(model_id), aliases=aliases)


class OtherModel(llm.EmbeddingModel):
    def __init__(self, model_id):
        self.model_id = model_id

    def embed_batch(self, items):
        return [[1.0, 2.0] for _ in items]


@pytest.fixture
def add_llm_plugin():
    """Register a plugin with LLM for the length of the test."""
    added = []
    load_plugins()

    def add(plugin):
        pm.register(plugin)
        added.append(plugin)

    yield add
    for plugin in added:
        pm.unregister(plugin)


def listed(model_id):
    """Return LLM's entries for this id: the class of the model, and its aliases."""
    return [
        (type(entry.model).__name__, sorted(entry.aliases))
        for entry in llm.get_embedding_models_with_aliases()
        if entry.model.model_id == model_id
    ]


def test_commands_embed_and_search_with_bundled_model(tmp_path):
    """``embed-models``, ``embed``, ``embed-multi`` and ``similar``, as installed."""
    check_commands(Path(sys.executable).with_name("llm"), tmp_path)


@pytest.mark.llm
def test_commands_of_an_old_llm_work_too(tmp_path):
    """LLM 0.19 knows no keys in ``embed_batch`` and lists ids without a class."""
    venv.create(tmp_path / "venv", with_pip=True)
    command = tmp_path / "venv" / "bin" / "llm"
    pip = [command.with_name("python"), "-m", "pip", "install", "-q"]
    done = subprocess.run(
        [*pip, "llm==0.19", "sqlite-utils<4", "-e", str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    check_commands(command, tmp_path)


def test_model_is_listed_once_and_not_as_default():
    """The alias ``default`` would claim too much among LLM's models."""
    assert listed(MINILM) == [("DatasetteEmbed", ["minilm"])]
    with pytest.raises(llm.UnknownModelError, match="Unknown model: default"):
        llm.get_embedding_model("default")


def test_vectors_are_those_of_documents(counting_model):
    """LLM knows no kinds: what is stored and what is searched for are embedded alike."""
    model = llm.get_embedding_model("count")
    assert model.embed("a") == approx(vector_of("a", Kind.DOCUMENT))
    assert model.embed(b"a") == approx(vector_of(b"a", Kind.DOCUMENT))
    assert {type(number) for number in model.embed("a")} == {float}


def test_attributes_are_those_of_the_model(add_plugin):
    """What LLM checks and asks for is what our model says."""
    model = CountingModel("only-bytes", batch_size=7)
    model.supports_text = False
    add_plugin(ModelsPlugin((model, ())))
    found = llm.get_embedding_model("only-bytes")
    assert isinstance(found, llm.EmbeddingModel)
    assert (found.supports_text, found.supports_binary, found.batch_size) == (False, True, 7)
    assert (found.needs_key, found.key_env_var) == (None, None)
    assert str(found) == "DatasetteEmbed: only-bytes"


@pytest.mark.parametrize(("own", "expected"), [(None, [100, 100, 5]), (64, [64, 64, 64, 13])])
def test_generator_is_embedded_in_batches(add_plugin, own, expected):
    """Neither one call for everything nor a generator where a list belongs."""
    model = CountingModel(batch_size=own)
    add_plugin(ModelsPlugin((model, ())))
    texts = [str(number) for number in range(205)]
    got = list(llm.get_embedding_model("counting").embed_multi(iter(texts)))
    assert got == [approx(vector_of(text)) for text in texts]
    assert model.batch_sizes == expected
    assert model.calls[0] == texts[: expected[0]]


def test_model_is_loaded_once_however_often_llm_asks(counting_model):
    """LLM makes new models for each name it looks up; behind them is one of ours."""
    first, second = (llm.get_embedding_model("count") for _ in range(2))
    assert first is not second
    first.embed("a")
    second.embed("b")
    assert counting_model.calls == [["a"], ["b"]]


def test_empty_batch_calls_nothing(counting_model):
    """Nothing in, nothing out."""
    model = llm.get_embedding_model("count")
    assert list(model.embed_batch(iter([]))) == []
    assert list(model.embed_multi([])) == []
    assert counting_model.calls == []


def test_errors_come_as_they_are(counting_model):
    """No wrapping and no swallowing."""
    counting_model.fails_with = ProviderError("counting", "the server is down")
    with pytest.raises(ProviderError, match="counting: the server is down"):
        llm.get_embedding_model("count").embed("a")
    with pytest.raises(ValueError, match="does not support binary data, only text strings"):
        llm.get_embedding_model("minilm").embed(b"a")


# Keys


class KeyModel(CountingModel):
    """Remembers the key of each text."""

    needs_key = "counting-service"
    key_env_var = "COUNTING_KEY"

    def __init__(self):
        super().__init__("needs-key")
        self.keys = {}

    def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
        self.keys.update(dict.fromkeys(items, key))
        return super().embed_batch(items, kind=kind, key=key)


@pytest.fixture
def key_model(add_plugin, monkeypatch):
    monkeypatch.delenv("COUNTING_KEY", raising=False)
    model = KeyModel()
    add_plugin(ModelsPlugin((model, ())))
    return model


def test_key_is_found_by_the_rules_of_llm(key_model, llm_directory, monkeypatch):
    """Given, else in ``keys.json``, else in the environment, else LLM's own error."""
    model = llm.get_embedding_model("needs-key")
    with pytest.raises(llm.NeedsKeyException, match="llm keys set counting-service"):
        model.embed("none")
    monkeypatch.setenv("COUNTING_KEY", "from-environment")
    model.embed("a")
    (llm_directory / "keys.json").write_text('{"counting-service": "from-file"}', "utf-8")
    model.embed("b")
    model.embed("c", key="given")
    assert key_model.keys == {"a": "from-environment", "b": "from-file", "c": "given"}
    assert model.key is None


def test_key_of_an_llm_that_passes_none_is_used(key_model, monkeypatch):
    """Before 0.36 LLM called ``embed_batch(items)`` and left the key to the model."""
    monkeypatch.setenv("COUNTING_KEY", "from-environment")
    model = llm.get_embedding_model("needs-key")
    assert list(model.embed_batch(["a"])) == [approx(vector_of("a"))]
    model.key = "set-on-the-model"
    assert list(model.embed_batch(["b"])) == [approx(vector_of("b"))]
    assert key_model.keys == {"a": "from-environment", "b": "set-on-the-model"}


def test_keys_of_two_threads_do_not_mix(key_model):
    """A key goes with its call, never onto the shared model."""
    model = llm.get_embedding_model("needs-key")
    barrier = threading.Barrier(8)

    def embed(number):
        barrier.wait(30)
        for step in range(50):
            model.embed(f"{number}-{step}", key=f"key-{number}")

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(embed, range(8)))
    assert len(key_model.keys) == 400
    assert all(key == f"key-{text.split('-')[0]}" for text, key in key_model.keys.items())


# Models of LLM's other plugins


def test_model_another_plugin_has_is_left_to_it(add_llm_plugin):
    """llm-sentence-transformers registers the bundled model's id: listed once, and its own."""
    add_llm_plugin(OtherPlugin((MINILM, None)))
    assert listed(MINILM) == [("OtherModel", [])]
    assert llm.get_embedding_model(MINILM).embed("a") == [1.0, 2.0]


def test_model_of_a_plugin_loaded_before_is_left_to_it_too(add_llm_plugin):
    """Whatever the order of the plugins."""
    ours = sys.modules[register_embedding_models.__module__]
    name = pm.unregister(ours) and "datasette-embed"
    try:
        add_llm_plugin(OtherPlugin((MINILM, None)))
    finally:
        pm.register(ours, name=name)
    assert listed(MINILM) == [("OtherModel", [])]


def test_alias_another_plugin_has_is_left_to_it(add_llm_plugin):
    """The model stays, under its other names."""
    add_llm_plugin(OtherPlugin(("other", ("minilm",))))
    assert listed(MINILM) == [("DatasetteEmbed", [])]
    assert llm.get_embedding_model("minilm").model_id == "other"
    assert llm.get_embedding_model(MINILM).embed("a")


def test_model_that_came_from_llm_is_not_handed_back(add_plugin):
    """A model marked as LLM's own is no news to it."""
    model = CountingModel("borrowed")
    model.origin = "llm"
    add_plugin(ModelsPlugin((model, ()), (CountingModel("ours"), ())))
    assert listed("borrowed") == []
    assert listed("ours") == [("DatasetteEmbed", [])]


def test_registry_that_asks_llm_while_it_is_built_ends(add_plugin, add_llm_plugin):
    """Each side asks the other for its models; neither asks for ever."""

    class Bridge:
        seen = []

        @datasette_hookimpl
        def register_embedding_models(self, register):
            self.seen.append(sorted(model.model_id for model in llm.get_embedding_models()))
            register(CountingModel("bridged"))

    add_llm_plugin(OtherPlugin(("other", None)))
    add_plugin(Bridge())
    assert listed("bridged") == [("DatasetteEmbed", [])]
    assert listed("other") == [("OtherModel", [])]
    assert all("other" in ids and MINILM not in ids for ids in Bridge.seen[:1])
    assert get_registry().find("bridged") is not None


def test_import_loads_nothing_heavy(tmp_path):
    """LLM imports the module for every command: no weights, no numpy, no Datasette server."""
    code = """
import json, sys
import llm
before = set(sys.modules)
import datasette_embed.adapters.llm
heavy = {"datasette.app", "datasette.plugins", "numpy", "onnxruntime", "tokenizers", "torch"}
print(json.dumps(sorted(heavy & (set(sys.modules) - before))))
"""
    assert json.loads(run(sys.executable, "-c", code, cwd=tmp_path)) == []
