"""``models``: list, default, alias, remove; and what ``register`` writes."""

from __future__ import annotations

import json

import pytest

from datasette_embed.registry import forget_registries
from tests.conftest import ModelsPlugin
from tests.fakes import LlmStyleModel
from tests.storage import embed, refused

BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"
REGISTER = ("models", "register", "sentence-transformers")


def test_models_list_names_every_model(counting_model):
    """Ids with their aliases; JSON for programs."""
    lines = embed("models", "list").stdout.splitlines()
    assert "CountingModel: counting (aliases: count)" in lines
    assert f"BundledModel: {BUNDLED} (aliases: minilm, default)" in lines
    assert embed("models").stdout.splitlines() == lines
    found = {entry["id"]: entry for entry in json.loads(embed("models", "list", "--json").stdout)}
    assert found["counting"] == {
        "id": "counting",
        "class": "CountingModel",
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
    said = embed(*REGISTER, "intfloat/e5-small", "-a", "e5", "--lazy")
    assert said.stdout == ""
    assert "Registered sentence-transformers/intfloat/e5-small in" in said.stderr
    (file,) = user_directory.iterdir()
    assert "intfloat/e5-small" in file.read_text("utf-8")
    said = embed("models", "remove", "e5")
    assert "Removed sentence-transformers/intfloat/e5-small" in said.stderr
    assert "intfloat" not in file.read_text("utf-8")


def test_models_bad_input_one_line(counting_model, user_directory):
    """Names that are taken, models that are not there; nothing is written."""
    error = refused(*REGISTER, "a/b", "-a", "count")
    assert error == "The name 'count' belongs to counting"
    error = refused(*REGISTER, "all-MiniLM-L6-v2")
    assert error == f"{BUNDLED} is there already, without registering"
    error = refused(*REGISTER, BUNDLED)
    assert error == f"{BUNDLED} is there already, without registering"
    error = refused(*REGISTER, "a/b", "-a", "")
    assert error == "aliases[0]: must be text that is not blank, not ''"
    error = refused(*REGISTER, " ")
    assert error == "model: must be text that is not blank, not ' '"
    assert "nope" in refused("models", "remove", "nope")
    for name in ("minilm", BUNDLED):
        error = refused("models", "remove", name)
        assert error == f"{BUNDLED} comes with datasette-embed and cannot be removed"
    error = refused("models", "remove", "count")
    assert error.startswith("counting was not registered by a command, so none removes it: it")
    refused("models", "register", "somebody", "a/b", code=2)
    assert not user_directory.exists()


def test_models_register_folder_its_id_holds_no_path(tmp_path, monkeypatch, user_directory):
    """A folder is kept with its whole path, under an id that anybody may see."""
    monkeypatch.chdir(tmp_path)
    for parent in ("one", "two"):
        (tmp_path / parent / "mine").mkdir(parents=True)
    said = embed(*REGISTER, "one/mine", "--lazy")
    assert "Registered sentence-transformers/mine in" in said.stderr
    (entry,) = json.loads((user_directory / "models.json").read_text("utf-8"))
    assert entry["model"] == str(tmp_path / "one" / "mine")
    forget_registries()
    said = embed(*REGISTER, str(tmp_path / "two" / "mine"), "--lazy")
    assert said.stderr.startswith("Replaced sentence-transformers/mine in ")
    assert f"Before it was: sentence-transformers {tmp_path / 'one' / 'mine'}\n" in said.stderr
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


@pytest.fixture
def llm_folder(tmp_path):
    """LLM's folder of this test; it does not exist yet."""
    return tmp_path / "llm"


def test_models_list_queries_all_must_match(counting_model):
    """A part of the class, the id or an alias, in any case."""
    for queries in (["-q", "COUNT"], ["-q", "countingmodel", "-q", "ount"]):
        said = embed("models", "list", *queries)
        assert said.stdout == "CountingModel: counting (aliases: count)\n"
    assert embed("models", "list", "-q", "count", "--query", "minilm").stdout == ""
    assert json.loads(embed("models", "-q", "nope", "--json").stdout) == []
    assert embed("models", "list", "-q", "nope").stderr == "No model matches 'nope'\n"
    both = embed("models", "list", "-q", "count", "-q", "minilm")
    assert both.stderr == "No model matches 'count' and 'minilm'\n"


def test_models_list_class_of_a_plugin_for_llm_is_its_own(add_plugin):
    """Not that of what adapts it."""
    add_plugin(ModelsPlugin((LlmStyleModel, None)))
    assert "LlmStyleModel: llm-style" in embed("models", "list").stdout.splitlines()
    (found,) = json.loads(embed("models", "list", "-q", "llm-style", "--json").stdout)
    assert found["class"] == "LlmStyleModel"


def test_models_default_shown_set_and_removed(counting_model, llm_folder):
    """As LLM prints and keeps it; showing it makes nothing."""
    said = embed("models", "default")
    assert (said.stdout, said.stderr.splitlines()) == (
        "",
        ["<No default embedding model set>", f"Without one it is {BUNDLED}"],
    )
    embed("models", "default", "--remove-default")
    assert not llm_folder.exists()
    said = embed("models", "default", "count")
    assert (said.stdout, said.stderr) == ("", "")
    assert (llm_folder / "default_embedding_model.txt").read_text("utf-8") == "counting"
    assert embed("models", "default").stdout == "counting\n"
    error = refused("models", "default", "nope")
    assert error.startswith("Unknown model: nope. Known models: counting (count)")
    refused("models", "default", "count", "--remove-default", code=2)
    assert embed("models", "default").stdout == "counting\n"
    embed("models", "default", "--remove-default")
    assert list(llm_folder.iterdir()) == []


def test_models_default_of_llm_not_registered_here_is_said(llm_folder):
    """It is data all the same."""
    llm_folder.mkdir()
    (llm_folder / "default_embedding_model.txt").write_text("clip", "utf-8")
    said = embed("models", "default")
    assert said.stdout == "clip\n"
    assert "clip is not registered here: datasette embed models default minilm" in said.stderr


def test_models_alias_written_listed_and_removed(counting_model, llm_folder):
    """Into LLM's file, beside the aliases of chat models."""
    llm_folder.mkdir()
    path = llm_folder / "aliases.json"
    path.write_text('{"fast": "gpt-5"}', "utf-8")
    said = embed("models", "alias", "mine", "count")
    assert (said.stdout, said.stderr) == ("", f"'mine' names counting, by {path}\n")
    assert json.loads(path.read_text("utf-8")) == {"fast": "gpt-5", "mine": "counting"}
    forget_registries()
    assert "CountingModel: counting (aliases: count, mine)" in embed("models").stdout
    said = embed("models", "alias", "mine", "minilm")
    assert said.stderr.splitlines()[1:] == ["It named counting before."]
    said = embed("models", "alias", "mine", "--remove")
    assert said.stderr == f"Removed the alias 'mine' of {BUNDLED} from {path}\n"
    assert json.loads(path.read_text("utf-8")) == {"fast": "gpt-5"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("minilm", "count"), f"The name 'minilm' belongs to {BUNDLED}"),
        ((BUNDLED, "count"), f"The name '{BUNDLED}' belongs to {BUNDLED}"),
        (("mine", "nope"), "Unknown model: nope. Known models: "),
        (("mine", "--remove"), "has no alias 'mine'. Its aliases: none"),
    ],
)
def test_models_alias_refused_nothing_written(counting_model, llm_folder, arguments, words):
    """A registered name keeps its meaning."""
    assert words in refused("models", "alias", *arguments)
    assert not llm_folder.exists()


