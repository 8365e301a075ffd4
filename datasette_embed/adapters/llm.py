"""Our models in LLM: the plugin that ``llm embed -m minilm`` finds.

Layer 9: imports ``embedder``, ``models``, ``providers`` and ``registry``, and LLM's ``llm``.
LLM loads this module for every ``llm`` command and calls the hook whenever models are listed,
so building our models happens in the hook. LLM knows no kinds of text: it gets the vectors of
documents, for its searches too. Works with every LLM from 0.19 on, whose ``embed_batch`` got
no key before 0.36. LLM's models inside this package belong to ``providers``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import llm

from ..models import EmbeddingModel, Item
from ..providers.llm_plugins import ORIGIN
from ..registry import RegisteredModel, get_registry
from .embedder import Embedder

#: Aliases that would claim too much among the models of LLM.
GREEDY_ALIASES = ("default",)


class DatasetteEmbed(llm.EmbeddingModel):
    """One of our models as LLM wants it."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model_id = model.model_id
        self.needs_key = model.needs_key
        self.key_env_var = model.key_env_var
        self.supports_text = model.supports_text
        self.supports_binary = model.supports_binary
        # Without one LLM hands over all there is in a single call.
        self.batch_size = model.batch_size or model.default_batch_size
        self._embedder = Embedder(model)

    def embed_batch(
        self, items: Iterable[Item], *, key: str | None = None
    ) -> Iterator[list[float]]:
        """Return the document vector of each item.

        Raises:
            EmbedError: as the model raises it.
        """
        # An LLM that passes no key has one in its own store, and get_key() reads it.
        used = self.get_key() if key is None else key
        return iter(self._embedder.documents(items, key=used))


class _Thread(threading.local):
    is_listing = False


_thread = _Thread()


@llm.hookimpl
def register_embedding_models(register: Callable[..., None]) -> None:
    """Give LLM our models, except those it has from its other plugins."""
    # Our registry may ask LLM for its models, and LLM asks us: the second time for nothing.
    if _thread.is_listing:
        return
    _thread.is_listing = True
    try:
        taken = _names_of_others()
        for entry in get_registry().list_early_models():
            _register(register, entry, taken)
    finally:
        _thread.is_listing = False


def _register(register: Callable[..., None], entry: RegisteredModel, taken: set[str]) -> None:
    model = entry.model
    if model.model_id in taken or getattr(model, "origin", None) == ORIGIN:
        return
    aliases = [name for name in entry.aliases if name not in taken and name not in GREEDY_ALIASES]
    register(DatasetteEmbed(model), aliases=aliases)


def _names_of_others() -> set[str]:
    """Return the ids and aliases that LLM's other plugins give to their models.

    LLM would list a model twice, and of two with one id it calls the one registered last.
    """
    from llm.plugins import pm

    names: set[str] = set()

    def collect(model: Any, aliases: Iterable[str] | None = None) -> None:
        names.update((model.model_id, *(aliases or ())))

    others = pm.subset_hook_caller("register_embedding_models", [sys.modules[__name__]])
    others(register=collect)
    return names
