"""Results API: the rows of a search, those like one, and the newest, as JSON and CSV.

Layer 11: imports ``compat``. The same rows as the pages of the same addresses show.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from typing import TYPE_CHECKING, Any

from datasette import Response

from .collections_api import about_collection
from .http import Answer, json_view, require_method
from .lookup import collection_of, database_of
from .results import NEWEST, Result, Searched

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


@json_view
async def collection_or_rows_view(request: Request, datasette: Datasette) -> Answer:
    """Return the rows nearest to the words ``q``, or the newest; what the collection is.

    The newest are asked for by their number ``n`` or by filters; without any parameter it is
    said what the collection is.
    """
    require_method(request, "GET", "HEAD")
    searched = await searched_of(request, datasette)
    asks_for_rows = "q" in request.args or "n" in request.args or searched.question().filters
    if asks_for_rows:
        return described(searched, await _found(searched))
    return await about_collection(request, datasette, searched.database, searched.record)


@json_view
async def rows_csv_view(request: Request, datasette: Datasette) -> Answer:
    """Return the rows nearest to the words ``q`` as CSV; without them, the newest."""
    require_method(request, "GET", "HEAD")
    return as_csv(await _found(await searched_of(request, datasette)))


@json_view
async def like_view(request: Request, datasette: Datasette) -> Answer:
    """Return the rows nearest to one of them, as JSON or CSV."""
    require_method(request, "GET", "HEAD")
    searched = await searched_of(request, datasette)
    question = searched.question()
    entry_id = searched.entry_id_in_url()
    if not await searched.has_entry(entry_id):
        raise searched.not_found(entry_id)
    searched.record.check_not_rebuilding()
    result = await searched.nearest_to_entry(entry_id, question)
    if request.url_vars["format"] == ".csv":
        return as_csv(result)
    return described(searched, result)


async def searched_of(request: Request, datasette: Datasette) -> Searched:
    """Return the collection of the path, if the actor may view it."""
    database = await database_of(request, datasette)
    record = await collection_of(request, datasette, database)
    return await Searched.of(request, datasette, database, record)


async def _found(searched: Searched) -> Result:
    if "q" not in searched.request.args:
        return await searched.newest(searched.question(NEWEST))
    question, text = searched.question(), searched.text()
    await searched.embedded(text)
    return await searched.nearest_to_text(text, question)


def described(searched: Searched, result: Result) -> dict[str, Any]:
    """Return rows as JSON, with the query that finds them."""
    return {
        "database": searched.database.name,
        "collection": searched.record.name,
        "model": searched.record.model_id,
        "columns": list(result.columns),
        "rows": [dict(zip(result.columns, map(_as_json, row), strict=True)) for row in result.rows],
        "urls": list(result.urls),
        "sql": result.query.sql,
        "params": dict(result.query.params),
        "next": None,
    }


def as_csv(result: Result) -> Response:
    """Return rows as CSV, which a browser shows as it is: Datasette does the same."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(result.columns)
    for row in result.rows:
        writer.writerow(["" if isinstance(value, bytes) else value for value in row])
    return Response.text(text.getvalue())


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):  # in Datasette's own form
        return {"$base64": True, "encoded": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no form for it; Datasette does the same
    return value
