"""LlamaIndexModel: any ``BaseEmbedding`` of LlamaIndex, by import path.

Layer 3: imports ``models`` and ``import_paths``, and LlamaIndex's ``llama_index.core`` when
the model is first used. Our models inside LlamaIndex are in ``adapters``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..models import Kind
from .import_paths import ImportedModel


class LlamaIndexModel(ImportedModel):
    """Instructions for texts and for queries are those of the LlamaIndex class."""

    library = "LlamaIndex BaseEmbedding"
    package, extra = "llama_index.core", "llama-index"

    def base_class(self) -> type:
        """Return LlamaIndex's base class of embedding models."""
        from llama_index.core.base.embeddings.base import BaseEmbedding

        found: type = BaseEmbedding
        return found

    def call(self, target: Any, texts: list[str], kind: Kind) -> Iterable[Sequence[float]]:
        """Return one vector per text; LlamaIndex's progress bar stays off."""
        if kind is Kind.QUERY:
            return [target.get_query_embedding(text) for text in texts]
        vectors: list[list[float]] = target.get_text_embedding_batch(texts, show_progress=False)
        return vectors
