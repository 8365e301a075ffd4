"""AdaptedModel: a model written for LLM, or any object like one, as an EmbeddingModel.

Layer 3: imports ``errors`` and ``models``. LLM's models have ``model_id`` and
``embed_batch(items)``, know neither kind nor dimensions, and may raise anything. This
module is the one place where those exceptions become ``ProviderError``. Nothing that looks
for such models belongs here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import EmbedError, MissingKeyError, ProviderError, SourceError
from ..models import Batch, EmbeddingModel, Item, Kind, call_embed_batch

#: Attributes taken over from the wrapped object when it has them.
COPIED = (
    "dimensions",
    "batch_size",
    "max_tokens",
    "metric",
    "supports_text",
    "supports_binary",
    "needs_key",
    "key_env_var",
    "price_per_million_tokens",
    "revision",
    "is_local",
)


class AdaptedModel(EmbeddingModel):
    """Wraps a foreign model; the wrapped object stays reachable as ``wrapped``."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self.model_id = wrapped.model_id
        for name in COPIED:
            value = getattr(wrapped, name, None)
            if value is not None:
                setattr(self, name, value)

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | Iterable[Sequence[float]]:
        """Return the wrapped model's vectors.

        Raises:
            ProviderError: whatever the wrapped model raised, as its cause.
        """
        try:
            answer = call_embed_batch(self.wrapped, items, kind, key)
            # LLM's models return generators: what they raise must be raised in here.
            return answer if isinstance(answer, Batch) else list(answer)
        except EmbedError:
            raise
        except Exception as error:
            raise ProviderError.from_exception(self.model_id, error) from error

    def get_key(self, explicit_key: str | None = None) -> str | None:
        """Return the API key of a call; the wrapped model's own counts as this one's."""
        return super().get_key(explicit_key or getattr(self.wrapped, "key", None))

    def key_for_call(self, explicit_key: str | None) -> str | None:
        """Return the key if there is one; if not, the wrapped model has ways of its own."""
        try:
            return super().key_for_call(explicit_key)
        except (MissingKeyError, SourceError):
            return None

    def __str__(self) -> str:
        return f"{type(self.wrapped).__name__}: {self.model_id}"
