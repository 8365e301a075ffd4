"""LangChain's and LlamaIndex's embedding classes as models, by import path."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from datasette_embed.errors import (
    CallRefusedError,
    ConfigError,
    MissingDependencyError,
    MissingKeyError,
    ProviderError,
)
from datasette_embed.model_entries import parse_model_entry
from datasette_embed.models import Kind
from datasette_embed.providers.langchain import LangChainModel
from datasette_embed.providers.llama_index import LlamaIndexModel
from datasette_embed.providers.opening import missing_package, open_model
from datasette_embed.registry import build_registry
from datasette_embed.settings import parse_settings
from tests.contracts import EmbeddingModelContract
from tests.fakes import vector_of

HERE = "tests.foreign_models"
CLASSES = {"langchain": LangChainModel, "llama-index": LlamaIndexModel}
SECRET = "sk-a-key-that-nobody-may-see"


def opened(provider="langchain", name="Chain", **options):
    model = name if ":" in name else f"{HERE}:{name}"
    return open_model(parse_model_entry({"provider": provider, "model": model, **options}, "m"))


# Without the packages


@pytest.mark.parametrize("path", ["Chain", "a/b:C", "a.b:", ":C", "a.b:C()", "a..b:C", "a.b:C d"])
def test_bad_path_is_refused_when_the_model_is_described(path):
    """Nothing is imported to find that out, and the message says how one looks."""
    with pytest.raises(ConfigError, match="^model: must be like package.module:ClassName, not"):
        LangChainModel(path, model_id="m")


def test_key_has_to_be_used_and_named():
    """A key that is passed nowhere, or has no name, is a mistake."""
    with pytest.raises(ConfigError, match=r"^key: say in arguments where .*\{\"\$key\": true\}"):
        opened(key="service")
    with pytest.raises(ConfigError, match=r"^arguments: .* needs key or key_env_var beside it"):
        opened(arguments={"inner": [{"api_key": {"$key": True}}]})
    assert opened(key_env_var="SOME_KEY").needs_key == "langchain/Chain"


@pytest.mark.parametrize(
    ("provider", "module", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama-index", "llama_index.core.base.embeddings.base", "llama-index"),
    ],
)
def test_extra_absent_error_names_the_command(monkeypatch, provider, module, extra):
    """Without the extra, the message ends with what installs it."""
    for name in list(sys.modules):
        if name.startswith(module):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'datasette-embed\[{extra}\]'$"):
        opened(provider, "json:dumps").embed("x")


def test_describing_a_model_imports_nothing():
    """Neither the library nor what the path names."""
    script = (
        "import json, sys\n"
        "from datasette_embed.providers.langchain import LangChainModel\n"
        "from datasette_embed.providers.llama_index import LlamaIndexModel\n"
        "LangChainModel('wave:open', model_id='x').fingerprint\n"
        "LlamaIndexModel('wave:open', model_id='x').fingerprint\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"langchain_core", "llama_index", "llama_index.core", "wave", "numpy"}


def test_fingerprint_names_the_path_and_the_model_it_was_made_for():
    """A key or a time limit changes no vector; another model is another vector space."""
    prints = [
        opened(arguments={"model": "a"}, id="m").fingerprint,
        opened(arguments={"model": "b"}, id="m").fingerprint,
        opened("langchain", "Other", arguments={"model": "a"}, id="m").fingerprint,
    ]
    assert len(set(prints)) == 3
    same = opened(arguments={"model": "a", "timeout": 5, "api_key": SECRET}, id="m").fingerprint
    assert same == prints[0]
    assert prints[0].startswith("m@Chain-") and "tests" not in prints[0]


def test_entries_become_models_and_bad_ones_are_listed():
    """One that cannot be described harms no other."""
    site = parse_settings(
        {
            "models": [
                {
                    "provider": "langchain",
                    "model": f"{HERE}:Chain",
                    "aliases": ["chain"],
                    "dimensions": 8,
                    "is_local": True,
                    "concurrency": 4,
                    "metric": "dot",
                },
                {"provider": "llama-index", "model": "nonsense"},
                {"provider": "langchain", "model": "langchain_no_such:Thing", "id": "absent"},
            ]
        }
    )
    registry = build_registry(site)
    model = registry.get("chain")
    assert model.model_id == "langchain/Chain"
    assert (model.dimensions, model.is_local, model.concurrency) == (8, True, 4)
    assert model.metric == "dot"
    assert "must be like package.module:ClassName" in registry.unavailable["llama-index/nonsense"]


# With the packages

with_packages = pytest.mark.adapters


@with_packages
class TestLangChainModel(EmbeddingModelContract):
    """LangChain's own deterministic fake."""

    @pytest.fixture
    def model(self):
        path = "langchain_core.embeddings:DeterministicFakeEmbedding"
        return opened("langchain", path, arguments={"size": 12}, dimensions=12)


