"""Keys: in which order they are looked for, and what is never said of them."""

from __future__ import annotations

import json
import sqlite3
import traceback
from contextlib import closing

import pytest
from click.testing import CliRunner
from datasette.cli import cli

from datasette_embed.errors import MissingKeyError, SourceError
from datasette_embed.keys import find_key, keys_path, read_stored_keys
from datasette_embed.llm_files import remove_key, write_key
from datasette_embed.redaction import redacted
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel


@pytest.fixture
def paid():
    """A model that needs a key."""
    model = CountingModel("paid")
    model.needs_key, model.key_env_var = "service", "SERVICE_KEY"
    return model


def test_get_key_order_explicit_own_environment_file(paid, monkeypatch):
    """Each is used only where the ones before it are missing."""
    with pytest.raises(MissingKeyError, match="SERVICE_KEY, or run datasette embed keys set serv"):
        paid.get_key()
    write_key("service", "from-file")
    assert paid.get_key() == "from-file"
    monkeypatch.setenv("SERVICE_KEY", "from-environment")
    assert paid.get_key() == "from-environment"
    paid.key = "of-the-model"
    assert paid.get_key() == "of-the-model"
    assert paid.get_key("given") == "given"


def test_get_key_explicit_name_in_the_file_means_that_key(paid):
    """As in LLM: --key NAME."""
    write_key("work", "key-for-work")
    assert paid.get_key("work") == "key-for-work"
    assert paid.get_key("home") == "home"


def test_get_key_none_needed_file_not_read(monkeypatch):
    """A free model does not depend on a broken file."""
    keys_path().parent.mkdir(parents=True)
    keys_path().write_text("{", "utf-8")
    assert CountingModel().get_key() is None
    assert find_key("given-key", None, "x", None) == "given-key"


@pytest.mark.parametrize(
    ("content", "reason"), [("{sk-secret", "is no JSON;"), ("[]", "no JSON o")]
)
def test_get_key_broken_file_said_without_its_content(paid, content, reason):
    """The message names the file and nothing that is in it."""
    keys_path().parent.mkdir(parents=True)
    keys_path().write_text(content, "utf-8")
    with pytest.raises(SourceError, match=reason) as caught:
        paid.get_key()
    assert "sk-secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_find_key_found_keys_are_kept_out_of_texts(monkeypatch):
    """Wherever it comes from."""
    monkeypatch.setenv("SERVICE_KEY", "environment-9876")
    find_key(None, None, "service", "SERVICE_KEY")
    find_key("explicit-9876", None, None, None)
    write_key("other", "file-9876-secret")
    read_stored_keys()
    said = redacted("environment-9876 explicit-9876 file-9876-secret")
    assert said == " ".join(["[key removed]"] * 3)


def test_write_key_new_file_for_the_owner_only_with_llms_note():
    """LLM writes the same (llm 0.36, cli.py:keys_set)."""
    write_key("openai", "k")
    assert keys_path().stat().st_mode & 0o777 == 0o600
    assert json.loads(keys_path().read_text("utf-8")) == {
        "// Note": "This file stores secret API credentials. Do not share!",
        "openai": "k",
    }
    assert read_stored_keys() == {"openai": "k"}


def test_write_and_remove_key_others_stay_and_the_file_is_closed():
    """A file that others could read can be read by its owner only from then on."""
    keys_path().parent.mkdir(parents=True)
    keys_path().write_text('{"// Note": "mine", "b": "2", "n": 3}', "utf-8")
    keys_path().chmod(0o644)
    write_key("a", "1")
    assert keys_path().stat().st_mode & 0o777 == 0o600
    remove_key("b")
    expected = {"// Note": "mine", "n": 3, "a": "1"}
    assert json.loads(keys_path().read_text("utf-8")) == expected
    for missing in ("b", "// Note"):
        with pytest.raises(SourceError, match="has no key '.*'. Its keys: n, a"):
            remove_key(missing)
    assert json.loads(keys_path().read_text("utf-8")) == expected


KEY = "sk-secret/0123456789"


class LeakyModel(CountingModel):
    """Says its key whenever it fails, and to make it worse, in the first line."""

    needs_key, key_env_var = "leak", "LEAK_KEY"

    def embed_batch(self, items, *, kind=None, key=None):
        used = self.get_key(key)
        if "bad" in items or self.fails_with:
            try:
                raise ConnectionError(f"401: Authorization: Bearer {used}")
            except ConnectionError as error:
                raise ValueError(f"refused {used}") from error
        return super().embed_batch(items)


def test_job_of_a_model_that_says_its_key_nothing_of_it_is_stored_or_said(
    tmp_path, add_plugin, monkeypatch
):
    """Not in the rows of the job and its failures, nor at the terminal."""
    monkeypatch.setenv("LEAK_KEY", KEY)
    model = LeakyModel("leaky")
    add_plugin(ModelsPlugin((model, ())))
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("create table t (id integer primary key, body text)")
        conn.executemany("insert into t (body) values (?)", [("good",), ("bad",)])
    create = ("create", path, "t", "--model", "leaky", "--yes")
    said = [CliRunner().invoke(cli, ["embed", *map(str, create)])]
    model.fails_with = ValueError("all")
    said += [CliRunner().invoke(cli, ["embed", "text", "-m", "leaky", "-c", "x"])]
    said += [CliRunner().invoke(cli, ["embed", "jobs", "show", str(path), "1"])]
    assert said[0].exit_code in (0, 1), said[0].stderr
    with closing(sqlite3.connect(path)) as conn:
        rows = conn.execute("select reason, status from _embed_jobs").fetchall()
        [[message]] = conn.execute("select message from _embed_failures").fetchall()
        dump = "\n".join(conn.iterdump())
    assert rows[0][1] == "finished"
    assert message == "leaky: the model failed (ValueError). The log says why"
    assert KEY not in dump
    for result in said:
        assert KEY not in result.stdout + result.stderr
    assert "refused [key removed]" in said[1].stderr
    assert KEY not in "".join(traceback.format_exception(said[1].exception))
