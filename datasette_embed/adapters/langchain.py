"""Our models in LangChain: ``DatasetteEmbeddings``.

Layer 9: imports ``embedder`` and ``errors``, and LangChain's ``langchain_core``. Vector
stores do not belong here: LangChain has its own, and ours is SQL.
"""

from __future__ import annotations

from typing import Any

from ..errors import MissingDependencyError
from .embedder import Embedder

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise MissingDependencyError("langchain_core", "langchain") from error


class DatasetteEmbeddings(Embeddings):
    """Any of our models as LangChain's ``Embeddings``.

    The asynchronous methods of the base class run these in a thread.

    Args:
        model: the id or an alias of a registered model, or a model.
        batch_size: most texts per call of the model; the model's own by default.
        key: the API key for the model; None leaves finding it to the model.

    Raises:
        UnknownModelError: no model is registered under this name.
        ModelRegistrationError: the object is no embedding model.
        ValueError: ``batch_size`` is below 1.
    """

    def __init__(
        self, model: str | Any = "default", *, batch_size: int | None = None, key: str | None = None
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._embedder = Embedder(model, key=key)
        self.batch_size = batch_size

    @property
    def model(self) -> str:
        """The id of the model."""
        return self._embedder.model.model_id

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vector of each text to be searched, in order; ``[]`` for none.

        Raises:
            ValueError: one text instead of a list, or an item that is no text.
            ProviderError: the model failed.
        """
        return self._embedder.documents(texts, self.batch_size)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text to search for.

        Raises:
            ValueError: it is no text.
            UnreadableTextError: the model does not know a single word of it.
            ProviderError: the model failed.
        """
        return self._embedder.query(text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"
