"""Search page: the rows of a collection nearest to a text, in plain words.

Layer 11: imports ``access`` and ``errors``. The rows are those of the query that the page links.
What goes wrong is said below the form, which keeps what was typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from datasette import Response

from ... import access
from ...amounts import size_text
from ...errors import EmbedError, ModelNotAllowedError
from ...models import EmbeddingModel
from ...settings import get_settings
from ..descriptions import collection_url
from ..http import describe_error, require_method
from ..lookup import collection_of, database_of
from ..results import NEWEST, Question, Result, Searched
from ..weak_matches import find_usual
from .frame import Page, html_view, render
from .heading import heading
from .result_rows import (
    linked_columns,
    query_end,
    question_context,
    rows_context,
)

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

#: Searches that are offered.
SAMPLES = 3
_SAMPLE_CHARACTERS = 80


@html_view
async def search_page(request: Request, datasette: Datasette) -> Page | Response:
    """Return the rows nearest to the words ``q``, or the newest and how to search."""
    require_method(request, "GET", "HEAD")
    database = await database_of(request, datasette)
    record = await collection_of(request, datasette, database)
    searched = await Searched.of(request, datasette, database, record)
    context = await search_context(searched)
    words_off = context["words_off"]
    is_asked = "q" in request.args
    try:
        question = searched.question()
        context |= question_context(searched, question)
        if is_asked and not words_off:
            context |= await _found(searched, question, context["collection"]["entries"])
        else:
            context |= await _newest(searched, context)
    except EmbedError as error:
        return await with_problem(searched, "embed_search.html", context, error)
    twin = f"{url_of(searched)}.json{query_end(request)}"
    status = 403 if is_asked and words_off else 200
    return Page("embed_search.html", context, status=status, twin=twin)


async def search_context(searched: Searched) -> dict[str, Any]:
    """Return what the page shows before anything is asked: who can search by what."""
    request, datasette = searched.request, searched.datasette
    context = await heading(request, datasette, searched.database, searched.record, "")
    model, why_not = await _usable_model(searched)
    words_off = why_not
    if model is not None and not model.supports_text:
        words_off = "Search by words is off: the model of this collection reads images only."
    kept = [(name, value) for name, value in parse_qsl(request.query_string) if name != "q"]
    return {
        **context,
        **question_context(searched, Question()),
        "q": request.args.get("q") or "",
        "words_off": words_off,
        "takes_images": model is not None and model.supports_binary,
        "has_cookie": "cookie" in request.headers,
        "image_action": f"{url_of(searched)}{'?' if kept else ''}{urlencode(kept)}",
        "most_bytes": size_text(get_settings(datasette).max_image_bytes),
    }


async def with_problem(
    searched: Searched, template: str, context: dict[str, Any], error: EmbedError
) -> Response:
    """Return a page that says what went wrong, and keeps what was typed."""
    status, message, headers = describe_error(searched.request, searched.datasette, error)
    page = Page(template, {**context, "problem": message}, status=status)
    response = await render(searched.request, searched.datasette, page)
    response.headers.update(headers)
    return response


async def _usable_model(searched: Searched) -> tuple[EmbeddingModel | None, str | None]:
    """Return the model that answers the actor, or why none does."""
    request, datasette = searched.request, searched.datasette
    try:
        model = await searched.model()
        if await access.may_use_model(datasette, request.actor, model.model_id):
            return model, None
        raise ModelNotAllowedError(model.model_id)
    except EmbedError as error:
        _, message, _ = describe_error(request, datasette, error)
    why_not = f"Search by words is off on this site; browse rows like one another. {message}"
    return None, why_not


async def _found(searched: Searched, question: Question, entries: int) -> dict[str, Any]:
    text = searched.text()
    blob = await searched.embedded(text)
    result = await searched.nearest_to_text(text, question)
    found = await rows_context(searched, result, question, entries=entries, url=url_of(searched))
    # Words and images are never as near each other as two images are.
    weak = None if found["is_of_images"] else await _weak(searched, blob, result)
    return {**found, "has_searched": True, "weak": weak}


async def _weak(searched: Searched, blob: bytes, result: Result) -> dict[str, str] | None:
    """Return the scores that show that nothing is near; None where something is."""
    if not result.rows:
        return None
    usual = await find_usual(searched.datasette, searched.database, searched.record)
    best = float(result.rows[0][0])
    if usual is None or not usual.is_weak(blob, best):
        return None
    return {"best": f"{best:.2f}", "usual": f"{usual.best:.2f}"}


async def _newest(searched: Searched, context: dict[str, Any]) -> dict[str, Any]:
    question, entries = searched.question(NEWEST), context["collection"]["entries"]
    result = await searched.newest(question)
    samples: list[dict[str, str]] = []
    if not context["words_off"] and not question.filters:
        samples = await _samples(searched, entries)
    return {
        **await rows_context(
            searched, result, question, entries=entries, url=url_of(searched), has_scores=False
        ),
        "samples": samples,
    }


async def _samples(searched: Searched, entries: int) -> list[dict[str, str]]:
    """Return searches for the labels of rows from everywhere in the collection."""
    column = (await linked_columns(searched))[0]
    places = sorted({entries * n // (SAMPLES + 1) for n in range(1, SAMPLES + 1)})
    texts = await searched.texts_at(column, places) if entries else []
    searches = dict.fromkeys(text[:_SAMPLE_CHARACTERS].strip() for text in texts)
    base = url_of(searched)
    return [{"text": text, "url": f"{base}?{urlencode({'q': text})}"} for text in searches]


def url_of(searched: Searched) -> str:
    """Return the address of the page."""
    return collection_url(searched.datasette, searched.database.name, searched.record.name)
