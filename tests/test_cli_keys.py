"""``keys``: names are listed, keys never."""

from __future__ import annotations

import json

import pytest

from datasette_embed.keys import keys_path
from tests.storage import embed, refused


def test_keys_list_path_set_remove():
    """What is set is there, by name; what is removed is not."""
    assert embed("keys").stderr == "No keys found\n"
    said = embed("keys", "set", "openai", "--value", "sk-12345678")
    assert (said.stdout, said.stderr) == ("", f"Stored the key 'openai' in {keys_path()}\n")
    assert embed("keys", "path").stdout == f"{keys_path()}\n"
    listed = embed("keys", "list")
    assert (listed.stdout, listed.stderr) == ("openai\n", "")
    said = embed("keys", "set", "openai", "--value", " sk-87654321\n")
    assert said.stderr.startswith("Replaced the key 'openai'")
    assert json.loads(keys_path().read_text("utf-8"))["openai"] == "sk-87654321"
    assert "Removed the key 'openai'" in embed("keys", "remove", "openai").stderr
    assert embed("keys").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("set", " ", "--value", "x"), "must be a word like openai", 2),
        (("set", "// Note", "--value", "x"), "must be a word like openai", 2),
        (("set", "a", "--value", " "), "The key is blank", 2),
        (("remove", "nope"), "has no key 'nope'. Its keys: none", 1),
    ],
)
def test_keys_bad_input_refused_and_nothing_written(arguments, message, code):
    """One line; no file is made."""
    assert message in refused("keys", *arguments, code=code)
    assert not keys_path().exists()
