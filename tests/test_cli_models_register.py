"""``models register``: options, the trial, and what is refused without writing anything."""

from __future__ import annotations

import json
import sys

import pytest

from datasette_embed.model_entries import PROVIDERS
from datasette_embed.registry import forget_registries, get_registry
from tests.storage import embed, refused

SENTENCES = ("models", "register", "sentence-transformers")
CHAIN = ("models", "register", "langchain", "tests.foreign_models:Chain")
FAKE = ("models", "register", "langchain", "langchain_core.embeddings:DeterministicFakeEmbedding")


@pytest.fixture
def written(user_directory):
    """Return what the models file holds; [] without one."""

    def read():
        path = user_directory / "models.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else []

    return read


# Written only


def test_lazy_options_are_read_as_their_types(written):
    """Text for text, JSON for objects, numbers and words for the rest; the id is given."""
    said = embed(
        *CHAIN,
        *("--id", "mine", "-a", "m", "--alias", "n", "--lazy"),
        *("-o", "dimensions", "8", "-o", "is_local", "true"),
        *("-o", "arguments", '{"model": "x", "size": 8}', "-o", "query_prompt", "query: "),
        *("--option", "price_per_million_tokens", "0.02", "-o", "metric", "dot"),
    )
    assert said.stdout == ""
    assert said.stderr.startswith("Registered mine in ")
    assert written() == [
        {
            "provider": "langchain",
            "model": "tests.foreign_models:Chain",
            "id": "mine",
            "aliases": ["m", "n"],
            "arguments": {"model": "x", "size": 8},
            "dimensions": 8,
            "is_local": True,
            "metric": "dot",
            "price_per_million_tokens": 0.02,
            "query_prompt": "query: ",
        }
    ]
    forget_registries()
    model = get_registry().get("m")
    assert (model.model_id, model.dimensions, model.metric) == ("mine", 8, "dot")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "size", "8"), "langchain has no option 'size'. Options: arguments, key, key_env"),
        (("-o", "model", "x"), "langchain has no option 'model'. Options: arguments"),
        (("-o", "dimensions", "many"), "dimensions: must be a whole number of 1 or"),
        (("-o", "dimensions", "0"), "dimensions: must be a whole number of 1 or more"),
        (("-o", "is_local", "perhaps"), "is_local: must be true or false, not"),
        (("-o", "metric", "euclid"), "metric: must be one of cosine, dot, not"),
        (("-o", "arguments", "{"), "arguments: must be an object, or the same as JSON"),
        (("-o", "arguments", "[1]"), "arguments: must be an object, not list"),
        (("-o", "batch_size", "2", "-o", "batch_size", "3"), "'batch_size' is given twice"),
        (("-o", "key", "service"), "key: say in arguments where"),
        (("--id", " "), "id: must be text that is not blank"),
        (("-a", "minilm"), "The name 'minilm' belongs to sentence-transformers/all-MiniLM-L6-v2"),
        (("--id", "minilm"), "The name 'minilm' belongs to sentence-transformers/all-MiniLM"),
    ],
)
@pytest.mark.parametrize("lazy", [(), ("--lazy",)])
def test_bad_options_one_line_nothing_written(written, options, words, lazy):
    """What is allowed is in the line."""
    assert words in refused(*CHAIN, *options, *lazy)
    assert written() == []


@pytest.mark.parametrize("lazy", [(), ("--lazy",)])
def test_code_of_a_model_is_not_for_a_command(written, user_directory, lazy):
    """The line says where to write it; nor is it among the options that are listed."""
    error = refused(*SENTENCES, "a/b", "-o", "trust_remote_code", "true", *lazy)
    assert error.startswith("trust_remote_code lets a model run code of its own, so no command")
    assert str(user_directory / "models.json") in error
    error = refused(*SENTENCES, "a/b", "-o", "nope", "true", *lazy)
    assert "Options: device, " in error and "trust_remote_code" not in error
    assert written() == []


def test_unknown_provider_lists_those_there_are(written):
    """All of them, presets too."""
    error = refused("models", "register", "somebody", "x", code=2)
    assert all(name in error for name in PROVIDERS)
    assert written() == []


