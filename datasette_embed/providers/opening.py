"""Opening: the model that an entry of the models file or of plugin config describes.

Layer 3: imports ``errors``, ``model_entries``, ``models`` and ``presets``. One class for each
provider, imported when an entry names it; none loads weights or a heavy package by being made.
Which models there are is decided in ``registry``.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from ..errors import MissingDependencyError
from ..model_entries import COMMON_OPTIONS, ModelEntry
from ..models import EmbeddingModel
from ..presets import PRESETS

#: Provider -> module of this folder and class. A class takes what the provider calls the model,
#: ``model_id=`` and the provider's own options by name.
_CLASSES = {
    "langchain": ("langchain", "LangChainModel"),
    "llama-index": ("llama_index", "LlamaIndexModel"),
    "llm": ("llm", "LlmModel"),
    "onnx": ("onnx", "OnnxModel"),
    "openai": ("openai", "OpenAIModel"),
    "sentence-transformers": ("sentence_transformers", "SentenceTransformersModel"),
}


def open_model(entry: ModelEntry) -> EmbeddingModel:
    """Return the model of an entry, not yet loaded.

    Raises:
        ConfigError: its options contradict each other.
    """
    module, name = _CLASSES["openai" if entry.provider in PRESETS else entry.provider]
    provider = importlib.import_module(f".{module}", __package__)
    own: dict[str, Any] = {k: v for k, v in entry.options.items() if k not in COMMON_OPTIONS}
    if entry.provider in PRESETS:
        own["preset"] = entry.provider
    model: EmbeddingModel = getattr(provider, name)(entry.model, model_id=entry.resolved_id, **own)
    for option in COMMON_OPTIONS:
        if option in entry.options:
            setattr(model, option, entry.options[option])
    model.registered_limit = entry.options.get("max_tokens")
    return model


def missing_package(model: EmbeddingModel) -> MissingDependencyError | None:
    """Return what a model needs and is not installed, as the error to say so; None if all is."""
    for package, extra in getattr(model, "requires", ()):
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            return MissingDependencyError(package, extra)
    return None
