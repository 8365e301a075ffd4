"""Search page: the rows of a collection nearest to a text, in plain words.

Layer 11: imports ``records`` and ``sources``. The rows are those of the query that the page links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import compat, server
from ...models import Kind, is_blank
from ...sources import SourceSpec
from ..descriptions import collection_url
from ..lookup import collection_of, database_of, find_model, read
from ..result_sql import Rows, nearest_to_text
from .frame import Page, html_view
from .heading import heading

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


@html_view
async def search_page(request: Request, datasette: Datasette) -> Page:
    database = await database_of(request, datasette)
    record = await collection_of(request, datasette, database)
    q = request.args.get("q") or ""
    context = await heading(request, datasette, database, record, "")
    context |= {"q": q, "n": 10, "rows": [], "sql": None}
    if not is_blank(q):
        spec = SourceSpec.from_json(record.source or {})
        rows = await read(database, lambda conn: Rows.of(conn, spec))
        model = await find_model(datasette, record.model_id)
        record.check_current(model)
        await server.embed_for(datasette, request, model, [q], kind=Kind.QUERY)
        query = nearest_to_text(record, rows, q, 10)
        found = await database.execute(query.sql, query.params)
        context |= {
            "columns": found.columns,
            "rows": found.rows,
            "sql": query.sql,
            "sql_url": compat.sql_url(datasette, database.name, query.sql, query.params),
        }
    twin = collection_url(datasette, database.name, record.name, ".json")
    return Page("embed_search.html", context, twin=twin)
