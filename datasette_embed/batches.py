"""Texts to vectors, a batch at a time: order, retries, and the one text that fails.

Layer 7: imports ``batch_sizes``, ``calls_in_flight``, ``errors``, ``missing``,
``model_calls``, ``models``, ``redaction`` and ``vectors``. Knows no connection and writes
nothing; that is ``jobs``.

A call that fails in a way that may pass is tried again. When that was in vain for long, the
model is asked for the vector of a short text: if it has no answer to that either, it is down,
and the run is paused; if it has, the batch is to blame, and is cut in two like one that was
refused, until the item that fails stands alone. Too many calls are never a batch's fault.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from time import monotonic

from . import vectors
from .batch_sizes import cut_by_tokens
from .calls_in_flight import Calls
from .errors import (
    CallRefusedError,
    DimensionMismatchError,
    EmbedError,
    InvalidVectorError,
    MissingDependencyError,
    MissingKeyError,
    ModelNotAllowedError,
    ProviderError,
    QuotaExceededError,
    UnreadableTextError,
)
from .missing import MissingContent
from .model_calls import SHORT_TEXT, embed_items
from .models import Batch, EmbeddingModel, Kind
from .redaction import redacted

logger = logging.getLogger(__name__)

#: Items of one model call and one transaction; a kill can cost those of the calls under way.
BATCH_ITEMS = 64
RETRIES = 8
#: The same for the parts of a batch that was tried so often, whose model answers otherwise.
RETRIES_OF_PARTS = 2
#: Most of the first wait between two attempts, which doubles with each.
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 60.0
#: A provider that asks for more patience than this pauses the run instead.
LONGEST_WAIT_SECONDS = 600.0
WAIT_STEP_SECONDS = 20.0
#: How soon a run that waits for its calls sees that it is to pause.
PAUSE_STEP_SECONDS = 0.5
#: Most different things said by a failing model that one run writes into the log.
MOST_LOGGED = 20

# Errors that no other item and no later attempt of this run can escape.
_FATAL = (
    CallRefusedError,
    DimensionMismatchError,
    MissingDependencyError,
    MissingKeyError,
    ModelNotAllowedError,
)


class Paused(Exception):
    """Raised inside a run to end it in the state ``paused``; the text is the reason."""


class Stopped(Paused):
    """Raised inside a run because its ``pause`` was set, or the file asks for its end."""


class _Call:
    """A batch that waits for its call.

    Attributes:
        retries: how often it is tried again.
        attempt: how often it was tried in vain.
        is_to_blame: whether the model answers, but not to this.
        tokens: what it took to find that out.
    """

    def __init__(self, items: list[MissingContent], retries: int = RETRIES) -> None:
        self.items = items
        self.retries = retries
        self.attempt = 0
        self.is_to_blame = False
        self.tokens = 0

    def halves(self) -> list[_Call]:
        """Return it cut in two, the second half first: the last of a list is called next."""
        middle = len(self.items) // 2
        retries = RETRIES_OF_PARTS if self.is_to_blame else self.retries
        return [_Call(self.items[middle:], retries), _Call(self.items[:middle], retries)]


#: What became of an item: its blob, or why it has none.
Outcome = tuple[MissingContent, bytes | EmbedError]


class BatchEmbedder:
    """Embeds the batches of one run, as many at once as the model takes.

    All but the calls themselves happens in the caller's thread; for a model that takes one
    call at a time those do too.

    Args:
        model: the collection's model.
        pause: ends the run, and a wait for the next attempt, when it is set.
        on_wait: called every now and then while it waits, to say that the run is alive.
        dimensions: what every vector must have; None until the first batch has shown it.
        key: the API key to call the model with; None for the model's own way to find one.

    Attributes:
        tokens: tokens the model has read so far, where it says so.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        pause: threading.Event,
        dimensions: int | None,
        on_wait: Callable[[], None] = lambda: None,
        *,
        key: str | None = None,
    ) -> None:
        self._key = key
        self.dimensions = dimensions
        self._on_wait = on_wait
        self.tokens = 0
        self._model = model
        self._pause = pause
        self._logged: set[str] = set()
        self._ready: list[_Call] = []
        self._delayed: list[tuple[float, int, _Call]] = []  # a heap, by when it is time
        self._numbers = count()
        self._calls: Calls[_Call, Batch] = Calls(
            self._call_model, model.concurrency, lambda: not pause.is_set()
        )
        self._error: BaseException | None = None
        self._shown_at = monotonic()

    def stop(self, error: BaseException) -> None:
        """Begin no further call; ``embed_all`` raises the error when those begun have ended."""
        self._error = self._error or error
        self._calls.drop()

    def embed_all(self, batches: Iterator[list[MissingContent]]) -> Iterator[list[Outcome]]:
        """Yield the outcomes of calls, in the order in which they end.

        Of a text that a service finds too long the beginning is embedded.

        Args:
            batches: asked for the next one when there is room for another call.

        Raises:
            Paused: the model kept failing, or the pause was set.
            EmbedError: one that every other item would meet too.
            BaseException: what ``batches`` raised, or was given to ``stop``. In any case what
                was called for until then is yielded first.
        """
        outcomes: list[Outcome] = []
        try:
            while True:
                if self._pause.is_set():
                    self.stop(Stopped())
                # The next call begins before what the last one brought is written, where it takes
                # no time from the caller's thread.
                if self._may_begin() and (self._model.concurrency > 1 or not outcomes):
                    call = self._next_call(batches)
                    if call is not None:
                        self._calls.begin(call)
                        continue
                if outcomes:
                    yield outcomes
                    outcomes = []
                elif self._calls.pending:
                    outcomes = self._wait_for_calls()
                elif self._error is not None:
                    raise self._error
                elif self._delayed:
                    self._wait_for_delayed()
                else:
                    return
        finally:
            self._calls.drop()  # also where whoever takes the outcomes has given up

    def _may_begin(self) -> bool:
        return self._error is None and self._calls.has_room and not self._calls.is_held

    def _next_call(self, batches: Iterator[list[MissingContent]]) -> _Call | None:
        """Return what to call the model with now, or None if that has to wait."""
        if self._delayed and self._delayed[0][0] <= monotonic():
            return heappop(self._delayed)[2]
        if self._ready:
            return self._ready.pop()
        # While a service is down, only so much is put off: what was read is kept in memory.
        if len(self._delayed) > (self._model.concurrency if self._model.concurrency > 1 else 0):
            return None
        try:
            batch = next(batches, None)
        except Exception as error:
            self.stop(error)
            return None
        # To read it may have been what made the run end.
        return None if batch is None or self._error is not None else _Call(batch)

    def _call_model(self, call: _Call) -> Batch:
        """Call the model, in whatever thread; where no other call fares better, begin none."""
        contents = [item.content for item in call.items]
        try:
            return embed_items(self._model, contents, Kind.DOCUMENT, key=self._key, retries=True)
        except (*_FATAL, QuotaExceededError):
            self._calls.halt()
            raise
        except ProviderError as error:
            # It is not this batch that is too much, but all of them together.
            if error.retryable and error.retry_after_seconds:
                self._calls.hold(error.retry_after_seconds)
            elif error.retryable and call.attempt == call.retries:
                call.is_to_blame = self._answers_otherwise(call, error)
            raise

    def _answers_otherwise(self, call: _Call, error: ProviderError) -> bool:
        """Return whether the model, which has failed for a batch, embeds a short text."""
        if error.is_rate_limit or not self._model.supports_text:
            return False
        try:
            answer = embed_items(
                self._model, [SHORT_TEXT], Kind.DOCUMENT, key=self._key, retries=True
            )
        except EmbedError:
            return False
        call.tokens = answer.tokens or 0
        return True

    def _wait_for_calls(self) -> list[Outcome]:
        """Return what came of the calls that have ended, after a while nothing at all."""
        seconds = PAUSE_STEP_SECONDS
        if self._delayed and self._may_begin():
            seconds = min(seconds, self._delayed[0][0] - monotonic())
        ended = self._calls.wait(seconds)
        if not ended:
            self._show_life()
        return [outcome for call, answer in ended for outcome in self._outcomes(call, answer)]

    def _outcomes(self, call: _Call, answer: Batch | BaseException) -> list[Outcome]:
        """Return what came of a call; none where it is tried again, or ends the run."""
        self.tokens += call.tokens
        try:
            if isinstance(answer, BaseException):
                raise answer
            self.tokens += answer.tokens or 0
            self._check_dimensions(answer.vectors.shape[1])
        except _FATAL as error:
            self.stop(error)
        except QuotaExceededError as error:
            self._log_detail(error)
            self.stop(Paused(first_line(error)))
        except (ProviderError, InvalidVectorError) as error:
            if isinstance(error, ProviderError) and error.retryable and not call.is_to_blame:
                self._try_again(call, error)
            elif len(call.items) > 1:
                self._ready += call.halves()
            elif _is_too_long(error) and call.items[0].cut(self._model):
                self._ready.append(call)
            else:
                self._log_detail(error)
                return [(call.items[0], error)]
        except BaseException as error:  # what the calls beside it brought is handed over first
            self.stop(error)
        else:
            return list(zip(call.items, vectors.encode_rows(answer.vectors), strict=True))
        return []

    def _try_again(self, call: _Call, error: ProviderError) -> None:
        """Put a call off, or end the run if it was tried often enough."""
        if call.attempt == call.retries:
            self._log_detail(error)
            self.stop(Paused(f"the model kept failing: {first_line(error)}"))
            return
        # Full jitter, so that many waiting clients do not come back together.
        most = FIRST_BACKOFF_SECONDS * 2.0**call.attempt
        seconds = random.uniform(0, min(LONGEST_BACKOFF_SECONDS, most))
        if error.retry_after_seconds:
            seconds = error.retry_after_seconds
            if seconds > LONGEST_WAIT_SECONDS:
                self.stop(Paused(f"the model asks to be left alone for {seconds:.0f} seconds"))
                return
        call.attempt += 1
        heappush(self._delayed, (monotonic() + seconds, next(self._numbers), call))

    def _wait_for_delayed(self) -> None:
        """Wait until the next delayed call is due, in steps that show that the run is alive."""
        due, _, call = heappop(self._delayed)
        seconds = max(due, self._calls.held_until) - monotonic()
        while seconds > 0 and self._error is None:
            if self._pause.wait(min(seconds, WAIT_STEP_SECONDS)):
                self.stop(Stopped())
                return
            seconds -= WAIT_STEP_SECONDS
            self._on_wait()
        self._calls.held_until = 0.0
        self._ready.append(call)

    def _show_life(self) -> None:
        """Say every now and then that the run is alive, and look at what it is asked."""
        if monotonic() - self._shown_at >= WAIT_STEP_SECONDS:
            self._shown_at = monotonic()
            self._on_wait()

    def _log_detail(self, error: EmbedError) -> None:
        """Log what is not kept in the file; the same once, and not without end."""
        detail = redacted(error.detail)
        if detail != str(error) and detail not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(detail)
            logger.error("%s", detail)

    def _check_dimensions(self, dimensions: int) -> None:
        if self.dimensions is None:
            self.dimensions = dimensions
        elif self.dimensions != dimensions:
            raise DimensionMismatchError(self.dimensions, dimensions, self._model.model_id)


