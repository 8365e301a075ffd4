"""Embedding classes of LangChain and LlamaIndex that tests name by import path."""

from __future__ import annotations

import threading

from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding

from datasette_embed.models import Kind
from tests.fakes import vector_of


class RateLimitError(Exception):
    pass


class AuthenticationError(Exception):
    pass


class Chain(Embeddings):
    """Tells queries from documents, and keeps what it was made with."""

    made: list[dict] = []

    def __init__(self, **arguments):
        self.arguments = arguments
        self.made.append(arguments)
        self.running, self.most = 0, 0
        self.gate: threading.Barrier | None = None
        if problem := arguments.get("problem"):
            raise ValueError(f"bad arguments:\n  {problem}")

    def embed_documents(self, texts):
        assert isinstance(texts, list)
        self.running += 1
        self.most = max(self.most, self.running)
        if self.gate is not None:
            self.gate.wait(30)
        self.running -= 1
        if "raises" in self.arguments:
            raise globals()[self.arguments["raises"]](f"with {self.arguments.get('api_key')}")
        return [vector_of(text) for text in texts]

    def embed_query(self, text):
        return vector_of(text, Kind.QUERY)


class Index(BaseEmbedding):
    """Instructions of its own, one for each side."""

    api_key: str = ""

    def _get_text_embedding(self, text):
        return vector_of(f"text: {text}")

    def _get_query_embedding(self, query):
        return vector_of(f"query: {query}", Kind.QUERY)

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


class Holder:
    """Something with an attribute that is a class."""

    Inner = Chain


def make_chain(name="x"):
    """A function that makes the object."""
    return Chain(name=name)


def make_text():
    return "no model"


def needs_more():
    import no_such_module_at_all  # noqa: F401


chain = Chain()
number = 7
