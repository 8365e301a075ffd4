"""Models of LLM's plugins here: found late, called as LLM calls them, in both directions."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from datasette_embed.errors import (
    CallRefusedError,
    MissingDependencyError,
    MissingKeyError,
    ProviderError,
    UnknownModelError,
)
from datasette_embed.model_entries import ModelEntry
from datasette_embed.models import Kind
from datasette_embed.providers.llm import LlmModel
from datasette_embed.providers.opening import missing_package, open_model
from datasette_embed.registry import Registry, build_registry, get_registry
from datasette_embed.settings import Settings, parse_settings
from tests.conftest import ModelsPlugin
from tests.contracts import EmbeddingModelContract
from tests.fakes import CountingModel, vector_of

llm = pytest.importorskip("llm", reason="needs the extra llm")

from llm.plugins import load_plugins, pm  # noqa: E402

from datasette_embed.providers import llm_plugins  # noqa: E402
from datasette_embed.providers.llm_plugins import PluginModel, plugin_models  # noqa: E402

pytestmark = pytest.mark.adapters
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def clean(text):
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


class New(llm.EmbeddingModel):
    """As plugins are written since LLM 0.36; a service, and a generator."""

    needs_key = "new-service"
    key_env_var = "NEW_SERVICE_KEY"
    batch_size = 3

    def __init__(self, model_id="new"):
        self.model_id = model_id
        self.seen = []

    def embed_batch(self, items, *, key=None):
        assert isinstance(items, list)
        for item in items:
            self.seen.append((item, key, self.key))
            yield vector_of(clean(item))


class Old(llm.EmbeddingModel):
    """As before: the key is on the model, and looked at once the generator runs."""

    needs_key = "old-service"
    key_env_var = "OLD_SERVICE_KEY"

    def __init__(self, model_id="old"):
        self.model_id = model_id
        self.seen = []
        self.calls = 0

    def embed_batch(self, items):
        assert isinstance(items, list)
        self.calls += 1
        for item in items:
            self.seen.append((item, self.get_key(), self.key))
            yield vector_of(clean(item))


class OwnKey(llm.EmbeddingModel):
    """Uses ``self.key`` for something of its own, as llm-embed-onnx does."""

    model_id = "own-key"

    def __init__(self):
        self.key = "its own"

    def embed_batch(self, items):
        assert self.key == "its own"
        return [vector_of(item) for item in items]


class Pictures(llm.EmbeddingModel):
    model_id = "pictures"
    supports_text = False
    supports_binary = True

    def embed_batch(self, items):
        return [vector_of(item) for item in items]


class RateLimitError(Exception):
    pass


class AuthenticationError(Exception):
    pass


class Failing(llm.EmbeddingModel):
    model_id = "failing"
    error = RateLimitError

    def embed_batch(self, items):
        for item in items:
            yield vector_of(item)
            raise self.error("slow down")


class Plugin:
    """A plugin of LLM's with these models."""

    def __init__(self, *models):
        self.models = models

    @llm.hookimpl
    def register_embedding_models(self, register):
        for model, aliases in self.models:
            register(model, aliases=aliases)


class Broken:
    @llm.hookimpl
    def register_embedding_models(self, register):
        register(OwnKey())
        raise RuntimeError("no weights\nfound")


@pytest.fixture(autouse=True)
def llm_directory(tmp_path, monkeypatch):
    """A folder of the test's own for LLM's keys and aliases; no key from outside."""
    directory = tmp_path / "llm"
    directory.mkdir()
    for name in ("NEW_SERVICE_KEY", "OLD_SERVICE_KEY"):
        monkeypatch.delenv(name, raising=False)
    return directory


@pytest.fixture
def add_llm_plugin():
    """Register a plugin with LLM for the length of the test."""
    added = []
    load_plugins()

    def add(plugin, name=None):
        pm.register(plugin, name=name)
        added.append(plugin)
        return plugin

    yield add
    for plugin in added:
        pm.unregister(plugin)


