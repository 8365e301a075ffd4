"""Settings: what plugin config may say, and what it is told when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasette_embed.errors import ConfigError
from datasette_embed.model_entries import ModelEntry, parse_model_entry
from datasette_embed.settings import (
    SETTINGS,
    Settings,
    models_file,
    parse_settings,
    user_directory,
)


def test_parse_settings_nothing_given_defaults():
    """The table of numbers is what one gets."""
    assert parse_settings(None, {}) == Settings()
    assert parse_settings({}, {}) == Settings(
        query_cache_bytes=32 * 1024 * 1024,
        embed_timeout_seconds=10.0,
        warm_models=("default",),
        models=(),
    )
    assert set(SETTINGS) == set(Settings.__dataclass_fields__)


@pytest.mark.parametrize(
    "config",
    [
        {"query_cache_bytes": 1000, "embed_timeout_seconds": 2.5},
        {"query_cache_bytes": "1000", "embed_timeout_seconds": "2.5"},
        {"query_cache": {"bytes": 1000}, "embed": {"timeout_seconds": 2.5}},
        {"query": {"cache": {"bytes": 1000}}, "embed_timeout": {"seconds": 2.5}},
    ],
)
def test_parse_settings_nested_flat_or_text_same(config):
    """--plugin-secret can set flat keys only, and as text."""
    settings = parse_settings(config, {})
    assert (settings.query_cache_bytes, settings.embed_timeout_seconds) == (1000, 2.5)


def test_parse_settings_environment_is_between_config_and_default():
    """Config wins over the environment, the environment over the table."""
    environment = {
        "DATASETTE_EMBED_QUERY_CACHE_BYTES": "7",
        "DATASETTE_EMBED_EMBED_TIMEOUT_SECONDS": "3",
        "DATASETTE_EMBED_WARM_MODELS": "",
    }
    settings = parse_settings({"query_cache_bytes": 9}, environment)
    assert (settings.query_cache_bytes, settings.embed_timeout_seconds) == (9, 3.0)
    assert settings.warm_models == ("default",)


@pytest.mark.parametrize("value", [["a", "b"], "a, b", ("a", "b")])
def test_parse_settings_names_as_list_or_text(value):
    """A list of names may be written with commas."""
    assert parse_settings({"warm_models": value}, {}).warm_models == ("a", "b")


@pytest.mark.parametrize("value", [[], ""])
def test_parse_settings_warm_models_can_be_none(value):
    """A site that wants no model loaded says so."""
    assert parse_settings({"warm_models": value}, {}).warm_models == ()


MODEL = {"provider": "sentence-transformers", "model": "x"}


@pytest.mark.parametrize(
    ("config", "key", "message"),
    [
        ({"cache": 1}, "cache", "unknown setting of datasette-embed. Allowed: query_cache_bytes,"),
        ({"query_cache": {"byte": 1}}, "query_cache.byte", "unknown setting"),
        ({"query_cache_bytes": 0}, "query_cache_bytes", "a whole number of 1 or more, not 0"),
        ({"query_cache_bytes": 1.5}, "query_cache_bytes", "a whole number"),
        ({"query_cache_bytes": True}, "query_cache_bytes", "a whole number"),
        ({"query_cache_bytes": None}, "query_cache_bytes", "a whole number"),
        ({"query_cache_bytes": "32MB"}, "query_cache_bytes", "not '32MB'"),
        ({"query_cache": {"bytes": "x"}}, "query_cache.bytes", "a whole number"),
        ({"query_cache_bytes": 1, "query_cache": {"bytes": 1}}, "query_cache.bytes", "given twice"),
        ({"embed_timeout_seconds": -1}, "embed_timeout_seconds", "seconds above 0, not -1"),
        ({"embed_timeout_seconds": "nan"}, "embed_timeout_seconds", "seconds above 0"),
        ({"embed_timeout_seconds": True}, "embed_timeout_seconds", "seconds above 0"),
        ({"embed_timeout_seconds": [1]}, "embed_timeout_seconds", "seconds above 0"),
        ({"warm_models": 3}, "warm_models", "a list of names, not 3"),
        ({"warm_models": ["a", 3]}, "warm_models[1]", "text that is not blank, not 3"),
        ({"models": 3}, "models", "a list of models, not int"),
        ({"models": "x"}, "models", "a list of models, or the same as JSON"),
        ({"models": ["x"]}, "models[0]", "an object with provider and model, not 'x'"),
        ({"models": [{**MODEL, "key": 1}]}, "models[0].key", "unknown key. Allowed: provider,"),
        ({"models": [MODEL, {"model": "x"}]}, "models[1].provider", "text that is not blank"),
        ({"models": [{"provider": "p", "model": "x"}]}, "models[0].provider", "not 'p'"),
        ({"models": [{**MODEL, "model": " "}]}, "models[0].model", "text that is not blank"),
        ({"models": [{**MODEL, "id": 1}]}, "models[0].id", "text that is not blank"),
        ({"models": [{**MODEL, "aliases": 1}]}, "models[0].aliases", "a list of names"),
        ({"models": [{**MODEL, "truncate_dim": 0}]}, "models[0].truncate_dim", "whole number"),
        (["x"], "datasette-embed", "must be an object, not list"),
    ],
)
def test_parse_settings_mistake_names_the_key_and_what_is_allowed(config, key, message):
    """Whoever wrote the config must find the line."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(config, {})
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: ")
    assert message in str(caught.value)


