"""Models page: ``/-/embed/models``, what SQL may pass to ``llm_embed()`` on this site.

Layer 11: imports ``access``, ``amounts``, ``budgets``, ``compat``, ``errors``, ``models`` and
``registry``. Shows names and numbers only, no key and no path: why a model is unavailable is for
those who run the site. Which are closed depends on who asks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from datasette import Forbidden, Response

from .. import access, budgets, compat
from ..amounts import price_text
from ..errors import EmbedError
from ..models import EmbeddingModel
from ..registry import RegisteredModel, Registry, get_registry

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

EXAMPLE_SQL = """select llm_embed_cosine(
  llm_embed(:model, :first),
  llm_embed(:model, :second)
) as similarity"""
EXAMPLE_TEXTS = {"first": "a dog chases a ball", "second": "puppies love to play"}
UNAVAILABLE, AVAILABLE, CLOSED = "unavailable", "available", "closed"


async def models_page(request: Request, datasette: Datasette) -> Response:
    """Return the page of models, or its JSON twin."""
    if not await compat.may_view_instance(datasette, request.actor):
        raise Forbidden("You may not view this site")
    shows_reasons = await compat.may_debug(datasette, budgets.rightful(datasette, request.actor))
    # Building the registry calls other plugins, and keys are in a file: not on the event loop.
    registry = await asyncio.to_thread(get_registry, datasette)
    models = await asyncio.to_thread(
        describe_models, datasette, registry, shows_reasons=shows_reasons
    )
    for model in models:
        if registry.find(model["id"]) and not await access.may_use_model(
            datasette, request.actor, model["id"]
        ):
            model["state"] = CLOSED
    if request.url_vars.get("format"):
        return Response.json({"ok": True, "models": models})
    database = await _database_to_try(datasette, request.actor)
    for model in models:
        model["try_url"] = _try_url(datasette, database, model)
        # What is no text may be anything; pages and commands offer images.
        model["reads"] = " and ".join(model["accepts"]).replace("binary", "images")
        price = model["price_per_million_tokens"]
        model["price"] = None if price is None else price_text(price)
    page = await datasette.render_template(
        "embed_models.html",
        {
            "models": models,
            "example_sql": EXAMPLE_SQL,
            "has_prices": any(model["price_per_million_tokens"] is not None for model in models),
            "alternate_url_json": datasette.urls.path("/-/embed/models.json"),
        },
        request=request,
    )
    return Response.html(page)


def describe_models(
    datasette: Datasette, registry: Registry, *, shows_reasons: bool
) -> list[dict[str, Any]]:
    """Return a JSON object per model, sorted by id, then what failed to register at all.

    Args:
        datasette: whose config may have the keys.
        registry: the models to describe.
        shows_reasons: whether to say why one is unavailable; reasons may name paths.
    """
    described = [_describe(datasette, entry, registry) for entry in registry.list_models()]
    names = {model["id"] for model in described}
    described += [
        {**dict.fromkeys(described[0] if described else ("id",)), **_failed(name, reason)}
        for name, reason in sorted(registry.unavailable.items())
        if name not in names
    ]
    for model in described:
        if not shows_reasons:
            model["reason"] = None
    return described


def _describe(datasette: Datasette, entry: RegisteredModel, registry: Registry) -> dict[str, Any]:
    model = entry.model
    reason = registry.unavailable.get(model.model_id) or _why_no_key(datasette, model)
    return {
        "id": model.model_id,
        "aliases": list(entry.aliases),
        "dimensions": model.dimensions,
        "max_tokens": model.max_tokens,
        "accepts": _accepts(model),
        "runs": "on this server" if model.is_local else "at its provider",
        "price_per_million_tokens": model.price_per_million_tokens,
        "state": AVAILABLE if reason is None else UNAVAILABLE,
        "reason": reason,
    }


def _why_no_key(datasette: Datasette, model: EmbeddingModel) -> str | None:
    """Return why there is no API key to call a model with, None if there is or needs none."""
    try:
        model.get_key(budgets.key_for(datasette, model))
    except EmbedError as error:
        return str(error)
    return None


def _accepts(model: EmbeddingModel) -> list[str]:
    return ["text"] * model.supports_text + ["binary"] * model.supports_binary


def _failed(name: str, reason: str) -> dict[str, Any]:
    return {"id": name, "aliases": [], "accepts": [], "state": UNAVAILABLE, "reason": reason}


async def _database_to_try(datasette: Datasette, actor: compat.Actor) -> str | None:
    """Return the first database on which the actor may run the example, or None."""
    for name in datasette.databases:
        if not name.startswith("_internal") and await compat.may_execute_sql(
            datasette, actor, name
        ):
            return str(name)
    return None


def _try_url(datasette: Datasette, database: str | None, model: dict[str, Any]) -> str | None:
    """Return the page that runs the example with this model, if it can be run."""
    if database is None or model["state"] != AVAILABLE or "text" not in model["accepts"]:
        return None
    # The shortest name makes the link one a person would type.
    name = min([model["id"], *model["aliases"]], key=len)
    return compat.sql_url(datasette, database, EXAMPLE_SQL, {"model": name, **EXAMPLE_TEXTS})
