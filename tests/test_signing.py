"""Signatures: what this site wrote, told from what a stranger wrote."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys

import pytest

from datasette_embed.errors import SourceError
from datasette_embed.signing import is_signed, secret_file, sign


def test_sign_is_hmac_of_parts_with_their_lengths():
    """By the standard library's hmac and RFC 2104, of the lengths and the bytes."""
    signature = sign("job", "é")
    secret = secret_file().read_text().strip().encode()
    expected = hmac.new(secret, b"3:job2:\xc3\xa9", hashlib.sha256).hexdigest()
    assert signature == expected
    assert is_signed(signature, "job", "é")


@pytest.mark.parametrize(
    ("signature", "parts"),
    [
        (None, ("ab", "c")),
        ("", ("ab", "c")),
        ("ä" * 64, ("ab", "c")),
        ("\udcff", ("ab", "c")),
        (b"bytes", ("ab", "c")),
        ("{real}", ("a", "bc")),
        ("{real}", ("ab",)),
        ("{real}", ("ab", "c", "")),
        ("{real}", ("ab", "d")),
    ],
)
def test_is_signed_anything_else_is_not(signature, parts):
    """Not another cut of the same characters, and nothing that a file could hold instead."""
    real = sign("ab", "c")
    if isinstance(signature, str):
        signature = signature.replace("{real}", real)
    assert not is_signed(signature, *parts)
    assert is_signed(real, "ab", "c")


@pytest.mark.parametrize("part", [None, b"blob", 3, 1.5, ["a"]])
def test_is_signed_of_what_is_no_text_is_not(part):
    """A file may hold anything where text is expected."""
    assert not is_signed(sign("ab", "c"), "ab", part)


def test_secret_is_made_once_for_its_owner_only():
    """Asking makes none; signing makes one that only its owner can read."""
    assert not is_signed("x", "a")
    assert not secret_file().exists()
    first = sign("a")
    if os.name != "nt":
        assert secret_file().stat().st_mode & 0o777 == 0o600
    assert sign("a") == first
    assert [file.name for file in secret_file().parent.iterdir()] == [secret_file().name]
    secret_file().unlink()
    assert not is_signed(first, "a")
    assert sign("a") != first


def test_sign_in_many_processes_at_once_one_secret():
    """Whoever is first decides; all sign alike."""
    script = "from datasette_embed.signing import sign; print(sign('a'))"
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(4)
    ]
    signatures = {process.communicate(timeout=60)[0] for process in processes}
    assert signatures == {f"{sign('a')}\n".encode()}


def test_sign_unusable_secret_says_what_to_do(user_directory):
    """Empty or a folder: the path is named, and nothing is signed with it."""
    user_directory.mkdir()
    secret_file().write_text("\n")
    with pytest.raises(SourceError, match=r"signing-secret: is empty: remove it"):
        sign("a")
    assert not is_signed(hmac.new(b"", b"1:a", hashlib.sha256).hexdigest(), "a")
    secret_file().unlink()
    secret_file().mkdir()
    with pytest.raises(SourceError, match="signing-secret: cannot be read"):
        sign("a")


def test_sign_folder_that_cannot_be_made_is_said(user_directory):
    """A file in the place of the folder."""
    user_directory.write_text("")
    with pytest.raises(SourceError, match=r"signing-secret: cannot be (read|written)"):
        sign("a")