@with_packages
class TestLlamaIndexModel(EmbeddingModelContract):
    """A subclass of LlamaIndex's base class."""

    @pytest.fixture
    def model(self):
        return opened("llama-index", "Index", arguments={"embed_batch_size": 2})


@with_packages
def test_langchain_vectors_are_those_of_the_object_itself():
    """Of its own two methods."""
    from langchain_core.embeddings import DeterministicFakeEmbedding

    original = DeterministicFakeEmbedding(size=5)
    path = "langchain_core.embeddings:DeterministicFakeEmbedding"
    model = opened("langchain", path, arguments={"size": 5})
    got = model.embed_checked(["a", "b"]).vectors
    assert np.allclose(got, original.embed_documents(["a", "b"]))
    assert np.allclose(model.embed("a", kind=Kind.QUERY), original.embed_query("a"))


@with_packages
def test_kinds_and_prompts_langchain():
    """Its own methods by kind; a prompt of ours comes before the text."""
    assert opened().embed("a") == vector_of("a")
    assert opened().embed("a", kind=Kind.QUERY) == vector_of("a", Kind.QUERY)
    model = opened(query_prompt="q: ", document_prompt="d: ")
    assert model.embed("a") == vector_of("d: a")
    assert model.embed("a", kind=Kind.QUERY) == vector_of("q: a", Kind.QUERY)


@with_packages
def test_kinds_llama_index(capfd):
    """The class has instructions of its own; no progress bar is printed."""
    model = opened("llama-index", "Index")
    assert list(model.embed_multi(["a", "b"])) == [vector_of("text: a"), vector_of("text: b")]
    assert model.embed("a", kind=Kind.QUERY) == vector_of("query: a", Kind.QUERY)
    assert capfd.readouterr() == ("", "")


@with_packages
@pytest.mark.parametrize("name", ["Chain", "Holder.Inner", "make_chain", "chain"])
def test_path_names_a_class_a_function_or_the_object(name):
    """Whatever it is, an Embeddings comes out, and is made once."""
    model = opened(name=name)
    assert model.embed("a") == vector_of("a")
    assert model.target(None) is model.target("another key")


@with_packages
@pytest.mark.parametrize(
    ("provider", "name", "options", "words"),
    [
        ("langchain", "Nothing", {}, "tests.foreign_models has no Nothing"),
        ("langchain", "Holder.Nothing", {}, "tests.foreign_models has no Holder.Nothing"),
        ("langchain", "tests.none_such:X", {}, "there is no module tests.none_such to import"),
        ("langchain", "none_such_at_all:X", {}, "there is no module none_such_at_all to import"),
        ("langchain", "number", {}, "gives an object of the class int, which is no LangChain"),
        ("langchain", "make_text", {}, "gives an object of the class str, which is no LangChain"),
        ("langchain", "Index", {}, "of the class Index, which is no LangChain Embeddings"),
        ("llama-index", "Chain", {}, "of the class Chain, which is no LlamaIndex BaseEmbedding"),
        ("langchain", "chain", {"a": 1}, "is an object already, which takes no arguments"),
        ("langchain", "make_chain", {"b": 1}, r"with these arguments \(TypeError\). The log says"),
        ("langchain", "Chain", {"problem": "x"}, r"with these arguments \(ValueError\)"),
        ("langchain", "Chain", {"k": {"$env": "NOT_SET_AT_ALL"}}, "variable NOT_SET_AT_ALL is not"),
        ("langchain", "needs_more", {}, "needs the module no_such_module_at_all, which is not"),
    ],
)
def test_what_is_wrong_with_an_object_is_one_clear_line(provider, name, options, words):
    """Found at the first call, and said again at the next: no other item fares better."""
    model = opened(provider, name, arguments=options)
    for _ in range(2):
        with pytest.raises(CallRefusedError, match=words) as caught:
            model.embed("x")
        assert "\n" not in str(caught.value) + caught.value.detail


@with_packages
@pytest.mark.parametrize(
    ("provider", "path", "command"),
    [
        ("langchain", "langchain_no_such:Thing", "pip install langchain-no-such"),
        (
            "llama-index",
            "llama_index.embeddings.no_such:Thing",
            "pip install llama-index-embeddings-no-such",
        ),
    ],
)
def test_integration_that_is_absent_error_names_the_command(provider, path, command):
    """Their packages are named after their modules; of others no name is guessed."""
    with pytest.raises(MissingDependencyError, match=f"{command}$"):
        opened(provider, path).embed("x")