class TestPluginModel(EmbeddingModelContract):
    """A plugin's model, by its own id."""

    @pytest.fixture
    def model(self, add_llm_plugin, monkeypatch):
        monkeypatch.setenv("OLD_SERVICE_KEY", "k")
        add_llm_plugin(Plugin((Old(), ())))
        return build_registry(Settings()).get("old")


class TestLlmModel(EmbeddingModelContract):
    """The same, described by an entry."""

    @pytest.fixture
    def model(self, add_llm_plugin, monkeypatch):
        monkeypatch.setenv("NEW_SERVICE_KEY", "k")
        add_llm_plugin(Plugin((New(), ())))
        return open_model(ModelEntry("llm", "new", "mine", options={"document_prompt": "text: "}))


# Found late


def test_plugin_models_are_there_by_id_and_alias(add_llm_plugin):
    """Without registering; their class is the plugin's."""
    add_llm_plugin(Plugin((New(), ("n", "neu")), (Old(), None)))
    registry = build_registry(Settings())
    assert registry.find("neu") is registry.get("new") is registry.get("n")
    assert str(registry.get("old")) == "Old: old"
    assert "new (n, neu)" in registry.known_names()
    assert {"new", "old"} <= {entry.model.model_id for entry in registry.list_models()}
    assert (registry.get("new").batch_size, registry.get("new").origin) == (3, "llm")
    with pytest.raises(UnknownModelError, match=r"Unknown model: nope. .*new \(n, neu\), old"):
        registry.get("nope")


@pytest.mark.parametrize("ask", ["find", "get", "list_models", "known_names"])
def test_late_source_is_asked_once_by_whatever_comes_first(ask):
    """And by no question that is answered without it."""
    registry, asked = Registry(), []
    registry.register(CountingModel(), ["count"])

    def source(known):
        asked.append(known.find("late"))  # what it asks itself does not ask it again
        known.register(CountingModel("late"))

    registry.add_late_source(source)
    assert registry.get("count") is registry.find("counting")
    assert [entry.model.model_id for entry in registry.list_early_models()] == ["counting"]
    assert asked == []
    for _ in range(2):
        getattr(registry, ask)(*(["late"] if ask in ("find", "get") else []))
    assert registry.get("late").model_id == "late"
    assert registry.find("nope") is None
    assert asked == [None]


def test_late_source_asked_by_many_threads_each_sees_all():
    """A thread that comes while another asks waits for the answer."""
    registry, asked = Registry(), []
    started, may_end = threading.Event(), threading.Event()

    def source(known):
        asked.append(1)
        started.set()
        may_end.wait(30)
        known.register(CountingModel("late"))

    registry.add_late_source(source)
    with ThreadPoolExecutor(8) as executor:
        found = [executor.submit(registry.find, "late") for _ in range(8)]
        started.wait(30)
        may_end.set()
        assert {future.result().model_id for future in found} == {"late"}
    assert asked == [1]


def test_names_that_are_ours_stay_ours(add_llm_plugin, add_plugin):
    """Silently: LLM has models that we have too."""
    add_plugin(ModelsPlugin((CountingModel("new"), ("n",))))
    add_llm_plugin(Plugin((New(), ("n2",)), (Old(MINILM), ()), (Old("old"), ("n", "minilm", "o"))))
    registry = build_registry(Settings())
    assert isinstance(registry.get("new"), CountingModel)
    assert registry.find("n2") is None
    assert registry.get("minilm").model_id == MINILM
    (old,) = [entry for entry in registry.list_models() if entry.model.model_id == "old"]
    assert old.aliases == ("o",)
    assert registry.unavailable == {}


def test_aliases_of_llms_user_name_plugin_models(add_llm_plugin, llm_directory):
    """Those that name LLM's models count once the models are there."""
    aliases = {"mine": "old", "minilm": "old", "count": MINILM}
    (llm_directory / "aliases.json").write_text(json.dumps(aliases), "utf-8")
    add_llm_plugin(Plugin((Old(), ())))
    registry = build_registry(Settings())
    assert registry.get("mine").model_id == "old"
    assert registry.get("minilm").model_id == registry.get("count").model_id == MINILM
    assert registry.user_aliases == {"mine", "count"}
    assert list(registry.unavailable) == ["the alias minilm in aliases.json"]


