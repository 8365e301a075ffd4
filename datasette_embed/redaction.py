"""Redaction: take API keys out of texts and exceptions before anybody reads them.

Layer 0: imports nothing of ours. Who finds a key says so here (``keep_secret``); what a
model or a server said goes through ``redacted`` or ``scrubbed`` before it gets into a
message, a log or a file. Where keys are found is not said here.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import traceback
from collections import OrderedDict
from urllib.parse import quote, quote_plus

REMOVED = "[key removed]"
#: A shorter key is not looked for: to remove it would tear up texts that have none.
SHORTEST = 8
#: Most keys that are remembered; where a caller brings a key of its own with every call.
MOST = 1_000
#: What stands in a request's Authorization header (RFC 6750, section 2.1).
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w\-.~+/]{4,}=*")
#: The same of RFC 7617: user and key in base64, which is no word of lower-case letters.
_BASIC = re.compile(r"\b([Bb]asic\s+)(?![a-z]+(?![\w+/=]))[\w\-+/]{8,}=*")
#: So much of the beginning of a key is no accident, and what is left of it is removed too.
TELLING = 12
#: A server that shortens a key writes its beginning, what stands for the middle, and its end.
_MASK = r"(?:\*{2,}|\u2022{2,}|\.{3,}|x{4,}|\u2026)[\w\-]{0,8}"

_lock = threading.Lock()
_secrets: OrderedDict[str, None] = OrderedDict()


def keep_secret(key: str | None) -> None:
    """Remember a key as what must not be shown; None and very short ones are passed over."""
    if key is None or len(key) < SHORTEST or key in _secrets:
        return
    with _lock:
        _secrets[key] = None
        while len(_secrets) > MOST:
            _secrets.popitem(last=False)


def redacted(text: str) -> str:
    """Return the text without any key this process has used and without Bearer tokens."""
    with _lock:
        known = list(_secrets)
    # Longest first: of two keys that begin alike nothing is left over.
    for key in sorted(known, key=len, reverse=True):
        for form in _forms(key):
            text = text.replace(form, REMOVED)
    # Beginnings last, so that none is taken for a key that was only longer.
    for key in known:
        text = _without_beginnings(text, _forms(key))
    text = _BASIC.sub(rf"\1{REMOVED}", text)
    return _BEARER.sub(rf"\1{REMOVED}", text)


def _forms(key: str) -> set[str]:
    """Return a key as it may stand in an address, in JSON, in Python and in base64."""
    return {
        key,
        quote(key),
        quote(key, safe=""),
        quote_plus(key),
        quote_plus(key, safe="/"),
        json.dumps(key)[1:-1],
        repr(key)[1:-1],
        base64.b64encode(key.encode("utf-8", "replace")).decode("ascii"),
    }


def _without_beginnings(text: str, forms: set[str]) -> str:
    """Return the text without what begins as a key does, shortened or cut off."""
    for form in forms:
        if len(form) >= TELLING and form[:4] in text:
            text = re.sub(re.escape(form[:4]) + r"[\w\-/+%]{0,99}?" + _MASK, REMOVED, text)
    # Of several forms that begin alike the one that fits longest.
    telling = {form[:TELLING] for form in forms if len(form) > TELLING}
    for beginning in telling:
        start = text.find(beginning)
        while start >= 0:
            end = start + max(_common(text, start, form) for form in forms)
            text = text[:start] + REMOVED + text[end:]
            start = text.find(beginning, start + len(REMOVED))
    return text


def _common(text: str, start: int, form: str) -> int:
    """Return how many characters of a form stand in the text from a place on."""
    return len(os.path.commonprefix([text[start : start + len(form)], form]))


class ScrubbedError(Exception):
    """Stands for an exception whose text held a key.

    Attributes:
        original_name: the name of that exception's type.
    """

    def __init__(self, original_name: str, message: str) -> None:
        self.original_name = original_name
        super().__init__(f"{original_name}: {message}")


def scrubbed(error: BaseException) -> BaseException:
    """Return the error, or one that stands for it, with no key in it or its whole chain.

    Causes, contexts, notes and members of groups count. An error without a key is returned
    as it is, with those in its chain that had one replaced.
    """
    return _scrubbed(error, {})


def _scrubbed(error: BaseException, seen: dict[int, BaseException]) -> BaseException:
    if id(error) in seen:
        return seen[id(error)]
    seen[id(error)] = clean = error if _is_clean(error) else _stand_in(error)
    cause, context = error.__cause__, error.__context__
    suppressed = error.__suppress_context__
    if cause is not None:
        clean.__cause__ = _scrubbed(cause, seen)
    if context is not None:
        clean.__context__ = _scrubbed(context, seen)
    clean.__suppress_context__ = suppressed
    return clean


def formatted(error: BaseException) -> str:
    """Return an error with its traceback and its chain as the log shows it, without keys.

    For the log in place of ``exc_info``, which hands over the frames themselves.
    """
    return "".join(traceback.format_exception(scrubbed(error))).rstrip()


def forget_frames(error: BaseException) -> None:
    """Let go of the frames that an error and its chain went through.

    A model's own code has the key in its variables, and Datasette prints the variables of all
    frames of an error where the package rich is installed, as services that collect errors do.
    The frames themselves are not touched: all who wait for one text are given the same error,
    and some of its frames may be theirs and go on.
    """
    for link in (error, *_chain(error)):
        link.__traceback__ = None


def _is_clean(error: BaseException) -> bool:
    return all(redacted(text) == text for text in _texts(error))


def _texts(error: BaseException) -> list[str]:
    """Return every text of an exception that a log or a page may show."""
    texts = [_said(error, str), _said(error, repr), *map(str, getattr(error, "__notes__", ()))]
    for inner in getattr(error, "exceptions", ()):
        if isinstance(inner, BaseException):
            texts += _texts(inner)
            texts += [text for link in _chain(inner) for text in _texts(link)]
    return texts


def _chain(error: BaseException) -> list[BaseException]:
    """Return the causes, contexts and members of groups below an exception, each once."""
    found: list[BaseException] = []
    queue = _next_links(error)
    while queue:
        current = queue.pop()
        if current not in found:
            found.append(current)
            queue += _next_links(current)
    return found


def _next_links(error: BaseException) -> list[BaseException]:
    links = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
    return [link for link in links if isinstance(link, BaseException)]


def _said(error: BaseException, how: type[str] | object) -> str:
    try:
        return str(error) if how is str else repr(error)
    except Exception:  # a class of somebody else's, which may get even this wrong
        return ""


def _stand_in(error: BaseException) -> BaseException:
    """Return an exception with the traceback of another, and its text without keys."""
    found = ScrubbedError(type(error).__name__, redacted(_said(error, str)))
    found.__traceback__ = error.__traceback__
    for note in getattr(error, "__notes__", ()):
        found.add_note(redacted(str(note)))
    return found


def scrub(error: BaseException) -> None:
    """Take the keys out of an error of ours in place: its texts, and its chain as above."""
    error.args = tuple(_clean_value(value) for value in error.args)
    for name, value in vars(error).items():
        if isinstance(value, str) and name != "__notes__":
            setattr(error, name, redacted(value))
    notes = getattr(error, "__notes__", None)
    if notes:
        error.__notes__ = [redacted(str(note)) for note in notes]
    suppressed = error.__suppress_context__
    if error.__cause__ is not None:
        error.__cause__ = scrubbed(error.__cause__)
    if error.__context__ is not None:
        error.__context__ = scrubbed(error.__context__)
    error.__suppress_context__ = suppressed


def _clean_value(value: object) -> object:
    return redacted(value) if isinstance(value, str) else value