@with_packages
def test_integration_that_is_absent_is_known_without_importing():
    """So that the list of models can say so."""
    assert "langchain_no_such" in str(missing_package(opened(name="langchain_no_such:Thing")))
    assert missing_package(opened()) is None


@with_packages
def test_module_that_fails_to_import_is_said(tmp_path, monkeypatch):
    """With the reason as a detail."""
    (tmp_path / "breaks.py").write_text("raise RuntimeError('of\\nthis')\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CallRefusedError, match=r"breaks cannot be imported \(Runt") as caught:
        opened(name="breaks:X").embed("x")
    assert caught.value.detail.endswith("breaks cannot be imported: RuntimeError: of this")


@with_packages
@pytest.mark.parametrize(
    ("raises", "expected", "retryable"),
    [
        ("RateLimitError", ProviderError, True),
        ("AuthenticationError", CallRefusedError, False),
    ],
)
def test_error_of_a_call_is_translated_and_shows_no_key(monkeypatch, raises, expected, retryable):
    """Its class says whether trying again helps."""
    monkeypatch.setenv("CHAIN_KEY", SECRET)
    arguments = {"raises": raises, "api_key": {"$key": True}}
    model = opened(arguments=arguments, key="chain-service", key_env_var="CHAIN_KEY")
    with pytest.raises(
        ProviderError, match=rf"^langchain/Chain: the model failed \({raises}\)"
    ) as (caught):
        model.embed("x")
    assert type(caught.value) is expected
    assert caught.value.retryable is retryable
    assert caught.value.is_rate_limit is (raises == "RateLimitError")
    assert SECRET not in caught.value.detail + str(caught.value.__cause__)
    assert "[key removed]" in caught.value.detail


@with_packages
def test_key_and_environment_are_put_into_the_arguments(monkeypatch):
    """The key of each call, wherever the class wants it; an object for each key."""
    from tests.foreign_models import Chain

    monkeypatch.setenv("CHAIN_REGION", "north")
    monkeypatch.delenv("CHAIN_KEY", raising=False)
    arguments = {"api_key": {"$key": True}, "where": [{"region": {"$env": "CHAIN_REGION"}}]}
    model = opened(arguments=arguments, key="chain-service", key_env_var="CHAIN_KEY")
    with pytest.raises(MissingKeyError, match="CHAIN_KEY, or run .* keys set chain-service"):
        model.embed("x")
    Chain.made.clear()
    for key in ("first-key", "second-key", "first-key"):
        assert model.embed("x", key=key) == vector_of("x")
    assert Chain.made == [
        {"api_key": key, "where": [{"region": "north"}]} for key in ("first-key", "second-key")
    ]


@with_packages
def test_secret_arguments_are_not_shown(monkeypatch):
    """A key in an argument's own place, or in a variable, is as secret as any other."""
    monkeypatch.setenv("CHAIN_TOKEN", f"{SECRET}-two")
    arguments = {
        "api_key": SECRET,
        "other": {"$env": "CHAIN_TOKEN"},
        "problem": f"{SECRET} {SECRET}-two",
    }
    with pytest.raises(CallRefusedError, match="cannot be made") as caught:
        opened(arguments=arguments).embed("x")
    assert caught.value.detail.endswith("bad arguments: [key removed] [key removed]")


@with_packages
@pytest.mark.parametrize("concurrency", [1, 3])
def test_calls_under_way_at_once_are_as_many_as_allowed(concurrency):
    """One, unless the entry says that the object takes more."""
    model = opened(concurrency=concurrency)
    target = model.target(None)
    target.gate = threading.Barrier(concurrency)
    threads = [threading.Thread(target=model.embed, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert target.most == concurrency


@with_packages
@pytest.mark.parametrize("provider", ["langchain", "llama-index"])
def test_warm_makes_the_object(provider):
    """What cannot be made is known before the first call."""
    opened(provider, "Chain" if provider == "langchain" else "Index").warm()
    with pytest.raises(CallRefusedError, match="has no Nothing"):
        opened(provider, "Nothing").warm()


def test_fingerprint_counts_every_argument_that_may_change_vectors(monkeypatch):
    """Also the value of a variable; not what surely leaves them as they are."""

    def fingerprint(**arguments):
        return LangChainModel("a.b:C", model_id="m", arguments=arguments).fingerprint

    monkeypatch.setenv("MINE", "one")
    first = fingerprint(model={"$env": "MINE"})
    monkeypatch.setenv("MINE", "two")
    assert fingerprint(model={"$env": "MINE"}) != first
    bare = fingerprint()
    assert fingerprint(embed_instruction="Represent: ") != bare
    assert fingerprint(api_key="x", timeout=3, max_retries=2, batch_size=9) == bare
