"""QueryEmbeddings: the vector of one text that somebody searches for, embedded once.

Layer 5: imports models, vectors and errors. A SQL function runs on one of few threads and
may be evaluated often, so: vectors are cached for the whole process; two requests for one
text share one computation; a computation has its own daemon thread, goes on when the
query that asked for it is given up, and fills the cache; and when all but one of the SQL
threads wait for models, the next request fails at once instead of waiting. Embedding
whole tables does not belong here.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from .errors import BusyError, EmbedTimeoutError, UnreadableTextError
from .models import EmbeddingModel, Item, Kind, Reading
from .threads import start_thread

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 32 * 1024 * 1024
#: Share of tokens without meaning for the model above which a warning is logged.
UNKNOWN_SHARE_WARNED = 0.2

# The type comes before the content: a str and bytes with one hash must not be compared.
Key = tuple[str, Kind, type, Item]


@dataclass(frozen=True)
class Limits:
    """How long, and how many at once, uncached embeds may take.

    Attributes:
        timeout_seconds: longest wait for one embed; None waits for ever, in the caller's
            own thread, as a script wants.
        concurrent: embeds that may be waited for at once, and that one model may have under
            way; None for no limit.
    """

    timeout_seconds: float | None = None
    concurrent: int | None = None


NO_LIMITS = Limits()


class QueryEmbeddings:
    """Vectors of query texts as blobs, bounded in bytes, least recently used out first."""

    def __init__(self, *, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._cache: OrderedDict[Key, bytes] = OrderedDict()
        self._used_bytes = 0
        self._computing: dict[Key, Future[bytes]] = {}
        self._awaited = 0  # computations whose first caller still waits for them
        self._running: Counter[str] = Counter()  # computations under way, by fingerprint

    @property
    def used_bytes(self) -> int:
        """Return the memory the cached contents and vectors take, in bytes."""
        return self._used_bytes

    def resize(self, max_bytes: int) -> None:
        """Set the bound in bytes, dropping what no longer fits."""
        with self._lock:
            self._max_bytes = max_bytes
            self._shrink()

    def clear(self) -> None:
        """Forget every cached vector; computations under way are not touched."""
        with self._lock:
            self._cache.clear()
            self._used_bytes = 0

    def find(
        self, model: EmbeddingModel, content: Item, *, kind: Kind = Kind.QUERY
    ) -> bytes | None:
        """Return the cached vector as an encoded blob, or None. Takes microseconds."""
        return self._find((model.fingerprint, kind, type(content), content))

    def embed(
        self,
        model: EmbeddingModel,
        content: Item,
        *,
        kind: Kind = Kind.QUERY,
        key: str | None = None,
        limits: Limits = NO_LIMITS,
    ) -> bytes:
        """Return the vector of the content as a blob: float32, little-endian.

        Args:
            model: the model to ask.
            content: text or bytes, not blank.
            kind: the side of the search it is on.
            key: API key for this call. It is no part of the cache's key.
            limits: how long to wait, and how many at once.

        Raises:
            UnreadableTextError: the model would read only a part of the text, or none.
            EmbedTimeoutError: no answer in time. The computation goes on and is cached.
            BusyError: too many others are under way; nothing was started.
            EmbedError: whatever the model raised. It reaches all who wait for this text and
                is not cached.
        """
        cache_key: Key = (model.fingerprint, kind, type(content), content)
        found = self._find(cache_key)
        if found is not None:
            return found

        def compute() -> bytes:
            return _computed(model, content, kind, key)

        future, is_first = self._join_or_start(model, cache_key, limits)
        if is_first:
            self._start(cache_key, future, compute, in_thread=limits.timeout_seconds is not None)
        try:
            return future.result(limits.timeout_seconds)
        except TimeoutError as error:
            if future.done():  # at this very moment, or by a TimeoutError of the model's own
                return future.result()
            raise EmbedTimeoutError(model.model_id, limits.timeout_seconds or 0) from error
        finally:
            if is_first:
                with self._lock:
                    self._awaited -= 1

    def _find(self, cache_key: Key) -> bytes | None:
        with self._lock:
            blob = self._cache.get(cache_key)
            if blob is not None:
                self._cache.move_to_end(cache_key)
            return blob

    def _join_or_start(
        self, model: EmbeddingModel, cache_key: Key, limits: Limits
    ) -> tuple[Future[bytes], bool]:
        """Return the computation of this text, and whether the caller has to start it."""
        with self._lock:
            future = self._computing.get(cache_key)
            if future is not None:
                return future, False
            future = Future()
            if cache_key in self._cache:  # it ended since the caller looked
                future.set_result(self._cache[cache_key])
                return future, False
            # Those given up after a timeout still count for their own model, so that a
            # hanging one cannot pile up threads, but not for the others.
            under_way = max(self._awaited, self._running[cache_key[0]])
            if limits.concurrent is not None and under_way >= limits.concurrent:
                raise BusyError(model.model_id)
            self._awaited += 1
            self._running[cache_key[0]] += 1
            self._computing[cache_key] = future
            return future, True

    def _start(
        self,
        cache_key: Key,
        future: Future[bytes],
        compute: Callable[[], bytes],
        *,
        in_thread: bool,
    ) -> None:
        """Run the computation, in a thread of its own if the caller may give up."""
        if in_thread:
            try:
                start_thread(self._run, cache_key, future, compute, name="embed-query")
                return
            except RuntimeError:
                logger.debug("no thread can be started here, embedding in this one")
        self._run(cache_key, future, compute)

    def _run(self, cache_key: Key, future: Future[bytes], compute: Callable[[], bytes]) -> None:
        """Compute, cache, and tell all who wait, whatever happens."""
        try:
            blob = compute()
        except BaseException as error:
            self._finish(cache_key)
            future.set_exception(error)
            return
        self._finish(cache_key, blob)
        future.set_result(blob)

    def _finish(self, cache_key: Key, blob: bytes | None = None) -> None:
        with self._lock:
            del self._computing[cache_key]
            self._running[cache_key[0]] -= 1
            if not self._running[cache_key[0]]:
                del self._running[cache_key[0]]
            if blob is not None:
                self._cache[cache_key] = blob
                self._used_bytes += _size(cache_key, blob)
                self._shrink()

    def _shrink(self) -> None:
        while self._used_bytes > self._max_bytes:
            cache_key, blob = self._cache.popitem(last=False)
            self._used_bytes -= _size(cache_key, blob)


def _size(cache_key: Key, blob: bytes) -> int:
    return sys.getsizeof(cache_key[3]) + sys.getsizeof(blob)


def _computed(model: EmbeddingModel, content: Item, kind: Kind, key: str | None) -> bytes:
    """Return the blob of one content, refusing a text the model cannot read."""
    from . import vectors as arithmetic

    if isinstance(content, str):
        check_readable(model, content)
    batch = model.embed_checked([content], kind=kind, key=key)
    return arithmetic.encode(batch.vectors[0])


def check_readable(model: EmbeddingModel, text: str) -> None:
    """Refuse a text of which the model would read only a part, or nothing.

    A model that only estimates its tokens is not held to the estimate: a warning is
    logged. So it is when more than a fifth of the text is unknown.

    Raises:
        UnreadableTextError: too long, or in a script the model does not know.
    """
    reading = model.read([text])[0]
    if model.max_tokens is not None and reading.tokens > model.max_tokens:
        if model.counts_exactly:
            raise _too_long(model, reading)
        _warn_once(model, "may read only the first part of a long text")
    if not reading.unknown_tokens:
        return
    own_tokens = reading.tokens - model.read([""])[0].tokens  # without [CLS], [SEP] and the like
    if reading.unknown_tokens >= own_tokens:
        raise UnreadableTextError(
            model.model_id,
            "does not know a single word of this text: it is in a script the model was not "
            "made for. Use a multilingual model",
        )
    if reading.unknown_tokens > UNKNOWN_SHARE_WARNED * own_tokens:
        _warn_once(model, "does not know more than a fifth of a text: use a multilingual model")


def _too_long(model: EmbeddingModel, reading: Reading) -> UnreadableTextError:
    return UnreadableTextError(
        model.model_id,
        f"the text has {reading.tokens} tokens and the model reads {model.max_tokens}. "
        "Shorten it with substr(), or embed the table with: datasette embed create",
    )


_warned: set[tuple[str, str]] = set()


def _warn_once(model: EmbeddingModel, message: str) -> None:
    if (model.fingerprint, message) not in _warned:
        _warned.add((model.fingerprint, message))
        logger.warning("%s %s", model.model_id, message)


#: The cache of this process, shared by every connection and every Datasette in it.
PROCESS_QUERIES = QueryEmbeddings()
