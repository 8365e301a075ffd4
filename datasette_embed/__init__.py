"""datasette-embed: search text by meaning in plain SQL.

Layer 12. Datasette registers this package itself as the plugin, so the hooks must be
here; all else is imported when it is first asked for, which keeps ``datasette`` quick to
start. There must be no ``__dir__`` that lists the lazy names: pluggy reads every name in
``dir(package)`` and would load them all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .plugin import (
    asgi_wrapper,
    prepare_connection,
    register_commands,
    register_routes,
    startup,
)

if TYPE_CHECKING:
    from .errors import (
        BudgetExceededError,
        BusyError,
        CollectionNotFoundError,
        ConfigError,
        DimensionMismatchError,
        EmbedError,
        EmbedTimeoutError,
        EntryNotFoundError,
        InvalidVectorError,
        JobStateError,
        MissingDependencyError,
        MissingKeyError,
        ModelMismatchError,
        ModelNotAllowedError,
        ModelRegistrationError,
        NotFoundError,
        ProviderError,
        SourceError,
        UnknownModelError,
        UnreadableTextError,
    )
    from .models import Batch, EmbeddingModel, Kind, Reading
    from .registry import Registry, get_registry
    from .sql_functions import register
    from .vectors import average, cosine, decode, dot, encode, l2, normalize

# The name under which a public object is imported -> the module that has it.
_MODULES = {
    "errors": (
        "BudgetExceededError",
        "BusyError",
        "CollectionNotFoundError",
        "ConfigError",
        "DimensionMismatchError",
        "EmbedError",
        "EmbedTimeoutError",
        "EntryNotFoundError",
        "InvalidVectorError",
        "JobStateError",
        "MissingDependencyError",
        "MissingKeyError",
        "ModelMismatchError",
        "ModelNotAllowedError",
        "ModelRegistrationError",
        "NotFoundError",
        "ProviderError",
        "SourceError",
        "UnknownModelError",
        "UnreadableTextError",
    ),
    "models": ("Batch", "EmbeddingModel", "Kind", "Reading"),
    "registry": ("Registry", "get_registry"),
    "sql_functions": ("register",),
    "vectors": ("average", "cosine", "decode", "dot", "encode", "l2", "normalize"),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Batch",
    "BudgetExceededError",
    "BusyError",
    "CollectionNotFoundError",
    "ConfigError",
    "DimensionMismatchError",
    "EmbedError",
    "EmbedTimeoutError",
    "EmbeddingModel",
    "EntryNotFoundError",
    "InvalidVectorError",
    "JobStateError",
    "Kind",
    "MissingDependencyError",
    "MissingKeyError",
    "ModelMismatchError",
    "ModelNotAllowedError",
    "ModelRegistrationError",
    "NotFoundError",
    "ProviderError",
    "Reading",
    "Registry",
    "SourceError",
    "UnknownModelError",
    "UnreadableTextError",
    "asgi_wrapper",
    "average",
    "cosine",
    "decode",
    "dot",
    "encode",
    "get_registry",
    "l2",
    "normalize",
    "prepare_connection",
    "register",
    "register_commands",
    "register_routes",
    "startup",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
