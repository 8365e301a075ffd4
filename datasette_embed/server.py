"""Server: what one running Datasette gives the parts of this package.

Layer 9: imports ``compat``, ``errors``, ``executor``, ``query_embeddings``, ``registry``,
``settings`` and ``threads``. It fits them
to one Datasette instance: its config, its pool of SQL threads, its models. No SQL
function and no page belongs here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from . import compat
from .errors import ConfigError, EmbedError
from .executor import wrap_executor
from .query_embeddings import PROCESS_QUERIES, Limits
from .registry import Registry, get_registry
from .settings import PLUGIN_NAME, Settings, parse_settings
from .threads import start_thread

if TYPE_CHECKING:
    from datasette.app import Datasette

logger = logging.getLogger(__name__)

Application = Callable[[Any, Any, Any], Awaitable[None]]


def get_settings(datasette: Datasette) -> Settings:
    """Return the settings of this Datasette.

    Raises:
        ConfigError: its plugin config is wrong.
    """
    return parse_settings(datasette.plugin_config(PLUGIN_NAME))


def get_limits(datasette: Datasette) -> Limits:
    """Return how long and how many at once a query of this Datasette may embed.

    One SQL thread is always left to queries that need no model.
    """
    threads = int(datasette.setting("num_sql_threads") or 0)
    settings = get_settings(datasette)
    return Limits(
        timeout_seconds=settings.embed_timeout_seconds,
        concurrent=max(1, threads - 1),
        characters=settings.max_text_characters,
    )


def start(datasette: Datasette) -> None:
    """Check the settings and make errors of SQL functions readable.

    Raises:
        StartupError: plugin config is wrong; it names the key and what is allowed.
    """
    try:
        settings = get_settings(datasette)
    except ConfigError as error:
        raise compat.startup_error(f"Plugin {PLUGIN_NAME}: {error}") from error
    wrap_executor(datasette)
    PROCESS_QUERIES.resize(settings.query_cache_bytes)


def wrap_application(datasette: Datasette) -> Callable[[Application], Application]:
    """Return an ASGI wrapper that loads models in the background when a server starts.

    Only a server sends the lifespan message: ``datasette --get``, ``inspect`` and tests
    run the startup hook too, and should not load a model for it.
    """

    def wrap(application: Application) -> Application:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                names = get_settings(datasette).warm_models
                if names:
                    start_thread(warm_models, get_registry(datasette), names, name="embed-warm")
            await application(scope, receive, send)

        return wrapped

    return wrap


def warm_models(registry: Registry, names: tuple[str, ...]) -> None:
    """Load the models of these names; one that fails is logged and left to its first use."""
    for name in names:
        try:
            registry.get(name).warm()
        except Exception as error:
            reason = error.detail if isinstance(error, EmbedError) else error
            logger.warning("the model %s could not be loaded at startup: %s", name, reason)
