"""Embedder: one of our models as other tools want it, texts in and lists of floats out.

Layer 9: imports ``model_calls``, ``model_checks``, ``models`` and ``registry``. What all
adapters have in common: finding the model, which side of a search a text is on, and saying
what a model could not read. No other tool's package is imported here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from ..model_calls import embed_query, read_items
from ..model_checks import check_model
from ..models import EmbeddingModel, Item, Kind, Reading
from ..registry import get_registry

logger = logging.getLogger(__name__)


class Embedder:
    """Calls one model, and warns of texts that it reads in part or not at all, once of each.

    Args:
        model: the id or an alias of a registered model, or a model.
        key: the API key for the model; None leaves finding it to the model.

    Raises:
        UnknownModelError: no model is registered under this name.
        ModelRegistrationError: the object is no embedding model.
    """

    def __init__(self, model: str | Any, *, key: str | None = None) -> None:
        self.model: EmbeddingModel = (
            get_registry().get(model) if isinstance(model, str) else check_model(model)
        )
        self.key = key
        self._warned: set[str] = set()

    def documents(
        self,
        items: Iterable[Item],
        batch_size: int | None = None,
        *,
        key: str | None = None,
    ) -> list[list[float]]:
        """Return the vector of each item as it is stored, in order; ``[]`` for none.

        A ``key`` given here is used instead of the embedder's.

        Raises:
            ValueError: one text where a list of them belongs, an item of a type that the
                model does not take, or a batch size below 1.
            ProviderError: the model failed.
        """
        if isinstance(items, (str, bytes)):
            raise ValueError("A list of texts is needed, not one text")
        listed = list(items)
        self.model.check_items(listed)
        if self.model.counts_exactly and len(self._warned) < 2:
            self._warn_of(read_items(self.model, listed))
        used = self.key if key is None else key
        return list(self.model.embed_multi(listed, batch_size, kind=Kind.DOCUMENT, key=used))

    def query(self, text: str) -> list[float]:
        """Return the vector of a text to search for.

        Raises:
            ValueError: it is no text or an empty one, or the model takes none.
            UnreadableTextError: the model does not know a single word of it.
            ProviderError: the model failed.
        """
        vector: list[float] = embed_query(self.model, text, key=self.key).tolist()
        self._warn_of(read_items(self.model, [text]))
        return vector

    def _warn_of(self, readings: Iterable[Reading]) -> None:
        """Say what is lost; the tools have no place for it beside the vectors."""
        model = self.model
        for reading in readings:
            if reading.is_unknown:
                self._warn_once("does not know a single word of a text: use a multilingual model")
            elif model.max_tokens is not None and reading.tokens > model.max_tokens:
                self._warn_once("reads only the beginning of a long text: split long texts")

    def _warn_once(self, message: str) -> None:
        if self.model.counts_exactly and message not in self._warned:
            self._warned.add(message)
            logger.warning("%s %s (said once)", self.model.model_id, message)
