"""Redaction: no key in a text, an exception, its chain, its notes."""

from __future__ import annotations

import traceback

import pytest

from datasette_embed import redaction
from datasette_embed.errors import ProviderError
from datasette_embed.redaction import keep_secret, redacted, scrub, scrubbed

KEY = "sk-very/secret+12345"


@pytest.fixture(autouse=True)
def known_key(monkeypatch):
    """What one test keeps secret is not removed from the texts of the others."""
    monkeypatch.setattr(redaction, "_secrets", redaction.OrderedDict())
    keep_secret(KEY)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"no such key: {KEY}!", "no such key: [key removed]!"),
        ("at ?key=sk-very%2Fsecret%2B12345&x", "at ?key=[key removed]&x"),
        ("Authorization: Bearer abcdefgh.ijk==", "Authorization: Bearer [key removed]"),
        ("at ?key=sk-very/secret%2B12345&x", "at ?key=[key removed]&x"),
        (
            "Authorization: Basic dTpzay12ZXJ5L3NlY3JldCsxMjM0NQ==",
            "Authorization: Basic [key removed]",
        ),
        ("the basic idea of basic embeddings", "the basic idea of basic embeddings"),
        ("Incorrect: sk-very/secr***2345!", "Incorrect: [key removed]!"),
        ("Incorrect: sk-v**********2345!", "Incorrect: [key removed]!"),
        ("cut off: sk-very/secret+12", "cut off: [key removed]"),
        ("sk-very is how keys begin", "sk-very is how keys begin"),
        ("a bearer of it", "a bearer of it"),
        ("nothing here", "nothing here"),
    ],
)
def test_redacted_keys_and_bearer_tokens_are_gone(text, clean):
    """Plain or quoted for a URL; a Bearer token is removed whoever it belongs to."""
    assert redacted(text) == clean


def test_redacted_key_that_begins_like_another_leaves_no_rest():
    """Else the end of the longer one would be shown."""
    keep_secret(KEY + "-more")
    assert redacted(f"{KEY}-more and {KEY}") == "[key removed] and [key removed]"


@pytest.mark.parametrize("key", [None, "", "abc"])
def test_keep_secret_too_short_tears_up_no_text(key):
    """Every text holds an a."""
    keep_secret(key)
    assert redacted("abc None") == "abc None"


def test_keep_secret_many_bounded(monkeypatch):
    """A caller that brings a new key with each call does not fill the memory."""
    monkeypatch.setattr(redaction, "MOST", 2)
    for number in range(5):
        keep_secret(f"some-key-{number}")
    assert list(redaction._secrets) == ["some-key-3", "some-key-4"]


class StubbornError(Exception):
    """Says what it was made with, whatever its args are."""

    def __init__(self, said):
        self.said = said

    def __str__(self):
        return self.said


def three_deep():
    """Return an error with the key in its cause, its cause's cause and a context."""
    try:
        try:
            try:
                raise StubbornError(f"refused {KEY}")
            except StubbornError as error:
                raise ValueError(f"wrapped {KEY}") from error
        except ValueError:
            raise RuntimeError(f"while handling {KEY}")  # noqa: B904
    except RuntimeError as error:
        error.add_note(f"used {KEY}")
        return error


def shown(error):
    """Return all that a log, a page or a debugger prints of an error, contexts included."""
    texts = traceback.format_exception(error)
    current = error
    while current is not None:
        texts += [str(current), repr(current)]
        current = current.__cause__ or current.__context__
    return "".join(texts)


def test_scrubbed_three_deep_nothing_left():
    """Types, other words and tracebacks stay."""
    clean = shown(scrubbed(three_deep()))
    assert KEY not in clean
    for words in ("RuntimeError: while handling [key", "StubbornError: refused [", "three_deep"):
        assert words in clean


def test_scrubbed_group_and_its_members_are_replaced():
    """A group prints what it holds."""
    group = ExceptionGroup("several", [ValueError("fine"), three_deep()])
    assert KEY in shown(group)
    assert KEY not in shown(scrubbed(group))


def test_scrubbed_without_a_key_the_same_object():
    """Code that looks at types still finds them."""
    error = ValueError("fine")
    assert scrubbed(error) is error


def test_scrubbed_ring_of_contexts_ends():
    """Two exceptions can name each other."""
    first, second = ValueError(KEY), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert KEY not in str(scrubbed(first))


def test_scrub_error_of_ours_in_place():
    """Its type and its data stay, its reason, its detail and its causes are clean."""
    error = ProviderError("m", f"said {KEY}", detail=f"more {KEY}", retryable=True)
    error.__cause__ = three_deep()
    scrub(error)
    assert str(error) == "m: said [key removed]"
    assert error.detail == "m: more [key removed]"
    assert error.reason == "said [key removed]" and error.retryable
    assert KEY not in shown(error)
