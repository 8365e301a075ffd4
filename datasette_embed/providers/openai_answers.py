"""Answers of a server that speaks OpenAI's protocol: bounded bodies, vectors, errors of ours.

Layer 3: imports ``amounts`` and ``errors``. Nothing a server sends is trusted: a body is read
up to a bound in bytes and in seconds, compressed or not; what it says of an error goes only into
the detail of ours. Which requests are made belongs to ``openai``.
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import import_module
from time import monotonic, time
from typing import Any
from urllib.parse import urlsplit

from ..amounts import duration_text
from ..errors import (
    CallRefusedError,
    EmbedError,
    ProviderError,
    QuotaExceededError,
    UnreadableTextError,
)

#: Longest part of an answer that goes into a log.
MOST_CHARACTERS = 500
#: Codes of an account that has nothing left (OpenAI's guide to error codes).
_QUOTA_CODES = ("insufficient_quota", "billing_not_active", "billing_hard_limit_reached")
_NO_BALANCE = re.compile(r"insufficient[ _]balance", re.IGNORECASE)  # Jina's, with a 403
#: What servers say of a text that is too long, or of a request that is.
_TOO_LONG = re.compile(
    r"maximum (context|input|sequence|text|token)|context[ _]length|too (long|large|many tokens)"
    r"|(must have|at most|less than|exceed\w*)[^.]{0,60}tokens",
    re.IGNORECASE,
)
_RETRYABLE_STATUSES = (408, 409, 425, 429)


@dataclass(frozen=True)
class Call:
    """What an error has to say of the request it is about.

    Attributes:
        model_id: the id of the model here.
        model: what the server calls it.
        key_names: how its key may be set, for a message; None where it has none.
        items: number of texts.
        host: the server's, with its port; for the log only.
    """

    model_id: str
    model: str
    key_names: str | None
    items: int
    host: str


class BodyRefusedError(Exception):
    """A body is larger than any answer, or packed in a way that was not asked for."""


@dataclass(frozen=True)
class Bounds:
    """How much of an answer is read: so many bytes, in so many seconds."""

    most_bytes: int
    seconds: float


bounds: ContextVar[Bounds] = ContextVar("embed_answer_bounds")


def read_bounded(response: Any) -> None:
    """Read the body of a response of httpx, within ``bounds``, in place of the client.

    A hook of the client, which sees every answer before its body is read.

    Raises:
        BodyRefusedError: it is larger, or compressed other than by gzip and deflate.
        TimeoutError: it took longer.
    """
    limit = bounds.get()
    deadline = monotonic() + limit.seconds
    body = bytearray()
    stream = response.stream
    try:
        for chunk in stream:
            body += chunk
            if len(body) > limit.most_bytes:
                raise BodyRefusedError(f"more than {limit.most_bytes:,} bytes")
            if monotonic() > deadline:
                raise TimeoutError("the body of the answer did not end in time")
    finally:
        stream.close()
    packed = response.headers.pop("content-encoding", "identity").strip().lower()
    # The client comes with one of two packages of this shape.
    httpx = import_module(type(response).__module__.partition(".")[0])
    response.stream = httpx.ByteStream(_unpacked(bytes(body), packed, limit.most_bytes))


def _unpacked(body: bytes, packed: str, most_bytes: int) -> bytes:
    if packed in ("identity", ""):
        return body
    if packed not in ("gzip", "x-gzip", "deflate"):
        raise BodyRefusedError("compressed in another way than gzip")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out which of the two it is
    try:
        found = unpacker.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise BodyRefusedError("no valid gzip") from error
    if len(found) > most_bytes:
        raise BodyRefusedError(f"more than {most_bytes:,} bytes")
    return found


def read_answer(body: bytes, call: Call) -> tuple[Any, int | None]:
    """Return the vectors of an answer in the order of the texts, and the tokens it cost.

    Raises:
        ProviderError: it is no list of embeddings, or not one for each text. Retryable.
    """
    try:
        answer = json.loads(body)
        data = [(item.get("index"), item["embedding"]) for item in answer["data"]]
        vectors = [_vector(embedding) for _, embedding in data]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(call, "answered with no list of embeddings", body) from error
    if len(data) == call.items:  # another number is refused by who called
        vectors = _in_order(vectors, [index for index, _ in data], call, body)
    usage = answer.get("usage")
    tokens = usage.get("prompt_tokens", usage.get("total_tokens")) if _is_mapping(usage) else None
    return vectors, tokens if isinstance(tokens, int) and tokens >= 0 else None


def _vector(embedding: Any) -> Any:
    """Return the numbers of a list, or of base64: little-endian float32."""
    import numpy as np

    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    if not isinstance(embedding, list):
        raise TypeError("an embedding is a list or base64")
    return embedding


def _in_order(vectors: list[Any], indexes: list[Any], call: Call, body: bytes) -> list[Any]:
    if all(index is None for index in indexes):
        return vectors  # a server that does not number them
    # Where zeros are left out, as in the JSON of protocol buffers, the first has no number.
    numbers = [0 if index is None else index for index in indexes]
    if not all(isinstance(number, int) for number in numbers) or sorted(numbers) != list(
        range(len(numbers))
    ):
        raise _broken(call, "numbered its vectors wrongly", body)
    return [vector for _, vector in sorted(zip(numbers, vectors, strict=True), key=lambda n: n[0])]


def _broken(call: Call, reason: str, body: bytes) -> ProviderError:
    said = body[:MOST_CHARACTERS].decode("utf-8", "replace")
    return ProviderError(
        call.model_id,
        f"the server {reason}. The log says more",
        detail=f"the server {reason}: {said}",
        retryable=True,
    )


def translate(error: Exception, call: Call) -> EmbedError:
    """Return what to raise ``from`` an exception of the client."""
    import openai

    links = [error, *(link for link in (error.__cause__, error.__context__) if link)]
    if any(isinstance(link, BodyRefusedError) for link in links):
        return ProviderError(
            call.model_id,
            "the answer is larger than any answer can be, or cannot be read",
            detail=f"the answer was refused: {'; '.join(map(str, links))}",
        )
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, call)
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return _passing(call, "the server did not answer in time", error)
    if isinstance(error, openai.APIConnectionError):
        return _passing(call, "the server cannot be reached, or broke off", error)
    return ProviderError.from_exception(call.model_id, error)


def _passing(call: Call, reason: str, error: Exception) -> ProviderError:
    cause = error.__cause__ or error
    return ProviderError(
        call.model_id,
        f"{reason}, retry in a moment",
        detail=f"{reason}. Is it {call.host}, and does it run? ({type(cause).__name__}: {cause})",
        retryable=True,
    )


def _of_status(error: Any, call: Call) -> EmbedError:
    """Return the error of an answer that is none of vectors; the order of the cases counts."""
    status, said = error.status_code, _said(error)

    def described(reason: str) -> dict[str, Any]:
        # Whoever runs the command reads the detail: it says what to do, too.
        return {"reason": reason, "detail": f"{reason}. The server says: {said}"}

    if 300 <= status < 400:
        host = urlsplit(error.response.headers.get("location", "")).hostname or "no address"
        reason = "the server sends every call on, which is not followed: set base_url"
        return CallRefusedError(call.model_id, reason, detail=f"{reason}. It names {host}")
    codes = {str(error.code), str(error.type)}
    is_empty = status == 403 and _NO_BALANCE.search(f"{codes} {said}") is not None
    if status == 402 or is_empty or codes & set(_QUOTA_CODES):
        reason = f"the account has nothing left (HTTP {status}): see to it at the provider's site"
        return QuotaExceededError(call.model_id, **described(reason))
    if status in (401, 403):
        return CallRefusedError(call.model_id, **described(_key_refused(status, call)))
    if status == 404:
        reason = f"the server knows no model {call.model}, or is at another address (HTTP 404)"
        return CallRefusedError(call.model_id, **described(reason))
    # llama-server says so with a 500, which no other attempt would change.
    is_too_long = status == 413 or (
        status in (400, 422, 500) and _TOO_LONG.search(f"{error.code} {said}") is not None
    )
    if not is_too_long and (status in _RETRYABLE_STATUSES or status >= 500):
        seconds = retry_after(error.response.headers)
        when = "a moment" if not seconds or seconds < 10 else duration_text(seconds)
        return ProviderError(
            call.model_id,
            **described(f"the server is busy or broken (HTTP {status}), retry in {when}"),
            retryable=True,
            retry_after_seconds=seconds,
            is_rate_limit=status == 429,
        )
    if call.items == 1 and is_too_long:
        found = UnreadableTextError(
            call.model_id, "the server takes no text of this length", is_too_long=True
        )
        found._detail = f"{found}. The server says: {said}"
        return found
    reason = f"the server refused the request (HTTP {status}). The log says why"
    return ProviderError(call.model_id, reason, detail=f"HTTP {status}: {said}")


def _key_refused(status: int, call: Call) -> str:
    if call.key_names is None:
        return f"the server asks for a key (HTTP {status}): name one with the option key"
    return f"the server does not take the key (HTTP {status}): set another {call.key_names}"


def _said(error: Any) -> str:
    """Return what a server said of an error, on one line and not without end."""
    said = error.body.get("message", error.body) if _is_mapping(error.body) else error.body
    return " ".join(str(said or error.message).split())[:MOST_CHARACTERS]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait; None where it does not say.

    ``Retry-After`` is a number of seconds or a date (RFC 9110, section 10.2.3);
    ``retry-after-ms`` is OpenAI's own.
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