def test_plugin_that_raises_is_said_and_harms_no_other(add_llm_plugin, caplog):
    """On one line; what it registered before is there."""
    add_llm_plugin(Broken(), "broken")
    add_llm_plugin(Plugin((Old(), ()), (New(" "), ())))
    registry = build_registry(Settings())
    assert registry.get("old") and registry.get("own-key")
    assert registry.unavailable["LLM's plugin broken"] == "RuntimeError: no weights found"
    assert "model_id must be text that is not blank" in registry.unavailable[" "]
    assert "LLM's plugin broken cannot be used" in caplog.text


def run(code, *folders, **variables):
    """Run code in a process of its own, with packages in these folders."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def install(folder, name, code):
    """Install a plugin for LLM as pip would."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code, "utf-8")
    metadata = folder / f"{name}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(f"[llm]\n{name} = {name}\n")


PLUGIN = """
import llm
class Model(llm.EmbeddingModel):
    def __init__(self, model_id):
        self.model_id = model_id
    def embed_batch(self, items):
        return [[float(len(item)), 1.0] for item in items]
@llm.hookimpl
def register_embedding_models(register):
    {first}
    register(Model("{name}"), aliases=("{name}-alias",))
"""
ASK = """
import json, sys
from datasette_embed.registry import get_registry
registry = get_registry()
early = "llm" in sys.modules
registry.get("minilm")
models = {name: registry.find(name) is not None for name in ("good", "last-alias", "minilm")}
print(json.dumps([early, "llm" in sys.modules, models, registry.unavailable]))
"""


def test_plugin_that_cannot_be_imported_others_work(tmp_path):
    """LLM itself gives up at the first; nothing is imported before it is needed."""
    install(tmp_path / "a", "good", PLUGIN.format(name="good", first="pass"))
    install(tmp_path / "b", "bad", "import no_such_package_at_all\n")
    install(tmp_path / "c", "last", PLUGIN.format(name="last", first="pass"))
    folders = [tmp_path / name for name in "abc"]
    early, late, models, unavailable = run(ASK, *folders)
    assert (early, late) == (False, True)
    assert models == {"good": True, "last-alias": True, "minilm": True}
    assert unavailable == {
        "LLM's plugin bad": "ModuleNotFoundError: No module named 'no_such_package_at_all'"
    }
    models = run(ASK, *folders, LLM_LOAD_PLUGINS="good")[2]
    assert models == {"good": True, "last-alias": False, "minilm": True}


def test_both_directions_at_once_each_model_once(tmp_path):
    """LLM has ours, we have LLM's, and nobody asks for ever."""
    asking = "import llm as other; other.get_embedding_models_with_aliases()"
    plugin = f"{asking} if not getattr(llm, 'asked', 0) and not setattr(llm, 'asked', 1) else None"
    install(tmp_path / "a", "asks", PLUGIN.format(name="asks", first=plugin))
    code = """
import json, llm
from collections import Counter
from datasette_embed.registry import get_registry
{first}
ours = Counter(str(entry.model) for entry in get_registry().list_models())
theirs = Counter(str(entry.model) for entry in llm.get_embedding_models_with_aliases())
vectors = [get_registry().get("asks-alias").embed("abc")]
vectors.append(llm.get_embedding_model("asks").embed("abc"))
same = get_registry().get("minilm").embed("a") == llm.get_embedding_model("minilm").embed("a")
print(json.dumps([ours, theirs, vectors, same]))
"""
    for first in ("get_registry().list_models()", "llm.get_embedding_models()"):
        ours, theirs, vectors, same = run(code.replace("{first}", first), tmp_path / "a")
        assert set(ours.values()) == set(theirs.values()) == {1}
        assert "Model: asks" in ours and "Model: asks" in theirs
        assert f"BundledModel: {MINILM}" in ours and f"DatasetteEmbed: {MINILM}" in theirs
        assert not any(name.startswith("DatasetteEmbed") for name in ours)
        assert vectors == [[3.0, 1.0]] * 2
        assert same


