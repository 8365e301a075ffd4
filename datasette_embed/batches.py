"""Texts to vectors, a batch at a time: order, retries, and the one text that fails.

Layer 7: imports ``errors``, ``missing``, ``model_calls``, ``models``, ``redaction`` and
``vectors``. Knows no connection and writes nothing; that is ``jobs``.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator

from . import vectors
from .errors import (
    DimensionMismatchError,
    EmbedError,
    InvalidVectorError,
    MissingDependencyError,
    MissingKeyError,
    ModelNotAllowedError,
    ProviderError,
)
from .missing import MissingContent
from .model_calls import embed_items
from .models import Batch, EmbeddingModel, Item, Kind
from .redaction import redacted

logger = logging.getLogger(__name__)

#: Items of one model call and one transaction; also what a kill can cost.
BATCH_ITEMS = 64
RETRIES = 5
LONGEST_BACKOFF_SECONDS = 60.0
#: A provider that asks for more patience than this pauses the run instead.
LONGEST_WAIT_SECONDS = 600.0
WAIT_STEP_SECONDS = 20.0
#: Most different things said by a failing model that one run writes into the log.
MOST_LOGGED = 20

# Errors that no other item and no later attempt of this run can escape.
_FATAL = (
    DimensionMismatchError,
    MissingDependencyError,
    MissingKeyError,
    ModelNotAllowedError,
)


class Paused(Exception):
    """Raised inside a run to end it in the state ``paused``; the text is the reason."""


class Stopped(Paused):
    """Raised inside a run because its ``pause`` was set, or the file asks for its end."""


class BatchEmbedder:
    """Embeds the batches of one run.

    Args:
        model: the collection's model.
        pause: ends a wait for the next attempt when it is set.
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

    def embed(
        self, batch: list[MissingContent]
    ) -> Iterator[tuple[MissingContent, bytes | EmbedError]]:
        """Yield each item with its blob or its error; a batch that fails is cut in two.

        Raises:
            Paused: the model kept failing, or the pause was set while waiting for it.
            EmbedError: one that every other item would meet too.
        """
        try:
            answer = self._embed_with_retries([item.content for item in batch])
        except _FATAL:
            raise
        except (ProviderError, InvalidVectorError) as error:
            if len(batch) == 1:
                self._log_detail(error)
                yield batch[0], error
                return
            middle = len(batch) // 2
            yield from self.embed(batch[:middle])
            yield from self.embed(batch[middle:])
            return
        for item, vector in zip(batch, answer.vectors, strict=True):
            yield item, vectors.encode(vector)

    def _embed_with_retries(self, contents: list[Item]) -> Batch:
        for attempt in range(RETRIES + 1):
            try:
                answer = embed_items(self._model, contents, Kind.DOCUMENT, key=self._key)
            except ProviderError as error:
                if not error.retryable:
                    raise
                if attempt == RETRIES:
                    self._log_detail(error)
                    raise Paused(f"the model kept failing: {first_line(error)}") from error
                # Full jitter, so that many waiting clients do not come back together.
                backoff = random.uniform(0, min(LONGEST_BACKOFF_SECONDS, 2.0**attempt))
                self._wait(error.retry_after_seconds or backoff)
                continue
            self.tokens += answer.tokens or 0
            self._check_dimensions(answer.vectors.shape[1])
            return answer
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _log_detail(self, error: EmbedError) -> None:
        """Log what is not kept in the file; the same once, and not without end."""
        detail = redacted(error.detail)
        if detail != str(error) and detail not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(detail)
            logger.error("%s", detail)

    def _wait(self, seconds: float) -> None:
        """Wait, in steps that let the run show it is alive.

        Raises:
            Stopped: the pause was set.
            Paused: the wait would be longer than anybody expects.
        """
        if seconds > LONGEST_WAIT_SECONDS:
            raise Paused(f"the model asks to be left alone for {seconds:.0f} seconds")
        while seconds > 0:
            if self._pause.wait(min(seconds, WAIT_STEP_SECONDS)):
                raise Stopped
            seconds -= WAIT_STEP_SECONDS
            self._on_wait()

    def _check_dimensions(self, dimensions: int) -> None:
        if self.dimensions is None:
            self.dimensions = dimensions
        elif self.dimensions != dimensions:
            raise DimensionMismatchError(self.dimensions, dimensions)


def cut_into_batches(
    missing: list[MissingContent], model: EmbeddingModel, batch_size: int | None = None
) -> Iterator[list[MissingContent]]:
    """Cut a window into batches of texts of like length, which pad each other least.

    The batches come in a shuffled order: short ones first would promise an end that the
    long ones then put off. What has failed before comes last, by itself.
    """
    size = batch_size or BATCH_ITEMS
    size = min(size, model.batch_size or size)
    for again in (False, True):
        group = [item for item in missing if item.has_failed_before is again]
        group.sort(key=lambda item: item.reading.tokens)
        starts = list(range(0, len(group), size))
        random.Random(0).shuffle(starts)
        for start in starts:
            yield group[start : start + size]


def first_line(error: BaseException) -> str:
    """Return what is kept of an error in the file, which may be published: its first line.

    Of what somebody else's code raised only the type. What it said may hold anything, and
    is for the log.
    """
    if not isinstance(error, EmbedError):
        return f"internal error ({type(error).__name__}). The log says why"
    text = str(error).strip().splitlines()
    return redacted(text[0]) if text else type(error).__name__
