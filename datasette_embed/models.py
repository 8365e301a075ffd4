"""EmbeddingModel: the contract between a model and everything that embeds.

Layer 2: imports ``batch_sizes``, ``errors``, ``keys``, ``redaction`` and ``vectors``. A provider
subclasses ``EmbeddingModel`` and writes ``embed_batch``; the rest of the package calls
``embed_checked``, which refuses at the door what a model must never hand over. No concrete
model belongs here.
"""

from __future__ import annotations

import hashlib
import inspect
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from .batch_sizes import cut_by_tokens
from .errors import (
    DimensionMismatchError,
    EmbedError,
    InvalidVectorError,
    MissingKeyError,
    ProviderError,
    SourceError,
    UnreadableTextError,
)
from .keys import find_key
from .redaction import keep_secret, scrub, scrubbed

if TYPE_CHECKING:
    import numpy as np

Item = str | bytes


class Kind(StrEnum):
    """Which side of a search a text is on. Some models embed the two differently."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True)
class Batch:
    """What a model returns for one batch.

    Attributes:
        vectors: float32, shape ``(n, dimensions)``, one row per item in the items' order.
        tokens: tokens the model read (billed, for a paid one); None when it does not say.
    """

    vectors: np.ndarray
    tokens: int | None = None


@dataclass(frozen=True)
class Reading:
    """How much of one text a model can read.

    Attributes:
        tokens: length of the whole text in the model's tokens, its special ones included.
        unknown_tokens: how many of them the model has no meaning for.
        special_tokens: how many of them the model adds to every text ([CLS], [SEP] …).
    """

    tokens: int
    unknown_tokens: int = 0
    special_tokens: int = 0

    @property
    def is_unreadable(self) -> bool:
        """Whether more than a fifth of the text, special tokens aside, is unknown."""
        return self.unknown_tokens * 5 > self.tokens - self.special_tokens

    @property
    def is_unknown(self) -> bool:
        """Whether all of the text is unknown: it then has the vector of any other such text."""
        return 0 < self.unknown_tokens >= self.tokens - self.special_tokens


def is_blank(text: str) -> bool:
    """Say whether a text shows nothing: white space, control and format characters only."""
    # Nearly every text begins with a letter, and this is asked of every row.
    if text[:1].isalnum():
        return False
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


class EmbeddingModel(ABC):
    """One embedding model: text or bytes in, vectors out.

    The attributes are LLM's, plus what a search engine must know. An instance is made
    once per process and used by several threads at once, so it keeps no state of a call.

    Attributes:
        model_id: unique name.
        dimensions: length of its vectors; None until known.
        batch_size: most items per ``embed_batch`` call; None for no limit.
        max_tokens: longest text it reads; the rest of a longer one is cut. None: no limit.
        metric: how its vectors are compared, ``cosine`` or ``dot``.
        key: API key to use when a call brings none; best left None, for it is everybody's.
        needs_key: name of the API key it needs, or None.
        key_env_var: environment variable that may hold the key.
        price_per_million_tokens: US dollars; None when it costs nothing or is not known.
        revision: version of the weights, part of the fingerprint.
        licence: what it may be used for, in the words of its maker; None when not known.
        query_prompt: put before texts to search for; None where the model itself says.
        document_prompt: put before texts to be searched, never stored with them.
        max_batch_tokens: most tokens of all items of a call together; None for no limit.
        registered_limit: ``max_tokens`` where its registration says it: texts are cut there.
        concurrency: calls that may be under way at once; more than 1 is for services.
        is_local: whether it runs on this machine, so that timing a sample is free.
        counts_exactly: whether ``count_tokens`` uses the model's own tokenizer.
    """

    model_id: str
    dimensions: int | None = None
    batch_size: int | None = None
    max_tokens: int | None = None
    metric: str = "cosine"
    supports_text: bool = True
    supports_binary: bool = False
    key: str | None = None
    needs_key: str | None = None
    key_env_var: str | None = None
    price_per_million_tokens: float | None = None
    revision: str | None = None
    licence: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_batch_tokens: int | None = None
    registered_limit: int | None = None
    concurrency: int = 1
    is_local: bool = False
    counts_exactly: bool = False
    #: Batch size of ``embed_multi`` when neither the caller nor the model names one.
    default_batch_size: ClassVar[int] = 100

    @abstractmethod
    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | Iterable[Sequence[float]]:
        """Return one vector per item, in order.

        Args:
            items: never empty.
            kind: the side of a search they are on.
            key: the API key, found already where ``needs_key`` is set.
        """

    @property
    def fingerprint(self) -> str:
        """Name this model's vector space: the same fingerprint, the same stored vectors."""
        found = f"{self.model_id}@{self.revision}" if self.revision else self.model_id
        found += f":{self.registered_limit}t" if self.registered_limit else ""
        if not self.document_prompt:
            return found
        return f"{found}+{hashlib.sha256(self.document_prompt.encode()).hexdigest()[:8]}"

    def with_prompt(self, items: Iterable[Item], kind: Kind) -> list[Item]:
        """Return the items as the model wants them: each text with the prompt of its kind."""
        prompt = self.query_prompt if kind is Kind.QUERY else self.document_prompt
        return [f"{prompt or ''}{item}" if isinstance(item, str) else item for item in items]

    def get_key(self, explicit_key: str | None = None) -> str | None:
        """Return the API key of a call: the one it brings or names, else the model's, else
        the environment's, else that of LLM's ``keys.json``. None for a model that needs none.

        Raises:
            MissingKeyError: it needs one and there is none.
            SourceError: LLM's file had to be asked and cannot be read.
        """
        if self.needs_key is None:
            return None
        key = find_key(explicit_key, self.key, self.needs_key, self.key_env_var)
        if not key:
            raise MissingKeyError(self.model_id, self.key_env_var, self.needs_key)
        return key

    def key_for_call(self, explicit_key: str | None) -> str | None:
        """Return what ``embed_batch`` is given as the key, which it need not look for itself.

        Raises:
            MissingKeyError: the model needs one and there is none.
            SourceError: as ``get_key``.
        """
        return explicit_key if self.needs_key is None else self.get_key(explicit_key)

    def warm(self) -> None:  # noqa: B027
        """Load whatever the first call would have to load; a model that loads nothing need not."""

    def check_there(self) -> None:  # noqa: B027
        """Refuse a model whose files are gone, of which nobody can say which version it is.

        Raises:
            CallRefusedError: they are.
        """

    def count_tokens(self, text: str) -> int:
        """Return the length of the text in tokens.

        This default is an estimate, four UTF-8 bytes a token; a model that has its own
        tokenizer overrides it and sets ``counts_exactly``.
        """
        return max(1, len(text.encode("utf-8", "replace")) // 4)

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Return how long each text is, and how much of it is unknown to the model."""
        return [Reading(self.count_tokens(text)) for text in texts]

    def check_known(self, reading: Reading) -> None:
        """Refuse a text of which this model knows nothing: its vector would be any such text's.

        Raises:
            UnreadableTextError: it says what kind of model would.
        """
        if reading.is_unknown:
            raise UnreadableTextError(
                self.model_id,
                "does not know a single word of this text. Use a multilingual model if these are "
                "words of another script",
            )

    def embed(
        self, item: Item, *, kind: Kind | str = Kind.DOCUMENT, key: str | None = None
    ) -> list[float]:
        """Return the vector of one item as ``dimensions`` Python floats."""
        vectors = self.embed_checked([item], kind=kind, key=key).vectors
        return [float(number) for number in vectors[0]]

    def embed_multi(
        self,
        items: Iterable[Item],
        batch_size: int | None = None,
        *,
        kind: Kind | str = Kind.DOCUMENT,
        key: str | None = None,
    ) -> Iterator[list[float]]:
        """Yield a vector per item, calling the model once per ``batch_size`` items, or more
        often where these are more tokens than ``max_batch_tokens``.

        Raises:
            ValueError: ``batch_size`` is below 1.
        """
        size = batch_size if batch_size is not None else self.batch_size or self.default_batch_size
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, not {size}")
        if self.batch_size is not None:
            size = min(size, self.batch_size)
        remaining = iter(items)
        while window := list(islice(remaining, size)):
            for batch in self.cut_into_calls(window, size):
                for vector in self.embed_checked(batch, kind=kind, key=key).vectors:
                    yield [float(number) for number in vector]

    def cut_into_calls(self, items: Sequence[Item], most_items: int) -> Iterator[list[Item]]:
        """Yield the items in batches of at most ``most_items`` and ``max_batch_tokens``.

        Texts are measured only where the model limits the tokens of a call.
        """
        limit = self.max_batch_tokens
        lengths = (
            self.count_tokens(item) if limit is not None and isinstance(item, str) else 0
            for item in items
        )
        for positions in cut_by_tokens(lengths, most_items, limit):
            yield list(items[positions.start : positions.stop])

    def embed_checked(
        self, items: list[Item], *, kind: Kind | str = Kind.DOCUMENT, key: str | None = None
    ) -> Batch:
        """Call ``embed_batch`` and check what came back; every caller goes through here.

        Returns:
            A Batch whose vectors are finite float32, one per item, all of ``dimensions``.

        Raises:
            ValueError: bytes for a model of texts, or text for a model of bytes.
            ProviderError: the model failed, or returned another number of vectors than items.
            InvalidVectorError: NaN, infinity, or vectors of several lengths.
            DimensionMismatchError: they have another length than ``dimensions``.
            MissingKeyError: it needs an API key and there is none.
        """
        from . import vectors as arithmetic

        self.check_items(items)
        answer = self._embed_without_secrets(items, Kind(kind), self.key_for_call(key))
        tokens = answer.tokens if isinstance(answer, Batch) else None
        rows = answer.vectors if isinstance(answer, Batch) else answer
        if len(rows) != len(items):
            raise ProviderError(
                self.model_id, f"returned {len(rows)} vectors for {len(items)} items"
            )
        try:
            checked = arithmetic.as_vectors(rows, dimensions=self.dimensions)
        except InvalidVectorError as error:
            raise InvalidVectorError(f"{self.model_id}: {error.reason}") from error
        except DimensionMismatchError as error:
            expected, actual = error.expected, error.actual
            raise DimensionMismatchError(expected, actual, self.model_id) from error
        return Batch(checked, tokens)

    def _embed_without_secrets(
        self, items: list[Item], kind: Kind, key: str | None
    ) -> Batch | list[Sequence[float]]:
        """Call ``embed_batch``; what it raises has no API key in it, nor in its causes."""
        try:
            answer = call_embed_batch(self, items, kind, key)
            # What a generator raises must be raised in here.
            return answer if isinstance(answer, Batch) else list(answer)
        except EmbedError as error:
            self._keep_secrets(key)
            scrub(error)
            raise
        except Exception as error:
            self._keep_secrets(key)
            clean = scrubbed(error)
            if clean is error:
                raise
        # Out here, so that the one it stands for does not become its context.
        raise clean

    def _keep_secrets(self, key: str | None) -> None:
        """Remember each key that this model may just have used."""
        for found in (key, self.key, getattr(getattr(self, "wrapped", None), "key", None)):
            keep_secret(found if isinstance(found, str) else None)
        with suppress(SourceError):  # what it is needed for is to be told without it too
            find_key(None, None, self.needs_key, self.key_env_var)
            find_key(None, None, self.needs_key, None)

    def check_items(self, items: Iterable[Item]) -> None:
        """Refuse items of a type the model does not take (the messages are LLM's).

        Raises:
            ValueError: on the first such item.
        """
        for item in items:
            if isinstance(item, str):
                if not self.supports_text:
                    raise ValueError("This model does not support text strings, only binary data")
            elif isinstance(item, bytes):
                if not self.supports_binary:
                    raise ValueError("This model does not support binary data, only text strings")
            else:
                raise ValueError(f"An item must be str or bytes, not {type(item).__name__}")

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.model_id}"


def call_embed_batch(
    model: Any, items: list[Item], kind: Kind, key: str | None
) -> Batch | Iterable[Sequence[float]]:
    """Call a model's ``embed_batch`` with as many of ``kind`` and ``key`` as it takes.

    Classes written for LLM take ``(items)`` or ``(items, *, key=None)``.
    """
    parameters = inspect.signature(model.embed_batch).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    options: dict[str, Any] = {"kind": kind, "key": key}
    accepted = {name: options[name] for name in options if takes_any or name in parameters}
    answer: Batch | Iterable[Sequence[float]] = model.embed_batch(items, **accepted)
    return answer


#: Whether whoever calls a model tries again by itself what may succeed later. A provider that
#: would wait and try again must not then: the caller sees when it is to stop.
caller_retries: ContextVar[bool] = ContextVar("embed_caller_retries", default=False)