def test_package_missing_refused_with_the_command_or_lazily_unavailable(written, monkeypatch):
    """A model that cannot be called is not registered unawares."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    command = "pip install 'datasette-embed[sentence-transformers]'"
    assert refused(*SENTENCES, "a/b").endswith(command)
    assert written() == []
    said = embed(*SENTENCES, "a/b", "--lazy")
    assert f"It is unavailable: sentence_transformers is not installed. Run: {command}" in (
        said.stderr
    )
    forget_registries()
    assert "sentence-transformers/a/b is unavailable: " in embed("models", "list").stderr


def test_registered_again_says_what_was_replaced(written):
    """Numbers with their values; of texts and objects, which may be secret, the name."""
    first = (*SENTENCES, "a/b", "-a", "ab", "--lazy")
    said = embed(*first, "-o", "truncate_dim", "8", "-o", "query_prompt", "secret: ")
    assert said.stderr.startswith("Registered sentence-transformers/a/b in ")
    forget_registries()
    said = embed(*first)
    assert said.stderr.startswith("Replaced sentence-transformers/a/b in ")
    before = "sentence-transformers a/b, alias ab, truncate_dim 8, query_prompt"
    assert said.stderr.endswith(f"\nBefore it was: {before}\n")
    forget_registries()
    assert embed(*first).stderr.endswith("\nIt was the same before.\n")
    assert len(written()) == 1


@pytest.mark.parametrize("name", ["./nofolder", "nofolder/in/here"])
def test_folder_that_is_not_there_is_said(written, tmp_path, monkeypatch, name):
    """Not that a file of it is missing; lazily it is written down with its whole path."""
    monkeypatch.chdir(tmp_path)
    error = refused("models", "register", "onnx", name)
    assert f": there is no folder {tmp_path / name if name[0] == '.' else name}. Nothing" in error
    assert written() == []


# Tried


@pytest.mark.adapters
def test_tried_says_dimensions_and_longest_text(written):
    """One call; a limit that an option gives is said."""
    said = embed(*FAKE, "-a", "fake", "-o", "arguments", '{"size": 12}')
    assert "Registered langchain/DeterministicFakeEmbedding in" in said.stderr
    assert "It turns texts into 12 dimensions; how long they may be it does not say." in said.stderr
    said = embed(*FAKE, "--id", "short", "-o", "arguments", '{"size": 3}', "-o", "max_tokens", "99")
    assert "It turns texts of up to 99 tokens into 3 dimensions." in said.stderr
    assert [entry.get("id") for entry in written()] == [None, "short"]
    forget_registries()
    assert len(get_registry().get("fake").embed("x")) == 12


@pytest.mark.adapters
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*CHAIN[:3], "tests.foreign_models:Nothing"), "tests.foreign_models has no Nothing"),
        ((*FAKE, "-o", "arguments", '{"size": "x"}'), "with these arguments: ValidationError: 1"),
        (
            (*FAKE, "-o", "arguments", '{"size": 3}', "-o", "dimensions", "4"),
            "have 3 dimensions, not 4",
        ),
        ((*CHAIN, "-o", "arguments", '{"raises": "AuthenticationError"}'), "AuthenticationError: "),
        (("models", "register", "llm", "nope"), "no plugin of LLM has an embedding model 'nope'"),
    ],
)
def test_tried_and_failed_nothing_registered(written, arguments, words):
    """A wrong name, option or key is found now, and the line says how to go on without."""
    error = refused(*arguments)
    assert words in error
    assert error.endswith("Nothing was registered; --lazy registers without trying")
    assert written() == []
    embed(*arguments, "--lazy")
    assert len(written()) == 1


@pytest.mark.adapters
def test_key_missing_registered_and_said(written, monkeypatch):
    """How to set the key is in the line; with it the model is tried."""
    monkeypatch.delenv("CHAIN_KEY", raising=False)
    options = (
        *("-o", "key", "chain-service", "-o", "key_env_var", "CHAIN_KEY"),
        *("-o", "arguments", '{"api_key": {"$key": true}}'),
    )
    said = embed(*CHAIN, *options)
    assert "It was not tried. The model langchain/Chain needs an API key: set the environment" in (
        said.stderr
    )
    assert "datasette embed keys set chain-service" in said.stderr
    assert len(written()) == 1
    monkeypatch.setenv("CHAIN_KEY", "sk-a-key-nobody-may-see")
    said = embed(*CHAIN, *options)
    assert "It turns texts into 8 dimensions" in said.stderr
    assert "sk-a-key" not in json.dumps(written()) + said.stderr


@pytest.mark.torch
@pytest.mark.filterwarnings("default")  # of torch and transformers, which are not ours
def test_sentence_transformers_folder_that_holds_none_is_refused(written, tmp_path):
    """The folder is there, the model is not."""
    (tmp_path / "empty").mkdir()
    error = refused(*SENTENCES, str(tmp_path / "empty"))
    assert error.startswith("sentence-transformers/empty: ")
    assert error.endswith("Nothing was registered; --lazy registers without trying")
    assert written() == []
