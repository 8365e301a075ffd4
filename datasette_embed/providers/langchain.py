"""LangChainModel: any ``Embeddings`` of LangChain, by import path.

Layer 3: imports ``models`` and ``import_paths``, and LangChain's ``langchain_core`` when the
model is first used. Our models inside LangChain are in ``adapters``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..models import Kind
from .import_paths import ImportedModel


class LangChainModel(ImportedModel):
    """``embed_documents`` for texts to be searched, ``embed_query`` for what is searched for."""

    library = "LangChain Embeddings"
    package, extra = "langchain_core", "langchain"

    def base_class(self) -> type:
        """Return LangChain's interface of embedding models."""
        from langchain_core.embeddings import Embeddings

        found: type = Embeddings
        return found

    def call(self, target: Any, texts: list[str], kind: Kind) -> Iterable[Sequence[float]]:
        """Return one vector per text."""
        if kind is Kind.QUERY:
            return [target.embed_query(text) for text in texts]
        vectors: list[list[float]] = target.embed_documents(texts)
        return vectors
