"""Image search page: the rows of a collection nearest to an image that somebody sends.

Layer 11: imports ``errors`` and ``models``. The same page as that of a search by words,
without an address of its own: what was sent is nowhere kept.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from datasette import Response

from ...errors import EmbedError
from ...models import EmbeddingModel
from ..forms import refuse_other_site
from ..http import RequestError, require_method
from ..results import Searched
from ..results_api import searched_of
from ..thumbnails import copy_of
from ..uploads import Upload, is_upload, uploaded_image
from .frame import Page, html_view
from .result_rows import question_context, rows_context
from .search_page import search_context, url_of, with_problem

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

#: Longest address of a query that is linked: some servers in front of Datasette read no more.
_MOST_URL_CHARACTERS = 8_000
#: Characters of a vector that are shown.
_SHOWN_CHARACTERS = 60


@html_view
async def image_search_page(request: Request, datasette: Datasette) -> Page | Response:
    """Return the rows nearest to the image in the form."""
    if not is_upload(request.scope):
        # Nothing else can be sent to this page.
        require_method(request, "GET", "HEAD")
    require_method(request, "POST")
    searched = await searched_of(request, datasette)
    refuse_other_site(request)
    context = await search_context(searched)
    try:
        context |= await _found(searched, context["collection"]["entries"])
    except EmbedError as error:
        context["is_about_image"] = True
        return await with_problem(searched, "embed_search.html", context, error)
    return Page("embed_search.html", context)


def _refuse_texts_only(model: EmbeddingModel) -> None:
    """Refuse an image where the model takes none.

    Raises:
        RequestError: it takes none.
    """
    if not model.supports_binary:
        raise RequestError(f"{model.model_id}: reads texts only, so search in words")


async def _found(searched: Searched, entries: int) -> dict[str, Any]:
    upload = await uploaded_image(searched.request, searched.datasette)
    question = searched.question(number=upload.number)
    _refuse_texts_only(await searched.model())
    blob = await searched.embedded(upload.data)
    result = await searched.nearest_to_vector(blob, question)
    found = await rows_context(searched, result, question, entries=entries, url="")
    vector = result.query.params["vector"]
    shown = vector if len(vector) <= _SHOWN_CHARACTERS else f"{vector[:_SHOWN_CHARACTERS]}…"
    if len(found["sql_url"] or "") > _MOST_URL_CHARACTERS:
        found |= {"sql_url": None, "sql_note": "Its vector is too long for a link to the SQL."}
    return {
        **found,
        **question_context(searched, question),
        "sql_params": {**result.query.params, "vector": shown},
        # There is no address under which a program would get the same.
        "json_url": None,
        "csv_url": None,
        "image_name": upload.name or "the image",
        "sent_image": await _sent_image(upload),
        "image_api": f"{url_of(searched)}/similar.json",
        "has_searched": True,
    }


async def _sent_image(upload: Upload) -> str | None:
    """Return a small copy of what was sent as an address that holds it; nothing is kept."""
    picture = await copy_of(upload.data)
    if picture is None:
        return None
    return f"data:{picture.media_type};base64,{b64encode(picture.data).decode('ascii')}"
