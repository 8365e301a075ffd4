"""A server of embeddings on 127.0.0.1 that speaks OpenAI's protocol, and fails when told to.

For tests and benchmarks: real HTTP for a real client. Vectors are those of ``fakes.vector_of``.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tests.fakes import vector_of

#: Most bytes of an endless body: a client that reads on is not kept busy for ever.
ENDLESS_BYTES = 1 << 30


@dataclass
class Fault:
    """How one request is answered instead of well.

    Attributes:
        kind: ``status``, ``sleep``, ``cut``, ``not json``, ``no data``, ``fewer``, ``more``,
            ``nan``, ``shuffled``, ``same index``, ``dimensions``, ``redirect``, ``endless``,
            ``gzip bomb`` or ``gzip``.
        status: HTTP status of ``status``.
        headers: added to the answer.
        code: what its error calls itself.
        message: what its error says.
        dimensions: of ``dimensions``.
        location: of ``redirect``.
    """

    kind: str = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    message: str = "something is wrong"
    dimensions: int = 3
    location: str = ""


@dataclass
class Request:
    """One request as it came in; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """Return its texts, of which there may be one alone."""
        found = self.body["input"]
        return [found] if isinstance(found, str) else found


class EmbeddingServer:
    """Serves from entering the context to leaving it.

    Args:
        key: the key it asks for; None for none.
        dimensions: of its vectors, where a request does not say.
        latency_seconds: what every answer takes, all in all.
        failure_rate: share of requests answered by 500, of those of no script.
        seed: of which requests fail.
        max_tokens: most tokens (words) of a text; a request with a longer one is refused.
        most_items: most texts of a request.
        refuses_empty: whether an empty text gets its request refused, as OpenAI does.

    Attributes:
        script: faults of the next requests, one each; None lets one pass.
        requests: every request, in the order of arrival.
        failed: how many of them were not answered well.
        tokens_billed: tokens of those that were.
        most_at_once: most requests that were under way together.
        release: ends every ``sleep``.
    """

    def __init__(
        self,
        *,
        key: str | None = None,
        dimensions: int = 8,
        latency_seconds: float = 0.0,
        failure_rate: float = 0.0,
        seed: int = 0,
        max_tokens: int | None = None,
        most_items: int | None = None,
        refuses_empty: bool = True,
    ) -> None:
        self.key = key
        self.dimensions = dimensions
        self.latency_seconds = latency_seconds
        self.failure_rate = failure_rate
        self.max_tokens = max_tokens
        self.most_items = most_items
        self.refuses_empty = refuses_empty
        self.script: list[Fault | None] = []
        self.requests: list[Request] = []
        self.failed = 0
        self.tokens_billed = 0
        self.most_at_once = 0
        self.release = threading.Event()
        self._under_way = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def base_url(self) -> str:
        """Return what ``/embeddings`` is appended to."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def texts(self) -> list[str]:
        """Return the texts of every request, in order."""
        return [text for request in self.requests for text in request.texts]

    def __enter__(self) -> EmbeddingServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def begin(self, request: Request) -> Fault | None:
        """Count a request and return how it is to fail, if it is."""
        with self._lock:
            self.requests.append(request)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            if self.script:
                return self.script.pop(0)
            return Fault(status=500) if self._random.random() < self.failure_rate else None

    def end(self, tokens: int | None) -> None:
        """Count a request as over, with what its answer costs; None for one that is none.

        Before the answer is sent: whoever has it may look at the numbers.
        """
        with self._lock:
            self._under_way -= 1
            self.failed += tokens is None
            self.tokens_billed += tokens or 0

    def refusal(self, request: Request) -> Fault | None:
        """Return what is wrong with a request by itself."""
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            shown = request.headers.get("authorization", "no key")
            return Fault(status=401, code="invalid_api_key", message=f"Incorrect API key: {shown}")
        if self.refuses_empty and not all(request.texts):
            return Fault(status=400, message="'$.input' is invalid: an empty string")
        if self.most_items is not None and len(request.texts) > self.most_items:
            return Fault(status=400, message=f"at most {self.most_items} inputs")
        if self.max_tokens is not None and max(map(tokens_of, request.texts)) > self.max_tokens:
            message = f"This model's maximum context length is {self.max_tokens} tokens"
            return Fault(status=400, code="context_length_exceeded", message=message)
        return None


def tokens_of(text: str) -> int:
    """Return what a text costs here: a token a word."""
    return len(text.split())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: EmbeddingServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        owner = self.server.owner
        due = time.monotonic() + owner.latency_seconds
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.path, headers, body)
        fault = owner.begin(request)
        fault = fault or owner.refusal(request)
        tokens = sum(map(tokens_of, request.texts)) if fault is None else None
        answer = self._answer(request, tokens or 0) if fault is None else b""
        # What it computes is part of the time.
        time.sleep(max(0.0, due - time.monotonic()))
        owner.end(tokens)
        if fault is None:
            self._send(200, answer)
        else:
            self._fail(fault, request)

    def _answer(self, request: Request, tokens: int) -> bytes:
        asked = request.body.get("dimensions") or request.body.get("output_dimension")
        wanted = asked or self.server.owner.dimensions
        if request.body.get("encoding_format") == "base64":
            return _listed(enumerate(_encoded(text, wanted) for text in request.texts), tokens)
        vectors = [vector_of(text, dimensions=wanted) for text in request.texts]
        return _listed(enumerate(vectors), tokens)

    def _fail(self, fault: Fault, request: Request) -> None:
        wanted = self.server.owner.dimensions
        vectors = [vector_of(text, dimensions=wanted) for text in request.texts]
        numbered = list(enumerate(vectors))
        if fault.kind == "status":
            error = {"message": fault.message, "code": fault.code, "type": fault.code}
            self._send(fault.status, json.dumps({"error": error}).encode(), fault.headers)
        elif fault.kind == "sleep":
            self.server.owner.release.wait(30)
            self.close_connection = True
        elif fault.kind == "cut":
            whole = _listed(numbered, 1)
            self._head(200, {"content-length": str(len(whole))})
            self.wfile.write(whole[: len(whole) // 2])
            self.close_connection = True
        elif fault.kind == "redirect":
            self._send(fault.status, b"", {"location": fault.location})
        elif fault.kind in ("endless", "gzip bomb"):
            self._endless(is_gzip=fault.kind == "gzip bomb")
        elif fault.kind == "gzip":
            body = gzip.compress(_listed(numbered, 1))
            self._send(200, body, {"content-encoding": "gzip"})
        else:
            self._send(200, _wrong(fault, numbered))

    def _endless(self, *, is_gzip: bool) -> None:
        self.close_connection = True
        if is_gzip:
            self._head(200, {"content-encoding": "gzip"})
            self.wfile.write(bomb())
            return
        self._head(200, {})
        chunk = b"[" * (1 << 16)
        with suppress(OSError):
            for _ in range(ENDLESS_BYTES // len(chunk)):
                self.wfile.write(chunk)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, {"content-length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in headers:
            self.send_header("connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing to stderr."""