def test_listing_in_llm_does_not_ask_llm_again(add_llm_plugin):
    """LLM's commands ask us; what LLM has it knows."""
    asked = []

    class Asked(Plugin):
        @llm.hookimpl
        def register_embedding_models(self, register):
            asked.append(1)

    add_llm_plugin(Asked())
    llm.get_embedding_models_with_aliases()
    # Once by LLM, and once by our plugin, to leave names alone that are taken.
    assert len(asked) == 2


# Keys


def test_new_plugin_gets_its_key_with_the_call(add_llm_plugin, monkeypatch, llm_directory):
    """Given, in the environment, in LLM's file: never on the shared model."""
    plugin = New()
    add_llm_plugin(Plugin((plugin, ())))
    model = build_registry(Settings()).get("new")
    with pytest.raises(MissingKeyError, match="NEW_SERVICE_KEY, or run .* keys set new-service"):
        model.embed("none")
    (llm_directory / "keys.json").write_text('{"new-service": "from-the-file"}', "utf-8")
    model.embed("file")
    monkeypatch.setenv("NEW_SERVICE_KEY", "from-environment")
    model.embed("environment")
    model.embed("given", key="given-one")
    assert plugin.seen == [
        ("file", "from-the-file", None),
        ("environment", "from-environment", None),
        ("given", "given-one", None),
    ]


def test_old_plugin_finds_its_key_on_the_model_during_the_call(add_llm_plugin, monkeypatch):
    """By ``self.key`` and by ``get_key()``; afterwards there is none."""
    monkeypatch.setenv("OLD_SERVICE_KEY", "from-environment")
    plugin = Old()
    add_llm_plugin(Plugin((plugin, ())))
    model = build_registry(Settings()).get("old")
    model.embed("a")
    model.embed("b", key="given-one")
    assert plugin.seen == [
        ("a", "from-environment", "from-environment"),
        ("b", "given-one", "given-one"),
    ]
    assert plugin.key is None


def test_old_plugin_whose_key_its_author_has_set_keeps_it(add_llm_plugin):
    """As in LLM, where it counts before the stored one."""
    plugin = Old()
    plugin.key = "set-by-author"
    add_llm_plugin(Plugin((plugin, ())))
    model = build_registry(Settings()).get("old")
    model.embed("a")
    model.embed("b", key="given-one")
    model.embed("c")
    assert [key for _, key, _ in plugin.seen] == ["set-by-author", "given-one", "set-by-author"]


def test_old_plugin_without_a_key_uses_its_attribute_for_itself(add_llm_plugin):
    """LLM 0.36 would set it to None around the call."""
    add_llm_plugin(Plugin((OwnKey(), ())))
    assert build_registry(Settings()).get("own-key").embed("a") == vector_of("a")


class Gated(Old):
    """Looks at its key once more at the end of a call, when another thread may have come."""

    def __init__(self):
        super().__init__("gated")
        self.second_has_come = threading.Event()

    def embed_batch(self, items):
        if self.calls:
            self.second_has_come.set()
        self.calls += 1
        # A second thread that may come in does so at once; one that waits never does.
        self.second_has_come.wait(0.3)
        for item in items:
            self.seen.append((item, self.get_key(), self.key))
            yield vector_of(item)


def test_keys_of_threads_do_not_mix_in_an_old_plugin(add_llm_plugin):
    """Each text is embedded with the key of its own call, by a generator too."""
    plugin = Gated()
    add_llm_plugin(Plugin((plugin, ())))
    model = build_registry(Settings()).get("gated")
    barrier = threading.Barrier(4)

    def embed(number):
        barrier.wait(30)
        model.embed(f"{number}", key=f"key-of-{number}")

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(embed, range(4)))
    assert sorted(plugin.seen) == [(f"{n}", f"key-of-{n}", f"key-of-{n}") for n in range(4)]
    assert plugin.key is None


