"""datasette-embed: search text by meaning in plain SQL.

Layer 13. Datasette registers this package itself as the plugin, so the hooks must be
here; all else is imported when it is first asked for, which keeps ``datasette`` quick to
start. There must be no ``__dir__`` that lists the lazy names: pluggy reads every name in
``dir(package)`` and would load them all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .plugin import actor_from_request as actor_from_request
from .plugin import asgi_wrapper as asgi_wrapper
from .plugin import database_actions as database_actions
from .plugin import extra_body_script as extra_body_script
from .plugin import extra_template_vars as extra_template_vars
from .plugin import filters_from_request as filters_from_request
from .plugin import hidden_search_tables as hidden_search_tables
from .plugin import hidden_tables as hidden_tables
from .plugin import homepage_actions as homepage_actions
from .plugin import jump_items_sql as jump_items_sql
from .plugin import menu_links as menu_links
from .plugin import permission_allowed as permission_allowed
from .plugin import permission_resources_sql as permission_resources_sql
from .plugin import prepare_connection as prepare_connection
from .plugin import query_actions as query_actions
from .plugin import register_actions as register_actions
from .plugin import register_column_types as register_column_types
from .plugin import register_commands as register_commands
from .plugin import register_routes as register_routes
from .plugin import render_cell as render_cell
from .plugin import row_actions as row_actions
from .plugin import run_jobs as run_jobs
from .plugin import shutdown as shutdown
from .plugin import skip_csrf as skip_csrf
from .plugin import start_jobs as start_jobs
from .plugin import startup as startup
from .plugin import table_actions as table_actions
from .plugin import top_row as top_row
from .plugin import track_event as track_event
from .plugin import view_actions as view_actions

# "as" tells type checkers that a name is public: they cannot read the list made below.
if TYPE_CHECKING:
    from .collection import Collection as Collection
    from .collection import Entry as Entry
    from .encoding import cosine_similarity as cosine_similarity
    from .encoding import decode as decode
    from .errors import *  # noqa: F403
    from .model_names import EmbeddingModelWithAliases as EmbeddingModelWithAliases
    from .model_names import get_default_embedding_model as get_default_embedding_model
    from .model_names import get_embedding_model as get_embedding_model
    from .model_names import get_embedding_model_aliases as get_embedding_model_aliases
    from .model_names import get_embedding_models as get_embedding_models
    from .model_names import get_embedding_models_with_aliases as get_embedding_models_with_aliases
    from .model_names import set_default_embedding_model as set_default_embedding_model
    from .models import Batch as Batch
    from .models import EmbeddingModel as EmbeddingModel
    from .models import Kind as Kind
    from .models import Reading as Reading
    from .registry import Registry as Registry
    from .registry import get_registry as get_registry
    from .runs import RunOutcome as RunOutcome
    from .runs import create as create
    from .runs import search as search
    from .runs import sync as sync
    from .sql_functions import register as register
    from .vectors import average as average
    from .vectors import cosine as cosine
    from .vectors import dot as dot
    from .vectors import encode as encode
    from .vectors import l2 as l2
    from .vectors import normalize as normalize

# The name under which a public object is imported -> the module that has it.
_MODULES = {
    "collection": ("Collection", "Entry"),
    "encoding": ("cosine_similarity", "decode"),
    "errors": (
        "BudgetExceededError",
        "BusyError",
        "CallRefusedError",
        "CollectionNotFoundError",
        "ConfigError",
        "DimensionMismatchError",
        "EmbedError",
        "EmbedTimeoutError",
        "EntryNotFoundError",
        "HiddenCollectionError",
        "ImageTooLargeError",
        "InvalidVectorError",
        "JobNotFoundError",
        "JobStateError",
        "MissingDependencyError",
        "MissingKeyError",
        "ModelMismatchError",
        "ModelNotAllowedError",
        "ModelRegistrationError",
        "NotFoundError",
        "OutdatedCollectionError",
        "ProviderError",
        "QuotaExceededError",
        "ReadOnlyDatabaseError",
        "SourceError",
        "TextTooLongError",
        "UnknownModelError",
        "UnreadableTextError",
    ),
    "models": ("Batch", "EmbeddingModel", "Kind", "Reading"),
    "model_names": (
        "EmbeddingModelWithAliases",
        "get_default_embedding_model",
        "get_embedding_model",
        "get_embedding_model_aliases",
        "get_embedding_models",
        "get_embedding_models_with_aliases",
        "set_default_embedding_model",
    ),
    "registry": ("Registry", "get_registry"),
    "runs": ("RunOutcome", "create", "search", "sync"),
    "sql_functions": ("register",),
    "vectors": ("average", "cosine", "dot", "encode", "l2", "normalize"),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}

_HOOKS = (
    actor_from_request,
    asgi_wrapper,
    database_actions,
    extra_body_script,
    extra_template_vars,
    filters_from_request,
    hidden_search_tables,
    hidden_tables,
    homepage_actions,
    jump_items_sql,
    menu_links,
    permission_allowed,
    permission_resources_sql,
    prepare_connection,
    query_actions,
    register_actions,
    register_column_types,
    register_commands,
    register_routes,
    render_cell,
    row_actions,
    shutdown,
    skip_csrf,
    startup,
    table_actions,
    top_row,
    track_event,
    view_actions,
)

__all__ = sorted([*_LAZY, *(hook.__name__ for hook in _HOOKS)])


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