def cut_into_batches(
    missing: list[MissingContent], model: EmbeddingModel, batch_size: int | None = None
) -> Iterator[list[MissingContent]]:
    """Cut a window into batches of texts of like length, which pad each other least.

    A batch is one call of the model, within its limits of items and of tokens. The batches
    come in a shuffled order: short ones first would promise an end that the long ones then
    put off. What has failed before comes last, by itself.
    """
    size = batch_size or BATCH_ITEMS
    size = min(size, model.batch_size or size)
    for again in (False, True):
        group = [item for item in missing if item.has_failed_before is again]
        group.sort(key=lambda item: item.reading.tokens)
        lengths = (
            min(item.reading.tokens, model.max_tokens or item.reading.tokens) for item in group
        )
        batches = list(cut_by_tokens(lengths, size, model.max_batch_tokens))
        random.Random(0).shuffle(batches)
        for batch in batches:
            yield group[batch.start : batch.stop]


def _is_too_long(error: EmbedError) -> bool:
    return isinstance(error, UnreadableTextError) and error.is_too_long


def first_line(error: BaseException) -> str:
    """Return what is kept of an error in the file, which may be published: its first line.

    Of what somebody else's code raised only the type. What it said may hold anything, and
    is for the log.
    """
    if not isinstance(error, EmbedError):
        return f"internal error ({type(error).__name__}). The log says why"
    text = str(error).strip().splitlines()
    return redacted(text[0]) if text else type(error).__name__