def test_parse_settings_mistake_in_environment_names_the_variable():
    """There the key is the name of the variable."""
    with pytest.raises(ConfigError, match="^DATASETTE_EMBED_QUERY_CACHE_BYTES: must be"):
        parse_settings({}, {"DATASETTE_EMBED_QUERY_CACHE_BYTES": "x"})


def test_parse_settings_models_as_list_or_json():
    """A flat key can only be text: then it is JSON."""
    entry = ModelEntry("sentence-transformers", "x", model_id="y", aliases=("z",))
    value = '[{"provider": "sentence-transformers", "model": "x", "id": "y", "aliases": ["z"]}]'
    assert parse_settings({"models": value}, {}).models == (entry,)


def test_model_entry_as_json_reads_back_the_same():
    """The models file holds what was registered."""
    entry = ModelEntry(
        "sentence-transformers", "x", None, ("a", "b"), {"device": "cpu", "truncate_dim": 64}
    )
    assert parse_model_entry(entry.as_json(), "here") == entry
    bare = ModelEntry("sentence-transformers", "x")
    assert bare.as_json() == {"provider": "sentence-transformers", "model": "x"}
    assert bare.resolved_id == "sentence-transformers/x"


@pytest.mark.parametrize(
    ("model", "model_id"),
    [
        ("all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"),
        ("sentence-transformers/all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"),
        ("intfloat/e5-small", "sentence-transformers/intfloat/e5-small"),
        ("/srv/models/mine", "sentence-transformers/mine"),
        ("/srv/models/mine/", "sentence-transformers/mine"),
        ("./mine", "sentence-transformers/mine"),
        ("../mine", "sentence-transformers/mine"),
        ("~/mine", "sentence-transformers/mine"),
        ("a/models/mine", "sentence-transformers/mine"),
        ("C:\\models\\mine\\", "sentence-transformers/mine"),
        ("C:/mine", "sentence-transformers/mine"),
    ],
)
def test_model_entry_id_is_the_name_with_one_prefix_and_no_path(model, model_id):
    """The ids of LLM's plugin; a folder gives its last part, as everybody sees the ids."""
    entry = parse_model_entry({"provider": "sentence-transformers", "model": model}, "here")
    assert (entry.resolved_id, entry.model) == (model_id, model)


@pytest.mark.parametrize("model", ["/", "..", "~", "./", "a/../.."])
def test_parse_model_entry_folder_without_a_name_needs_an_id(model):
    """There is nothing to call it by."""
    value = {"provider": "sentence-transformers", "model": model}
    with pytest.raises(ConfigError, match="^here.model: a folder like .* needs an id too$"):
        parse_model_entry(value, "here")
    assert parse_model_entry({**value, "id": "mine"}, "here").resolved_id == "mine"


def test_user_directory_environment_wins(user_directory_variable_unset, monkeypatch, tmp_path):
    """The variable names the folder; without it there is one for this machine."""
    assert user_directory().name == "datasette_embed"
    monkeypatch.setenv("DATASETTE_EMBED_USER_PATH", str(tmp_path / "mine"))
    assert user_directory() == tmp_path / "mine"
    assert models_file() == Path(tmp_path / "mine" / "models.json")


@pytest.fixture
def user_directory_variable_unset(monkeypatch):
    """As on a machine where nobody set it."""
    monkeypatch.delenv("DATASETTE_EMBED_USER_PATH")


BLOCK = {"id": ["anna"]}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"allow": {"a": True, "b": BLOCK}}, {"a": True, "b": BLOCK}),
        ({"allow": '{"a": true, "b": {"id": ["anna"]}}'}, {"a": True, "b": BLOCK}),
        ({}, {}),
    ],
)
def test_parse_settings_allow_as_block_or_json(config, found):
    """A flat key can only be text."""
    assert parse_settings(config, {}).allow == found


