"""LlmModel: a model of one of LLM's plugins, under a name and with options of one's own.

Layer 3: imports ``errors``, ``models`` and, when it is first used, ``llm_plugins``. Without an
entry such a model is there under its own name already; an entry gives it prompts, a price or
another id. How plugins are loaded and called is said in ``llm_plugins``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from ..errors import CallRefusedError, EmbedError
from ..models import Batch, EmbeddingModel, Item, Kind
from .llm_plugins import ORIGIN, PluginModel, plugin_models


class LlmModel(EmbeddingModel):
    """A model that an entry names; LLM is asked for it when it is first needed."""

    requires = (("llm", "llm"),)
    origin = ORIGIN

    def __init__(self, model: str, *, model_id: str) -> None:
        """Name the model without looking for it.

        Args:
            model: the id that LLM knows it by, or an alias.
            model_id: the id it is registered under.
        """
        self.model = model
        self.model_id = model_id
        # Under its own name it is the model that LLM's collections were made with.
        self.revision = None if model == model_id else model
        self._found: PluginModel | None = None
        self._lock = threading.Lock()

    @property
    def needs_key(self) -> str | None:  # type: ignore[override]
        """Name of the API key it needs; None also for a model that LLM does not have."""
        try:
            return self.plugin_model().needs_key
        except EmbedError:
            return None

    def plugin_model(self) -> PluginModel:
        """Return the plugin's model, found once.

        Raises:
            MissingDependencyError: LLM is not installed.
            CallRefusedError: no plugin has a model of this name; it lists those there are.
        """
        with self._lock:
            if self._found is None:
                there_are = plugin_models()
                found = there_are.find(self.model)
                if found is None:
                    raise CallRefusedError(
                        self.model_id,
                        f"no plugin of LLM has an embedding model '{self.model}'. Those there "
                        f"are: {', '.join(there_are.names()) or 'none'}",
                    )
                found.model_id = self.model_id  # errors name the model by what it is called here
                for name in ("supports_text", "supports_binary", "key_env_var"):
                    setattr(self, name, getattr(found, name))
                for name in ("batch_size", "max_tokens", "dimensions"):
                    if getattr(self, name) is None:  # an option of the entry stays
                        setattr(self, name, getattr(found, name))
                self._found = found
            return self._found

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | Iterable[Sequence[float]]:
        """Return the plugin's vectors of the items, each text with the prompt of its kind.

        Raises:
            MissingDependencyError: LLM is not installed.
            ProviderError: LLM has no such model, or the plugin failed.
        """
        found = self.plugin_model()
        return found.embed_batch(self.with_prompt(items, kind), kind=kind, key=key)

    def get_key(self, explicit_key: str | None = None) -> str | None:
        """Return the API key of a call, as the plugin's model finds it.

        Raises:
            MissingDependencyError: LLM is not installed.
            CallRefusedError: LLM has no such model.
            MissingKeyError: it needs a key and there is none.
        """
        return self.plugin_model().get_key(explicit_key)

    def key_for_call(self, explicit_key: str | None) -> str | None:
        """Return what ``embed_batch`` is given as the key.

        Raises:
            EmbedError: as ``get_key``.
        """
        return self.plugin_model().key_for_call(explicit_key)

    def check_items(self, items: Iterable[Item]) -> None:
        """Refuse items of a type the plugin's model does not take.

        Raises:
            ValueError: on the first such item.
            EmbedError: LLM is not installed, or has no such model.
        """
        self.plugin_model()
        super().check_items(items)
