"""Wishes: the fields that say what collection to make, checked for who asks.

Layer 11: imports ``access``, ``collection_setup``, ``compat``, ``errors``, ``models``,
``opened_sources``, ``records`` and ``sources``. The API and the page of a new collection ask
the same here; what becomes of a wish is in ``making_api``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datasette import Forbidden

from .. import access, compat
from ..collection_setup import OtherSourceError
from ..database import quoted, sqlite3, translated
from ..errors import CollectionNotFoundError, SourceError
from ..models import EmbeddingModel
from ..opened_sources import chosen_source
from ..records import CollectionRecord
from ..schema_sql import OUR_TABLES
from ..sources import SourceSpec
from .fields import FieldError, Fields
from .filter_conditions import condition_of
from .http import RequestError, status_of
from .lookup import read, require_create, require_sql, usable_model

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

FIELDS = (
    "table",
    "sql",
    "columns",
    "template",
    "image",
    "where",
    "filters",
    "id_columns",
    "collection",
    "model",
    "store",
    "into",
)
#: How messages name an option of the command line -> the field that is the same.
_OPTIONS = {"--columns": "columns", "--collection": "collection", "--id": "id_columns"}


@dataclass(frozen=True)
class Wish:
    """A collection that somebody may make.

    Attributes:
        database: Datasette's name of the database that the vectors go to.
        rows_database: that of the database with the rows, if it is another one.
        existing: the collection of this name, if there is one.
    """

    database: str
    name: str
    spec: SourceSpec
    model: EmbeddingModel
    store: bool
    rows_database: str | None
    existing: CollectionRecord | None


@contextmanager
def about_fields(spec: SourceSpec, collection: str) -> Iterator[None]:
    """Say what is wrong with a wish in terms of its fields, not of the command line.

    Raises:
        FieldError: naming the field.
    """
    try:
        yield
    except OtherSourceError as error:
        raise FieldError(
            "collection",
            f"'{collection}' was made from something else. Choose another name, or delete that "
            "collection first",
        ) from error
    except SourceError as error:
        if status_of(error) != 400:
            raise
        reason, field = error.reason, "sql" if spec.sql else "table"
        if error.column is not None:
            images = (spec.image,) if spec.image else ()
            lists = {"columns": spec.columns, "image": images, "id_columns": spec.id_columns}
            fields = [name for name, columns in lists.items() if error.column in columns]
            field = fields[0] if fields else "template"
        elif error.source == "--where":
            field = "where"
        elif spec.template and reason.startswith("the template"):
            field = "template"
        elif reason.startswith("the ids are not unique"):
            field = "id_columns"
        for option, name in _OPTIONS.items():
            reason = reason.replace(f" {option}", f" '{name}'")
        reason = reason.removesuffix(f" with '{field}'")
        raise FieldError(field, reason) from error


async def wish_of(
    request: Request, datasette: Datasette, database: Database, fields: Fields
) -> Wish:
    """Return what the fields ask to make of rows of a database, if the actor may make it.

    Raises:
        Forbidden: the actor may not.
        RequestError: a field is wrong.
        EmbedError: the model, or a collection of this name, is not for the actor.
    """
    target = await _target(request, datasette, database, fields)
    await require_create(request, datasette, target.name)
    name, spec = _source(fields, is_elsewhere=target is not database)
    store = fields.flag("store")
    await require_rows(request, datasette, database, spec)
    spec = await filtered(database, spec)
    existing = await _existing(request, datasette, target, name)
    model_name = fields.name("model") or (existing.model_id if existing else None)
    model = await usable_model(request, datasette, model_name)
    _refuse_other_content(model, spec)
    return Wish(
        target.name,
        name,
        spec,
        model,
        store,
        None if target is database else database.name,
        existing,
    )


def _refuse_other_content(model: EmbeddingModel, spec: SourceSpec) -> None:
    """Refuse a model that does not take what the rows hold.

    Raises:
        FieldError: it takes the other kind only.
    """
    if spec.image and not model.supports_binary:
        reason = "reads texts only: choose one that reads images"
        raise FieldError("model", f"the model {model.model_id} {reason}")
    if not spec.image and not model.supports_text:
        reason = "reads images only: name their column, 'image'"
        raise FieldError("model", f"the model {model.model_id} {reason}")


async def _target(
    request: Request, datasette: Datasette, database: Database, fields: Fields
) -> Database:
    into = fields.name("into")
    if into is None or into == database.name:
        return database
    found = datasette.databases.get(into)
    # One answer, so that names of databases cannot be tried out.
    if found is None or not await compat.may_view_database(datasette, request.actor, into):
        raise RequestError(f"'into': there is no database '{into}' that you may view", 404)
    return found


def _source(fields: Fields, *, is_elsewhere: bool) -> tuple[str, SourceSpec]:
    try:
        name, spec = chosen_source(
            table=fields.name("table"),
            sql=fields.name("sql"),
            columns=fields.names("columns"),
            template=fields.name("template"),
            where=fields.name("where"),
            id_columns=fields.names("id_columns"),
            collection=fields.new_name("collection"),
            is_elsewhere=is_elsewhere,
            image=fields.name("image"),
            option="'{}'",
        )
        return name, replace(spec, filters=fields.name("filters"))
    except RequestError:
        raise
    except ValueError as error:
        message = str(error)
        raise RequestError(message[0].upper() + message[1:]) from error


async def filtered(database: Database, spec: SourceSpec) -> SourceSpec:
    """Return the rows with the condition that their filters stand for.

    Raises:
        FieldError: a filter names no column of the table, or does not exist.
    """
    if not spec.filters:
        return spec
    if not spec.table or spec.where:
        raise FieldError("filters", "goes with 'table', and without 'where'")
    columns = await columns_of(database, spec.table)
    try:
        where = condition_of(spec.filters, spec.table, columns)
    except ValueError as error:
        raise FieldError("filters", str(error)) from error
    return replace(spec, where=where)


async def columns_of(database: Database, table: str) -> list[str]:
    """Return the columns of a table or view.

    Raises:
        SourceError: they cannot be read: a view of a table that is gone, say.
    """

    def names(conn: sqlite3.Connection) -> list[str]:
        cursor = conn.execute(f"select * from {quoted(table)} limit 0")
        return [column[0] for column in cursor.description]

    return await read(database, names)


async def require_rows(
    request: Request, datasette: Datasette, database: Database, spec: SourceSpec
) -> None:
    """Refuse rows that the actor may not read, and SQL that they may not run.

    Raises:
        Forbidden: the actor may not.
        RequestError: there is no such table.
    """
    if spec.sql or spec.where:
        await require_sql(request, datasette, database.name)
    if not spec.table:
        return
    names = await read(database, tables_and_views)
    if spec.table not in names:
        visible = [
            name
            for name in names
            if await compat.may_view_table(datasette, request.actor, database.name, name)
        ]
        known = ", ".join(visible) or "none"
        raise RequestError(f"There is no table '{spec.table}'. Tables and views: {known}", 404)
    if not await compat.may_view_table(datasette, request.actor, database.name, spec.table):
        raise Forbidden(f"You may not view the table '{spec.table}' (view-table)")


def tables_and_views(conn: sqlite3.Connection) -> list[str]:
    """Return the names of what rows can be taken from."""
    rows = conn.execute(
        "select name from sqlite_master where type in ('table', 'view')"
        " and name not like 'sqlite\\_%' escape '\\' order by name"
    )
    return [row[0] for row in rows if row[0] not in OUR_TABLES]


async def _existing(
    request: Request, datasette: Datasette, database: Database, name: str
) -> CollectionRecord | None:
    """Return the collection of this name, if there is one.

    Raises:
        HiddenCollectionError: the actor may not view it.
    """
    try:
        with translated(database.name):
            return await access.get_visible_collection(
                datasette, request.actor, database.name, name
            )
    except CollectionNotFoundError:
        return None
