"""Search API: ``…/similar.json``, the entries nearest to a text, an image, an id or a vector.

Layer 11: imports ``errors``, ``records``, ``server``, ``sources``, ``store`` and ``vectors``. Which
entries are nearest is found by ``searching``, and who may ask in ``lookup``.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasette.utils import tilde_encode

from .. import compat, server
from ..database import sqlite3
from ..errors import DimensionMismatchError, InvalidVectorError, SourceError
from ..models import Item, Kind, is_blank
from ..records import CollectionRecord
from ..sources import SourceSpec
from ..store import Store
from ..vectors import encode
from .fields import Fields
from .http import Answer, RequestError, json_view, read_json, require_method
from .lookup import collection_of, database_of, find_model, read
from .searching import find_entry, nearest_in
from .uploads import FIELD, image_of_json, most_bytes_of_json

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

DEFAULT_NUMBER = 10
MOST_NUMBER = 1_000
#: Content and metadata of an entry that has been deleted since it was found.
_NOTHING = (None, None)
_FIELDS = ("q", "id", "vector", "image", "number", "prefix", "min_score")


@dataclass(frozen=True)
class Question:
    """What to look for. One of ``content``, ``entry_id`` and ``blob`` is not None."""

    content: Item | None
    entry_id: str | None
    blob: bytes | None
    number: int
    prefix: str
    min_score: float | None


@json_view
async def similar_view(request: Request, datasette: Datasette) -> Answer:
    """Return the nearest entries, best first."""
    require_method(request, "GET", "POST")
    database = await database_of(request, datasette)
    record = await collection_of(request, datasette, database)
    question = await _question(request, datasette)
    entry_id = question.entry_id
    if entry_id is not None:
        entry_id, blob = await find_entry(
            database, record, entry_id, is_of_url=request.method == "GET"
        )
    else:
        blob = await _query_blob(request, datasette, record, question)
    try:
        found = await nearest_in(
            datasette,
            database.name,
            record,
            blob,
            question.number,
            without=entry_id,
            prefix=question.prefix,
        )
    except (DimensionMismatchError, InvalidVectorError) as error:
        if question.blob is None:
            raise
        raise RequestError(_about_vector(error)) from error
    hits = [
        hit for hit in found.hits if question.min_score is None or hit.score >= question.min_score
    ]
    ids = [hit.entry_id for hit in hits]
    details = await read(database, lambda conn: Store(conn).find_details(record.id, ids))
    urls = await row_urls(request, datasette, database, record, ids)
    return {
        "database": database.name,
        "collection": record.name,
        "model": record.model_id,
        "rows": [
            {
                "id": hit.entry_id,
                "score": hit.score,
                "content": details.get(hit.entry_id, _NOTHING)[0],
                "metadata": details.get(hit.entry_id, _NOTHING)[1],
                "url": urls.get(hit.entry_id),
            }
            for hit in hits
        ],
        "unusable": found.unusable,
    }


async def _question(request: Request, datasette: Datasette) -> Question:
    if request.method == "POST":
        long_field = (FIELD, most_bytes_of_json(datasette))
        fields = Fields(await read_json(request, datasette, long_field=long_field))
        fields.refuse_others(*_FIELDS)
    else:
        fields = Fields.of_query(request, *_FIELDS)
        for name in ("vector", "image"):
            if name in fields.values:
                raise RequestError(f"Send '{name}' with POST: it is too long for a URL")
    names = ("q", "id", "vector", "image")
    given = [name for name in names if fields.values.get(name) is not None]
    if len(given) != 1:
        raise RequestError("Give one of 'q' (a text), 'id' (an entry), 'vector' and 'image'")
    text = fields.text("q")
    if text is not None and is_blank(text):
        raise RequestError("'q' must not be blank")
    return Question(
        image_of_json(fields.values["image"]) if given == ["image"] else text,
        fields.text("id"),
        _blob_of(fields.values["vector"]) if given == ["vector"] else None,
        fields.integer("number", DEFAULT_NUMBER, most=MOST_NUMBER),
        fields.text("prefix") or "",
        fields.number("min_score"),
    )


def _blob_of(value: Any) -> bytes:
    """Return the blob of a vector that came as a list of numbers or as base64."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RequestError("'vector' must be a list of numbers, or base64") from error
    if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
        raise RequestError("'vector' must be a list of numbers, or base64")
    try:
        return encode([float(item) for item in value])
    except (InvalidVectorError, OverflowError) as error:
        raise RequestError(f"'vector': {error}") from error


def _about_vector(error: DimensionMismatchError | InvalidVectorError) -> str:
    if isinstance(error, InvalidVectorError):
        return f"'vector': {error}"
    return f"'vector' has {error.actual} dimensions, those of the collection have {error.expected}"


async def _query_blob(
    request: Request, datasette: Datasette, record: CollectionRecord, question: Question
) -> bytes:
    if question.blob is not None:
        return question.blob
    model = await find_model(datasette, record.model_id)
    record.check_current(model)
    (blob,) = await server.embed_for(
        datasette, request, model, [question.content or ""], kind=Kind.QUERY
    )
    return blob


async def row_urls(
    request: Request,
    datasette: Datasette,
    database: Database,
    record: CollectionRecord,
    entry_ids: list[str],
) -> dict[str, str]:
    """Return the page of each entry's row, where it is known and the actor may view it."""
    try:
        spec = SourceSpec.from_json(record.source or {})
    except SourceError:
        return {}
    table = spec.table
    if not table or spec.id_columns or not entry_ids:
        return {}
    home = await _home_of(datasette, database, table) if spec.is_elsewhere else database.name
    if home is None or not await compat.may_view_table(datasette, request.actor, home, table):
        return {}
    keys = await read(datasette.get_database(home), lambda conn: _find_primary_key(conn, table))
    if keys is None:
        return {}
    # Several columns make an id that is written as in the URL already.
    return {
        entry_id: datasette.urls.row(
            home, table, entry_id if len(keys) > 1 else tilde_encode(entry_id)
        )
        for entry_id in entry_ids
    }


async def _home_of(datasette: Datasette, database: Database, table: str) -> str | None:
    """Return the other database that has this table, if it is the only one.

    Which file the rows are in, nobody has written down.
    """
    found = [
        other.name
        for other in list(datasette.databases.values())
        if other is not database and await other.table_exists(table)
    ]
    return found[0] if len(found) == 1 else None


def _find_primary_key(conn: sqlite3.Connection, table: str) -> list[str] | None:
    """Return the columns of a table's primary key; None where its rows have no page."""
    found = conn.execute(
        "select 1 from sqlite_master where type = 'table' and name = ?", (table,)
    ).fetchone()
    if found is None:
        return None
    columns = dict(conn.execute("select name, pk from pragma_table_info(?)", (table,)).fetchall())
    keys = [name for name, place in columns.items() if place]
    # Datasette finds a row without a key by what is called rowid.
    return None if not keys and "rowid" in map(str.lower, columns) else keys
