"""Lookup: the database, the collection and the model a request is about, if it may ask.

Layer 11: imports ``access``, ``compat``, ``errors``, ``model_names``, ``models``, ``records``
and ``registry``. Every permission of the API is asked for here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from datasette import Forbidden
from datasette.utils import tilde_decode

from .. import access, compat
from ..database import sqlite3, translated
from ..errors import ModelNotAllowedError
from ..model_names import default_model
from ..models import EmbeddingModel
from ..records import CollectionRecord
from ..registry import get_registry
from .http import RequestError

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

T = TypeVar("T")


def name_in_url(request: Request, part: str) -> str:
    """Return a name of the path, as Datasette encodes it or as a browser does."""
    # A % is never part of a name that Datasette encoded, and a + or ~ may be of any other.
    text = request.url_vars[part]
    return unquote(text) if "%" in text else str(tilde_decode(text))


async def database_of(request: Request, datasette: Datasette) -> Database:
    """Return the database of the path.

    Raises:
        RequestError: there is none of this name.
        Forbidden: the actor may not view it.
    """
    return await visible_database(request, datasette, name_in_url(request, "database"))


async def visible_database(request: Request, datasette: Datasette, route: str) -> Database:
    """Return a database by its name in URLs.

    Raises:
        RequestError: there is none of this name.
        Forbidden: the actor may not view it, or not even the site.
    """
    try:
        database = datasette.get_database(route=route)
    except KeyError:
        database = None
    if database and await compat.may_view_database(datasette, request.actor, database.name):
        return database
    # Whoever may not see the site is told of no database, and of none that it is missing.
    await require_site(request, datasette)
    if database is None:
        raise RequestError(f"There is no database '{route}'", 404)
    raise Forbidden(f"You may not view the database '{database.name}' (view-database)")


async def require_site(request: Request, datasette: Datasette) -> None:
    """Refuse an actor who may not see this Datasette at all.

    Raises:
        Forbidden: the actor may not.
    """
    if not await compat.may_view_instance(datasette, request.actor):
        raise Forbidden("You may not view this site (view-instance)")


async def collection_of(
    request: Request, datasette: Datasette, database: Database
) -> CollectionRecord:
    """Return the collection of the path.

    Raises:
        CollectionNotFoundError: there is none of this name; it lists those the actor may see.
        HiddenCollectionError: the actor may not view it.
    """
    name = name_in_url(request, "collection")
    with translated(database.name):
        return await access.get_visible_collection(datasette, request.actor, database.name, name)


async def require_create(request: Request, datasette: Datasette, database: str) -> None:
    """Refuse an actor who may not make and change collections in a database.

    Raises:
        Forbidden: the actor may not.
    """
    if not await access.may_create(datasette, request.actor, database):
        raise cannot_create(database)


async def require_create_somewhere(request: Request, datasette: Datasette, database: str) -> None:
    """Refuse an actor who may make collections in no database, this one or another.

    Raises:
        Forbidden: the actor may not.
    """
    for name in (database, *datasette.databases):
        if await access.may_create(datasette, request.actor, name):
            return
    raise cannot_create(database)


def cannot_create(database: str) -> Forbidden:
    """Return the refusal of whoever may not make collections in a database."""
    return Forbidden(
        f"You may not make or change collections in the database '{database}': "
        "that takes the permission embed-create"
    )


async def require_sql(request: Request, datasette: Datasette, database: str) -> None:
    """Refuse an actor who may not run SQL of their own on a database.

    Raises:
        Forbidden: the actor may not.
    """
    if not await compat.may_execute_sql(datasette, request.actor, database):
        raise Forbidden(
            f"You may not run SQL of your own on the database '{database}': "
            "that takes the permission execute-sql"
        )


async def usable_model(request: Request, datasette: Datasette, name: str | None) -> EmbeddingModel:
    """Return a model by id or alias; the default one for None.

    Raises:
        UnknownModelError: there is none of this name.
        ModelNotAllowedError: the actor may not use it.
    """
    # Building the registry calls other plugins and reads files: not on the event loop.
    model = await asyncio.to_thread(_find_model, datasette, name)
    if not await access.may_use_model(datasette, request.actor, model.model_id):
        raise ModelNotAllowedError(model.model_id)
    return model


async def find_model(datasette: Datasette, name: str) -> EmbeddingModel:
    """Return a model by id or alias, whoever may use it.

    Raises:
        UnknownModelError: there is none of this name.
    """
    return await asyncio.to_thread(_find_model, datasette, name)


def _find_model(datasette: Datasette, name: str | None) -> EmbeddingModel:
    return default_model(get_registry(datasette), name)


async def read(database: Database, function: Callable[[sqlite3.Connection], T]) -> T:
    """Return what a function reads over a connection of Datasette's, in its thread.

    Raises:
        SourceError: the file is gone, locked or damaged.
    """
    with translated(database.name):
        found: T = await database.execute_fn(function)
        return found


def actor_id(request: Request) -> str | None:
    """Return the id of who is asking, as text, or None."""
    found: Any = (request.actor or {}).get("id")
    return None if found is None else str(found)
