"""New choices: the models, the databases and the names there are for a new collection.

Layer 11: imports ``access``, ``budgets``, ``compat``, ``database``, ``errors``, ``model_names``,
``models`` and ``registry``. Only what the actor may use is a choice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from ... import access, budgets, compat
from ...amounts import price_text
from ...database import sqlite3
from ...errors import CollectionNotFoundError, EmbedError, HiddenCollectionError, MissingKeyError
from ...model_names import default_model
from ...models import EmbeddingModel
from ...registry import Registry, get_registry
from ..descriptions import collection_url, database_url
from ..http import RequestError
from ..lookup import cannot_create, read
from ..wishes import tables_and_views

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

_MOST_NAMES = 1_000
#: Types of columns that hold text; one without a type holds anything.
_TEXT_TYPES = ("char", "text", "clob", "json", "string")


@dataclass(frozen=True)
class ModelChoice:
    """A model that may be chosen, or the reason why not."""

    id: str
    label: str
    reads_images: bool
    reason: str = ""


@dataclass(frozen=True)
class Models:
    """The models that the actor may use.

    Attributes:
        default: the id of the one to use where nobody says; empty where there is none.
        unusable: those that could be used if somebody did something about it.
    """

    default: str
    usable: tuple[ModelChoice, ...]
    unusable: tuple[ModelChoice, ...]


@dataclass(frozen=True)
class Table:
    """A table or view whose rows may be embedded; ``columns`` are those that may hold text."""

    name: str
    url: str
    new_url: str
    columns: tuple[str, ...]


async def list_models(request: Request, datasette: Datasette) -> Models:
    """Return the models to choose from; closed ones are not among them."""
    registry = await asyncio.to_thread(get_registry, datasette)
    usable, unusable = [], []
    for entry in registry.list_models():
        model = entry.model
        if not await access.may_use_model(datasette, request.actor, model.model_id):
            continue
        reason = await asyncio.to_thread(why_no_key, datasette, model)
        choice = ModelChoice(model.model_id, _label(model), model.supports_binary)
        if reason is None:
            usable.append(choice)
        else:
            unusable.append(replace(choice, reason=reason))
    default = await asyncio.to_thread(_default, registry)
    if default not in [choice.id for choice in usable]:
        default = usable[0].id if usable else ""
    return Models(default, tuple(usable), tuple(unusable))


def _default(registry: Registry) -> str:
    try:
        return default_model(registry).model_id
    except EmbedError:
        return ""


def why_no_key(datasette: Datasette, model: EmbeddingModel) -> str | None:
    """Return why there is no API key for a model, None if there is one or it needs none."""
    try:
        model.get_key(budgets.key_for(datasette, model))
    except MissingKeyError as error:
        return str(error)
    except EmbedError:
        return f"The key of the model {model.model_id} cannot be read: the server's log says why"
    return None


def _label(model: EmbeddingModel) -> str:
    where = "runs on this server" if model.is_local else "runs at its provider"
    price = model.price_per_million_tokens
    if price:
        cost = price_text(price)
    else:
        cost = "free" if model.is_local or price == 0 else "price not known"
    takes = ", reads images too" if model.supports_binary else ""
    takes = takes if model.supports_text else ", reads images only"
    size = f", {model.dimensions:,} numbers a row" if model.dimensions else ""
    return f"{model.model_id} – {where}, {cost}{size}{takes}"


async def list_targets(request: Request, datasette: Datasette, database: Database) -> list[str]:
    """Return the databases that may take the vectors, the one with the rows first.

    Raises:
        Forbidden: there is none where the actor may make a collection.
        RequestError: those cannot be written to.
    """
    others = [db for name, db in datasette.databases.items() if name not in (database.name,)]
    allowed = [
        db
        for db in (database, *others)
        if db.name != "_internal" and await access.may_create(datasette, request.actor, db.name)
    ]
    if not allowed:
        raise cannot_create(database.name)
    targets = [db.name for db in allowed if db.is_mutable and db.path and not db.is_memory]
    if not targets:
        raise RequestError(
            f"The database '{database.name}' cannot be written to, and there is no other one for "
            "the vectors",
            403,
        )
    return targets


async def free_name(request: Request, datasette: Datasette, database: str, wanted: str) -> str:
    """Return a name that no collection of a database has: the one wanted, or with a number."""
    for number in range(1, _MOST_NAMES):
        name = wanted if number == 1 else f"{wanted}-{number}"
        try:
            await access.get_visible_collection(datasette, request.actor, database, name)
        except CollectionNotFoundError:
            return name
        except HiddenCollectionError:
            continue
    return ""


async def made_of(
    request: Request, datasette: Datasette, database: str, table: str
) -> list[dict[str, str]]:
    """Return name and address of the collections of a table that the actor may see."""
    records = await access.visible_collections(datasette, request.actor, database)
    return [
        {"name": record.name, "url": collection_url(datasette, database, record.name)}
        for record in records
        if record.source and record.source.get("table") == table
    ]


async def list_tables(request: Request, datasette: Datasette, database: Database) -> list[Table]:
    """Return the tables and views whose rows the actor may see, those with text first."""
    hidden = set(await database.hidden_table_names())
    tables = []
    for name, columns in await read(database, _texts_of_tables):
        if name in hidden or not await compat.may_view_table(
            datasette, request.actor, database.name, name
        ):
            continue
        url = datasette.urls.table(database.name, name)
        new_url = f"{database_url(datasette, database.name, '/new')}?{urlencode({'table': name})}"
        tables.append(Table(name, url, new_url, columns))
    return sorted(tables, key=lambda table: not table.columns)


def _texts_of_tables(conn: sqlite3.Connection) -> list[tuple[str, tuple[str, ...]]]:
    """Return tables and views with their columns that may hold text; without broken views."""
    found = []
    for table in tables_and_views(conn):
        try:
            rows = conn.execute("select name, type from pragma_table_info(?)", (table,)).fetchall()
        except sqlite3.Error:
            continue
        texts = [
            name for name, kind in rows if not kind or any(t in kind.lower() for t in _TEXT_TYPES)
        ]
        found.append((table, tuple(texts)))
    return found