def test_models_alias_wrong_usage_exit_code_2(counting_model, llm_folder):
    """A model is needed, unless the alias goes."""
    assert "Missing argument 'MODEL'" in refused("models", "alias", "mine", code=2)
    refused("models", "alias", "mine", "count", "--remove", code=2)
    assert "is blank" in refused("models", "alias", " ", "count", code=2)
    said = embed("models", "alias", "count", "counting")
    assert said.stderr == "'count' names counting already\n"
    assert not llm_folder.exists()


def test_models_damaged_aliases_said_and_left_alone(counting_model, llm_folder):
    """The models are there; the file is for a person to mend."""
    llm_folder.mkdir()
    path = llm_folder / "aliases.json"
    path.write_text("{", "utf-8")
    said = embed("models", "list")
    assert "CountingModel: counting (aliases: count)" in said.stdout
    assert f"aliases.json is unavailable: {path}: cannot be read as JSON" in said.stderr
    assert "cannot be read as JSON" in refused("models", "alias", "m", "count", files=[path])


def test_register_by_the_name_of_a_preset_and_remove():
    """A model of a server that speaks OpenAI's protocol needs only its two names."""
    said = embed("models", "register", "ollama", "nomic-embed-text", "-a", "nomic", "--lazy")
    assert said.stderr.startswith("Registered ollama/nomic-embed-text in ")
    forget_registries()
    listed = embed("models", "list", "-q", "nomic").stdout
    assert listed == "OpenAIModel: ollama/nomic-embed-text (aliases: nomic)\n"
    assert "Removed ollama/nomic-embed-text" in embed("models", "remove", "nomic").stderr


def test_remove_by_an_alias_of_the_users_own(llm_folder):
    """One that was given later is a name of the entry like any other."""
    embed("models", "register", "ollama", "nomic-embed-text", "--lazy")
    forget_registries()
    embed("models", "alias", "mine", "ollama/nomic-embed-text")
    forget_registries()
    embed("models", "default", "mine")
    said = embed("models", "remove", "mine").stderr
    assert "Removed ollama/nomic-embed-text" in said
    # What would name a model that is not there is said, and is LLM's too.
    assert "It was the default model" in said
    assert "It leaves an alias: datasette embed models alias --remove mine" in said


def test_register_openais_own_model_is_there_already():
    """What every registry has need not be registered, and no alias of it is taken."""
    error = refused("models", "register", "openai", "text-embedding-3-small")
    assert error == "text-embedding-3-small is there already, without registering"
    error = refused("models", "register", "ollama", "other", "-a", "3-small")
    assert error == "The name '3-small' belongs to text-embedding-3-small"
