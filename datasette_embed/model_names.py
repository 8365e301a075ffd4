"""Models by name, in LLM's words; and which model it is when nobody names one.

Layer 6: imports ``errors``, ``llm_files``, ``models`` and ``registry``. The models are the
registry's, made once, where LLM makes new ones on every call. No model is called here.
"""

from __future__ import annotations

from .errors import ConfigError
from .llm_files import (
    default_model_path,
    read_default_model,
    remove_default_model,
    write_default_model,
)
from .models import EmbeddingModel
from .registry import RegisteredModel, Registry, get_registry

#: Alias of the model that answers when LLM's user has chosen none.
DEFAULT_ALIAS = "default"

#: A model with its aliases, under LLM's name for it.
EmbeddingModelWithAliases = RegisteredModel


def get_embedding_model(name: str) -> EmbeddingModel:
    """Return the model of this id or alias.

    Raises:
        UnknownModelError: there is none; it lists the known ids and aliases.
    """
    return get_registry().get(name)


def get_embedding_models() -> list[EmbeddingModel]:
    """Return every model that can be called, sorted by id."""
    return [entry.model for entry in get_registry().list_models()]


def get_embedding_models_with_aliases() -> list[EmbeddingModelWithAliases]:
    """Return every model that can be called with its aliases, sorted by id."""
    return get_registry().list_models()


def get_embedding_model_aliases() -> dict[str, EmbeddingModel]:
    """Return ``name -> model`` of every alias and every id."""
    return {
        name: entry.model
        for entry in get_registry().list_models()
        for name in (*entry.aliases, entry.model.model_id)
    }


def get_default_embedding_model() -> str | None:
    """Return the id of the default embedding model set for LLM and for us, or None.

    Raises:
        SourceError: the file that names it cannot be read.
    """
    return read_default_model()


def set_default_embedding_model(name: str | None) -> None:
    """Set the default embedding model, of LLM too; None for no default.

    Raises:
        UnknownModelError: no model has this id or alias; nothing is changed.
        SourceError: the file that names it cannot be written.
    """
    if name is None:
        remove_default_model()
    else:
        write_default_model(get_registry().get(name).model_id)


def default_model(registry: Registry, named: str | None = None) -> EmbeddingModel:
    """Return the model to make a collection with: the one named, else the default one.

    The default is LLM's, where its user has set one, else the bundled model.

    Raises:
        UnknownModelError: the name is unknown.
        ConfigError: LLM's default is a model that is not registered here.
        SourceError: the file that names it cannot be read.
    """
    if named:
        return registry.get(named)
    chosen = read_default_model()
    if chosen is None:
        return registry.get(DEFAULT_ALIAS)
    model = registry.find(chosen)
    if model is None:
        raise ConfigError(
            str(default_model_path()),
            f"sets the default to {chosen}, which is not registered here. Name a model with "
            "--model (minilm), or set another default: datasette embed models default minilm. "
            f"Known models: {', '.join(registry.known_names())}",
        )
    return model
