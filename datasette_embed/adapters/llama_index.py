"""Our models in LlamaIndex: ``DatasetteEmbedding``.

Layer 9: imports ``embedder`` and ``errors``, and LlamaIndex's ``llama_index.core``. Vector
stores do not belong here: LlamaIndex has its own, and ours is SQL.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import MissingDependencyError
from .embedder import Embedder

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
except ImportError as error:
    raise MissingDependencyError("llama_index.core", "llama-index") from error

#: The most texts per call that LlamaIndex allows (``embed_batch_size``, le=2048).
MOST_TEXTS = 2048


class DatasetteEmbedding(BaseEmbedding):
    """Any of our models as LlamaIndex's ``BaseEmbedding``.

    It can be written with ``to_dict`` and read with ``from_dict`` where the model is
    registered; an API key is not written.

    Args:
        model_name: the id or an alias of a registered model, or a model.
        embed_batch_size: most texts per call of the model; the model's own by default.
        key: the API key for the model; None leaves finding it to the model.
        options: those of ``BaseEmbedding``.

    Raises:
        UnknownModelError: no model is registered under this name.
        ModelRegistrationError: the object is no embedding model.
    """

    _embedder: Embedder = PrivateAttr()

    def __init__(
        self,
        model_name: str | Any = "default",
        *,
        embed_batch_size: int | None = None,
        key: str | None = None,
        **options: Any,
    ) -> None:
        embedder = Embedder(model_name, key=key)
        model = embedder.model
        own_size = min(model.batch_size or model.default_batch_size, MOST_TEXTS)
        super().__init__(
            model_name=model.model_id,
            embed_batch_size=own_size if embed_batch_size is None else embed_batch_size,
            **options,
        )
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex writes it."""
        return "DatasetteEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedder.query(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.documents(texts, self.embed_batch_size)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