@cache
def bomb() -> bytes:
    """Return a body of a few kilobytes that unpacks to 64 MB."""
    return gzip.compress(b"[" * (64 << 20))


def _listed(numbered: Iterable[tuple[int, list[float] | str]], tokens: int) -> bytes:
    """Return the body of an answer with these vectors under these indexes."""
    data = [
        {"object": "embedding", "index": index, "embedding": vector} for index, vector in numbered
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()


def _encoded(text: str, dimensions: int) -> str:
    """Return the vector of a text in base64; what ``vector_of`` gives, faster."""
    digest = hashlib.shake_128(b"document:" + text.encode()).digest(2 * dimensions)
    numbers = np.frombuffer(digest, "<i2") / 32768
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def _wrong(fault: Fault, numbered: list[tuple[int, list[float]]]) -> bytes:
    """Return a body that is wrong in the way of the fault."""
    changed = {
        "fewer": numbered[:-1],
        "more": [*numbered, (len(numbered), numbered[0][1])],
        "nan": [(index, [float("nan")] * len(vector)) for index, vector in numbered],
        "shuffled": numbered[::-1],
        "same index": [(0, vector) for _, vector in numbered],
        "dimensions": [(index, [0.5] * fault.dimensions) for index, _ in numbered],
    }
    if fault.kind == "not json":
        return b"<html>Bad gateway</html>"
    if fault.kind == "no data":
        return b'{"object": "list"}'
    return _listed(changed[fault.kind], 1)


def http_date(seconds_from_now: float) -> str:
    """Return a date as ``Retry-After`` may give one."""
    return formatdate(time.time() + seconds_from_now, usegmt=True)
