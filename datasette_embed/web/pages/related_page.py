"""Related page: one row of a collection, and the rows nearest to it.

Layer 11: imports ``errors`` and ``failure_records``. The rows are those of the query that the
page links. No model is asked, so it works where its model is not installed, and for everybody
who may see the rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datasette import Response

from ...errors import EmbedError
from ...failure_records import FailureRecords
from ..http import require_method
from ..lookup import read
from ..results import Question, Searched
from ..results_api import searched_of
from .frame import Page, html_view
from .heading import heading
from .result_rows import Line, lines_of, linked_columns, query_end, question_context, rows_context
from .search_page import with_problem

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

#: Characters of a row's label in the headings.
_LABEL_CHARACTERS = 100


@html_view
async def related_page(request: Request, datasette: Datasette) -> Page | Response:
    """Return a row and those like it, or why it has none."""
    require_method(request, "GET", "HEAD")
    searched = await searched_of(request, datasette)
    entry_id = searched.entry_id_in_url()
    row = await searched.find_row(entry_id)
    is_embedded = await searched.has_entry(entry_id)
    if row is None and not is_embedded:
        raise searched.not_found(entry_id)
    database = searched.database
    context = await heading(request, datasette, database, searched.record, None)
    lines = await lines_of(searched, row, has_scores=False) if row else []
    context |= {
        "label": await _label(searched, lines) or entry_id,
        "row_url": lines[0].url if lines else None,
        "row_columns": row.columns if row else (),
        "row_lines": [_alone(line) for line in lines],
        "is_embedded": is_embedded,
        "may_update": bool(context["urls_to_change"]) and database.is_mutable,
        "this_url": searched.like_url(entry_id),
    }
    context |= question_context(searched, Question())
    if not is_embedded:
        context["failure"] = await read(
            database,
            lambda conn: FailureRecords(conn).find_reason(searched.record.id, entry_id),
        )
        return Page("embed_related.html", context)
    try:
        context |= await _related(searched, entry_id, context)
    except EmbedError as error:
        return await with_problem(searched, "embed_related.html", context, error)
    twin = searched.like_url(entry_id, f".json{query_end(request)}")
    return Page("embed_related.html", context, twin=twin)


async def _related(searched: Searched, entry_id: str, context: dict[str, Any]) -> dict[str, Any]:
    question = searched.question()
    searched.record.check_not_rebuilding()
    result = await searched.nearest_to_entry(entry_id, question)
    others = context["collection"]["entries"] - 1
    url = searched.like_url(entry_id)
    return {
        **question_context(searched, question),
        **await rows_context(searched, result, question, entries=others, url=url),
        "has_searched": True,
    }


async def _label(searched: Searched, lines: list[Line]) -> str:
    """Return what the row is called, in short."""
    if not lines:
        return ""
    texts = {cell.column: cell.text for cell in lines[0].cells}
    found = (texts.get(name, "").strip() for name in await linked_columns(searched))
    return next((text[:_LABEL_CHARACTERS] for text in found if text), "")


def _alone(line: Line) -> Line:
    """Return the row without the link to the page that shows it."""
    return replace(line, like_url=None)
