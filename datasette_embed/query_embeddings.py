"""QueryEmbeddings: the vector of one text that somebody searches for, embedded once.

Layer 5: imports ``errors``, ``model_calls``, ``models``, ``redaction``, ``settings``,
``threads`` and ``vectors``. A SQL function runs on one of few threads and may be evaluated
often, so: vectors are cached for the whole process; requests for one text share one
computation; a computation has its own daemon thread, goes on when the query that asked for it
is given up, and fills the cache; and when all but one of the SQL threads wait for slow models,
for one text or for several, the next request fails instead of waiting. Embedding whole tables
does not belong here.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from time import monotonic

from .errors import BusyError, EmbedError, EmbedTimeoutError, UnreadableTextError
from .model_calls import embed_items
from .models import EmbeddingModel, Item, Kind, Reading
from .redaction import formatted
from .settings import Settings
from .threads import start_thread

logger = logging.getLogger(__name__)

#: How long one request too many waits for a place, counted from the latest start of a
#: computation: enough for a fast model to end (the bundled one takes 1 to 5 ms), and where
#: all are slow, one delay of this length, not one for each request.
GRACE_SECONDS = 0.05
#: Most contents of one call of a model, where it does not say less.
BATCH_ITEMS = 64

# The type comes before the content: a str and bytes with one hash must not be compared.
Key = tuple[str, Kind, type, Item]


@dataclass(frozen=True)
class Limits:
    """How long, and how many at once, uncached embeds may take.

    Attributes:
        timeout_seconds: longest wait for one embed; None waits for ever, in the caller's
            own thread, as a script wants.
        concurrent: threads that may wait for embeds at once, for one text or for several,
            and embeds that one model may have under way; None for no limit.
        characters: longest text; None for no limit.
        image_bytes: largest image; None for no limit, of pixels neither.
        lane: whose threads they are; those of another lane are not counted.
    """

    timeout_seconds: float | None = None
    concurrent: int | None = None
    characters: int | None = None
    image_bytes: int | None = None
    lane: str = "sql"


NO_LIMITS = Limits()


class QueryEmbeddings:
    """Vectors of query texts as blobs, bounded in bytes, least recently used out first."""

    def __init__(self, *, max_bytes: int = Settings.query_cache_bytes) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # Told when a thread stops waiting and when a computation ends.
        self._changed = threading.Condition(self._lock)
        self._cache: OrderedDict[Key, bytes] = OrderedDict()
        self._used_bytes = 0
        self._computing: dict[Key, Future[bytes]] = {}
        self._waiting: Counter[str] = Counter()  # threads that wait for one, by lane
        self._started_at = -GRACE_SECONDS  # when the latest computation began
        self._running: Counter[str] = Counter()  # computations under way, by fingerprint

    @property
    def used_bytes(self) -> int:
        """Return the memory the cached contents and vectors take, in bytes."""
        return self._used_bytes

    @property
    def waiting(self) -> int:
        """Return how many threads of SQL queries wait for a computation."""
        return self._waiting["sql"]

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
        return self._find(_key(model, kind, content))

    def embed(
        self,
        model: EmbeddingModel,
        content: Item,
        *,
        kind: Kind = Kind.QUERY,
        key: str | None = None,
        limits: Limits = NO_LIMITS,
        spend: Callable[[], None] | None = None,
    ) -> bytes:
        """Return the vector of the content as a blob: float32, little-endian.

        Args:
            model: the model to ask.
            content: text or bytes, not blank.
            kind: the side of the search it is on.
            key: API key for this call. It is no part of the cache's key.
            limits: how long to wait, and how many at once.
            spend: called before a computation is started; what it raises prevents that.

        Raises:
            UnreadableTextError: the model would read only a part of the text, or none.
            EmbedTimeoutError: no answer in time. The computation goes on and is cached.
            BusyError: too many others wait, for longer than ``GRACE_SECONDS``. Nothing was
                started, but what they wait for will be cached.
            EmbedError: whatever the model raised. It reaches all who wait for this text and
                is not cached.
        """
        cache_key = _key(model, kind, content)
        found = self._find(cache_key)
        if found is not None:
            return found

        def compute() -> bytes:
            return _computed(model, content, kind, key)

        future, is_first = self._enter(model, cache_key, limits, spend)
        try:
            if is_first:
                in_thread = limits.timeout_seconds is not None
                self._start(cache_key, future, compute, in_thread=in_thread)
            return future.result(limits.timeout_seconds)
        except TimeoutError as error:
            if future.done():  # at this very moment, or by a TimeoutError of the model's own
                return future.result()
            raise EmbedTimeoutError(model.model_id, limits.timeout_seconds or 0) from error
        finally:
            with self._changed:
                self._waiting[limits.lane] -= 1
                self._changed.notify_all()

    def embed_many(
        self,
        model: EmbeddingModel,
        contents: Sequence[Item],
        *,
        kind: Kind = Kind.QUERY,
        key: str | None = None,
        limits: Limits = NO_LIMITS,
        spend: Callable[[], None] | None = None,
    ) -> list[bytes]:
        """Return the vectors of several contents as blobs, in their order, a batch a call.

        For one content, and where several callers may want the same, ``embed`` is better.
        Arguments and errors are those of ``embed``; the timeout is that of a batch.
        """
        keys = [_key(model, kind, item) for item in contents]
        items = dict(zip(keys, contents, strict=True))
        blobs = {cache_key: self._find(cache_key) for cache_key in keys}
        missing = [cache_key for cache_key, blob in blobs.items() if blob is None]
        for cache_key in missing:
            if isinstance(text := items[cache_key], str):
                check_readable(model, text)
        if spend is not None:
            for _ in missing:
                spend()
        size = min(BATCH_ITEMS, model.batch_size or BATCH_ITEMS)
        remaining = iter(missing)
        for batch in model.cut_into_calls([items[cache_key] for cache_key in missing], size):
            found = _in_time(model, batch, kind, key, limits)
            computed = dict(zip(islice(remaining, len(batch)), found, strict=True))
            blobs.update(computed)
            with self._lock:
                for cache_key, new_blob in computed.items():
                    self._keep(cache_key, new_blob)
        return [blob for cache_key in keys if (blob := blobs[cache_key]) is not None]

    def _find(self, cache_key: Key) -> bytes | None:
        with self._lock:
            blob = self._cache.get(cache_key)
            if blob is not None:
                self._cache.move_to_end(cache_key)
            return blob

    def _enter(
        self,
        model: EmbeddingModel,
        cache_key: Key,
        limits: Limits,
        spend: Callable[[], None] | None,
    ) -> tuple[Future[bytes], bool]:
        """Count the caller as waiting; return what for, and whether the caller has to start it.

        Raises:
            BusyError: there was no place, nor any in the time of grace.
        """
        with self._changed:
            joined = self._computing.get(cache_key)
            grace = max(0.0, self._started_at + GRACE_SECONDS - monotonic())
            if not self._changed.wait_for(
                lambda: self._has_place(cache_key, joined, limits), grace
            ):
                raise BusyError(model.model_id)
            future = joined or self._computing.get(cache_key)
            if future is None and cache_key in self._cache:  # it ended since the caller looked
                future = Future()
                future.set_result(self._cache[cache_key])
            if future is None and spend is not None:
                spend()
            self._waiting[limits.lane] += 1
            if future is not None:
                return future, False
            future = Future()
            self._running[cache_key[0]] += 1
            self._computing[cache_key] = future
            self._started_at = monotonic()
            return future, True

    def _has_place(self, cache_key: Key, joined: Future[bytes] | None, limits: Limits) -> bool:
        """Return whether a thread may wait for this text now; the caller holds the lock."""
        computing = self._computing.get(cache_key)
        has_ended = joined is not None and computing is not joined
        if limits.concurrent is None or has_ended or cache_key in self._cache:
            return True
        # Those given up after a timeout still count for their own model, so that a hanging
        # one cannot pile up threads, but not for the others.
        under_way = 0 if computing else self._running[cache_key[0]]
        return max(self._waiting[limits.lane], under_way) < limits.concurrent

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
            _log_detail(error)
            self._finish(cache_key)
            future.set_exception(error)
            return
        self._finish(cache_key, blob)
        future.set_result(blob)

    def _finish(self, cache_key: Key, blob: bytes | None = None) -> None:
        with self._changed:
            del self._computing[cache_key]
            self._running[cache_key[0]] -= 1
            if not self._running[cache_key[0]]:
                del self._running[cache_key[0]]
            if blob is not None:
                self._keep(cache_key, blob)
            self._changed.notify_all()

    def _keep(self, cache_key: Key, blob: bytes) -> None:
        """Add a vector to the cache; the caller holds the lock."""
        if cache_key not in self._cache:
            self._cache[cache_key] = blob
            self._used_bytes += _size(cache_key, blob)
            self._shrink()

    def _shrink(self) -> None:
        while self._used_bytes > self._max_bytes:
            cache_key, blob = self._cache.popitem(last=False)
            self._used_bytes -= _size(cache_key, blob)


def _key(model: EmbeddingModel, kind: Kind, content: Item) -> Key:
    """Return what an answer is kept under: of bytes, which may be a photograph, a digest."""
    kept = content if isinstance(content, str) else hashlib.sha256(content).digest()
    return model.fingerprint, kind, type(content), kept


def _size(cache_key: Key, blob: bytes) -> int:
    return sys.getsizeof(cache_key[3]) + sys.getsizeof(blob)


def _log_detail(error: BaseException) -> None:
    """Log what the message of an error holds back from the user of a query."""
    if isinstance(error, EmbedError) and error.detail != str(error):
        cause = [formatted(error.__cause__)] if error.__cause__ else []
        logger.error("%s", "\n".join([error.detail, *cause]))


def _computed(model: EmbeddingModel, content: Item, kind: Kind, key: str | None) -> bytes:
    """Return the blob of one content, refusing a text the model cannot read."""
    from . import vectors as arithmetic

    if isinstance(content, str):
        check_readable(model, content)
    batch = embed_items(model, [content], kind, key=key)
    return arithmetic.encode(batch.vectors[0])


def _in_time(
    model: EmbeddingModel, contents: list[Item], kind: Kind, key: str | None, limits: Limits
) -> list[bytes]:
    """Return the blobs of one batch.

    Raises:
        EmbedTimeoutError: no answer in time.
        EmbedError: whatever the model raised.
    """
    from . import vectors as arithmetic

    future: Future[list[bytes]] = Future()

    def compute() -> None:
        try:
            batch = embed_items(model, contents, kind, key=key)
            future.set_result([arithmetic.encode(vector) for vector in batch.vectors])
        except BaseException as error:
            _log_detail(error)
            future.set_exception(error)

    if limits.timeout_seconds is None:
        compute()
    else:
        start_thread(compute, name="embed-query")
    try:
        return future.result(limits.timeout_seconds)
    except TimeoutError as error:
        if future.done():
            return future.result()
        raise EmbedTimeoutError(model.model_id, limits.timeout_seconds or 0) from error


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
    model.check_known(reading)
    if reading.is_unreadable:
        _warn_once(model, "does not know more than a fifth of a text: use a multilingual model")


def _too_long(model: EmbeddingModel, reading: Reading) -> UnreadableTextError:
    return UnreadableTextError(
        model.model_id,
        f"the text has {reading.tokens} tokens and the model reads {model.max_tokens}",
        is_too_long=True,
    )


_warned: set[tuple[str, str]] = set()


def _warn_once(model: EmbeddingModel, message: str) -> None:
    if (model.fingerprint, message) not in _warned:
        _warned.add((model.fingerprint, message))
        logger.warning("%s %s", model.model_id, message)


#: The cache of this process, shared by every connection and every Datasette in it.
PROCESS_QUERIES = QueryEmbeddings()