@pytest.mark.parametrize(
    "config",
    [
        {"keys": {"openai": "sk-1", "unset": None, "empty": " "}},
        {"keys_openai": " sk-1 "},
        {"keys": '{"openai": "sk-1"}'},
    ],
)
def test_parse_settings_keys_nested_flat_or_json(config):
    """One that ``$env`` did not find is none."""
    assert parse_settings(config, {}).keys == {"openai": "sk-1"}


def test_parse_settings_keys_flat_beside_the_block():
    """Different keys may come either way."""
    config = {"keys": {"a": "1"}, "keys_b": "2"}
    assert parse_settings(config, {}).keys == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("value", "found"), [(True, True), ("false", False), ("TRUE", True), ("0", False)]
)
def test_parse_settings_boolean_or_text(value, found):
    """The environment has only text."""
    assert parse_settings({"resume_jobs": value}, {}).resume_jobs is found
    environment = {"DATASETTE_EMBED_RESUME_JOBS": str(value)}
    assert parse_settings({}, environment).resume_jobs is found


def test_parse_settings_models_entry_may_say_who():
    """On a site; the models file of a user has nobody to allow."""
    [entry] = parse_settings({"models": [{**MODEL, "allow": BLOCK}]}, {}).models
    assert entry.allow == BLOCK
    with pytest.raises(ConfigError, match="unknown key"):
        parse_model_entry({**MODEL, "allow": BLOCK}, "here")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"allow": 3}, "allow: must be an object of model: allow block, not 3"),
        ({"allow": {"a": None}}, "allow.a: must be true, false or an allow block"),
        ({"allow": {"a": "anna"}}, "allow.a: must be true, false or an allow block"),
        ({"allow": "{"}, "or the same as JSON"),
        ({"allow_create": 3}, "allow_create: must be true, false or an allow block"),
        ({"resume_jobs": "perhaps"}, "resume_jobs: must be true or false, not 'perhaps'"),
        ({"visitor_header": " "}, "visitor_header: must be text"),
        ({"models": [{**MODEL, "allow": 3}]}, r"models\[0\].allow: must be true"),
        ({"calls_per_request": 0}, "calls_per_request: must be a whole number of 1 or more"),
    ],
)
def test_parse_settings_who_and_how_often_mistakes_said(config, message):
    """A rule that cannot be read must not be taken for none."""
    with pytest.raises(ConfigError, match=message):
        parse_settings(config, {})


@pytest.mark.parametrize(
    "config",
    [
        {"keys": "sk-secret"},
        {"keys": ["sk-secret"]},
        {"keys": {"a": ["sk-secret"]}},
        {"keys_a": {"b": "sk-secret"}},
        {"keys": {"a": "sk-other"}, "keys_a": "sk-secret"},
    ],
)
def test_parse_settings_keys_mistake_never_quotes_a_key(config):
    """The message ends up in a log."""
    with pytest.raises(ConfigError, match="key") as caught:
        parse_settings(config, {})
    assert "sk-" not in str(caught.value) and "sk-" not in repr(caught.value)


def test_settings_repr_has_no_key():
    """Nor does what a debugger prints."""
    assert "sk-secret" not in repr(parse_settings({"keys": {"a": "sk-secret"}}, {}))


def test_public_collections_are_named_with_their_database():
    """One without would be public in every file."""
    named = parse_settings({"public_collections": ["vectors/til", "v/a/b"]})
    assert named.public_collections == ("vectors/til", "v/a/b")
    for wrong in ("til", "/til", "vectors/"):
        with pytest.raises(ConfigError, match="must be a list of database/collection, not"):
            parse_settings({"public_collections": [wrong]})


@pytest.mark.parametrize("value", ["sk-test-12345678", "A" * 32, "two words", "", 7])
def test_parse_model_entry_key_instead_of_its_name_refused_and_not_shown(value):
    """Messages about a missing key show the name, to visitors too."""
    entry = {"provider": "openai", "model": "m", "base_url": "http://localhost/v1"}
    for option, words in (("key", "the name of a key"), ("key_env_var", "of an environment var")):
        with pytest.raises(ConfigError, match=rf"^here\.{option}: must be .*{words}") as caught:
            parse_model_entry({**entry, option: f"{value}-" if option != "key" else value}, "here")
        assert str(value or "sk-") not in str(caught.value)
    good = parse_model_entry({**entry, "key": "mine", "key_env_var": "MINE_API_KEY"}, "here")
    assert good.options["key"] == "mine"