class Crowded(Gated):
    """Counts who is in it at once."""

    running = most = 0

    def embed_batch(self, items):
        self.running += 1
        self.most = max(self.most, self.running)
        yield from super().embed_batch(items)
        self.running -= 1


def test_two_wrappers_of_one_object_take_turns(add_llm_plugin):
    """It has its own name, one from an entry, and is in the registry of each site."""
    plugin = Crowded()
    plugin.key = "set-by-author"
    add_llm_plugin(Plugin((plugin, ())))
    named = open_model(ModelEntry("llm", "gated", model_id="mine"))
    first, other = (build_registry(Settings()).get("gated") for _ in range(2))
    barrier = threading.Barrier(3)

    def embed(number):
        barrier.wait(30)
        (first, named, other)[number].embed(f"{number}", key=f"key-of-{number}")

    with ThreadPoolExecutor(3) as executor:
        list(executor.map(embed, range(3)))
    assert plugin.most == 1
    assert sorted(plugin.seen) == [(f"{n}", f"key-of-{n}", f"key-of-{n}") for n in range(3)]
    assert plugin.key == "set-by-author"


def test_wrapped_during_a_call_the_key_of_that_call_is_not_its_own(add_llm_plugin):
    """A site that starts while another one embeds takes no key of its visitors."""
    kept = []

    class Wrapped(Old):
        def embed_batch(self, items):
            kept.append(plugin_models().find("wrapped").key)
            return super().embed_batch(items)

    add_llm_plugin(Plugin((Wrapped("wrapped"), ())))
    plugin_models().find("wrapped").embed("a", key="given-one")
    assert kept == [None]


def test_turns_are_forgotten_with_their_objects():
    """Plugins may make new objects each time; one that cannot be referred to has its own."""

    class Slots:
        __slots__ = ("key", "model_id")

        def __init__(self):
            self.model_id, self.key = "slots", "own"

        def embed_batch(self, items):
            return [vector_of(item) for item in items]

    before = len(llm_plugins._turns)
    wrappers = [PluginModel(Old()) for _ in range(3)]
    assert len(llm_plugins._turns) == before + 3
    assert PluginModel(Slots()).key == "own"
    del wrappers
    gc.collect()
    assert len(llm_plugins._turns) == before


def test_calls_of_a_service_that_takes_keys_run_at_once(add_llm_plugin):
    """Nothing is shared between them, so a search does not wait for a long batch."""
    barrier = threading.Barrier(3)

    class Service(New):
        def embed_batch(self, items, *, key=None):
            barrier.wait(30)
            return [vector_of(item) for item in items]

    add_llm_plugin(Plugin((Service("service"), ())))
    model = build_registry(Settings()).get("service")
    with ThreadPoolExecutor(3) as executor:
        found = list(executor.map(lambda text: model.embed(text, key="given-key"), "abc"))
    assert found == [vector_of(text) for text in "abc"]


# Calls


def test_binary_model_takes_bytes_alone(add_llm_plugin):
    """What the plugin says of itself is asked first."""
    add_llm_plugin(Plugin((Pictures(), ())))
    for model in (
        build_registry(Settings()).get("pictures"),
        LlmModel("pictures", model_id="p"),
    ):
        with pytest.raises(ValueError, match="does not support text strings, only binary data"):
            model.embed("a")
        assert model.embed(b"\x00\xff") == vector_of(b"\x00\xff")
        assert (model.supports_text, model.supports_binary) == (False, True)


@pytest.mark.parametrize(
    ("raised", "expected", "retryable"),
    [
        (RateLimitError, ProviderError, True),
        (ConnectionResetError, ProviderError, True),
        (AuthenticationError, CallRefusedError, False),
        (KeyError, ProviderError, False),
    ],
)
def test_error_inside_a_generator_is_translated(add_llm_plugin, raised, expected, retryable):
    """Its class says whether trying again helps; its text stays in the log."""
    plugin = Failing()
    plugin.error = raised
    add_llm_plugin(Plugin((plugin, ())))
    name = raised.__name__
    with pytest.raises(ProviderError, match=rf"^failing: the model failed \({name}\)") as caught:
        build_registry(Settings()).get("failing").embed("a")
    assert type(caught.value) is expected
    assert caught.value.retryable is retryable
    assert "slow down" in caught.value.detail and "slow down" not in str(caught.value)
    assert isinstance(caught.value.__cause__, raised)


# Entries


def test_entry_gives_prompts_by_kind_and_the_plugin_gets_them(add_llm_plugin, monkeypatch):
    """What is stored is the text without them; another id is another vector space."""
    monkeypatch.setenv("OLD_SERVICE_KEY", "k")
    plugin = Old()
    add_llm_plugin(Plugin((plugin, ("o",))))
    site = parse_settings(
        {
            "models": [
                {
                    "provider": "llm",
                    "model": "o",
                    "id": "prompted",
                    "query_prompt": "query: ",
                    "document_prompt": "text: ",
                    "batch_size": 2,
                }
            ]
        }
    )
    model = build_registry(site).get("prompted")
    assert plugin.calls == 0
    assert list(model.embed_multi(["a", "b", "c"])) == [
        vector_of(f"text: {text}") for text in "abc"
    ]
    assert model.embed("q", kind=Kind.QUERY) == vector_of("query: q")
    assert plugin.calls == 3
    assert model.fingerprint.startswith("prompted@o+")
    assert LlmModel("old", model_id="old").fingerprint == "old"
    assert (model.needs_key, model.key_env_var) == ("old-service", "OLD_SERVICE_KEY")


def test_entry_answers_for_the_plugins_own_name(add_llm_plugin):
    """Registered under the id it has anyway, the entry's options count."""
    add_llm_plugin(Plugin((Old(), ("o",))))
    site = parse_settings({"models": [{"provider": "llm", "model": "old", "max_tokens": 7}]})
    registry = build_registry(site)
    assert isinstance(registry.get("old"), LlmModel)
    assert [entry.model.max_tokens for entry in registry.list_models()].count(7) == 1


def test_entry_of_an_unknown_name_lists_llms(add_llm_plugin):
    """No other attempt fares better."""
    add_llm_plugin(Plugin((Old(), ("o",))))
    model = LlmModel("nope", model_id="mine")
    words = "^mine: no plugin of LLM has an embedding model 'nope'. Those there are: .*old"
    for call in (lambda: model.embed("a"), model.get_key):
        with pytest.raises(CallRefusedError, match=words):
            call()
    assert model.needs_key is None
    site = parse_settings({"models": [{"provider": "llm", "model": "nope"}]})
    registry = build_registry(site)
    assert registry.get("nope") and registry.unavailable == {}
    assert registry.find("something else") is None
    assert "no plugin of LLM has an embedding model 'nope'" in registry.unavailable["nope"]


def test_plugin_key_of_a_site_reaches_the_plugin(add_llm_plugin, make_datasette):
    """A key in plugin config, under the name the plugin gives it."""
    from datasette_embed import budgets

    plugin = Old()
    add_llm_plugin(Plugin((plugin, ())))
    site = make_datasette(config={"keys": {"old-service": "of-the-site"}})
    model = get_registry(site).get("old")
    model.embed("a", key=budgets.key_for(site, model))
    assert plugin.seen == [("a", "of-the-site", "of-the-site")]
    assert not budgets.is_open(site, "old", None)


def test_llm_absent_error_names_the_command(monkeypatch):
    """And the registry has what it has without."""
    monkeypatch.setitem(sys.modules, "llm", None)
    model = LlmModel("clip", model_id="clip")
    for call in (lambda: model.embed("x"), plugin_models):
        with pytest.raises(MissingDependencyError, match=r"pip install 'datasette-embed\[llm\]'$"):
            call()
    assert str(missing_package(model)).endswith("'datasette-embed[llm]'")
    registry = build_registry(Settings())
    assert registry.find("nope") is None
    assert registry.unavailable == {}
