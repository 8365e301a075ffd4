"""Template functions: the rows nearest to a text or a row, for templates of a site.

Layer 11: imports ``access``, ``database``, ``errors``, ``models`` and ``redaction``. They are for
whoever asks for the page: what they may not see is not there, and what goes wrong is in the
log, not in place of the page.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .. import access
from ..database import translated
from ..errors import EmbedError, HiddenCollectionError
from ..models import is_blank
from ..redaction import redacted
from .http import RequestError
from .nearest_rows import nearest_to, nearest_to_words
from .results import Searched

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]

_MOST_ROWS = 100


def template_functions(datasette: Datasette, request: Request | None) -> dict[str, Any]:
    """Return the functions by name; templates call them without ``await``."""

    async def embed_similar(database: str, collection: str, text: Any, number: int = 5) -> Rows:
        """Return the rows nearest to a text; none for a blank one."""
        words = "" if text is None else str(text)
        if is_blank(words):
            return []
        return await _found(
            datasette,
            request,
            (database, collection),
            lambda searched: nearest_to_words(searched, words, _bounded(number)),
        )

    async def embed_similar_to(
        database: str, collection: str, entry_id: Any, number: int = 5
    ) -> Rows:
        """Return the rows nearest to the one of this key."""
        return await _found(
            datasette,
            request,
            (database, collection),
            lambda searched: nearest_to(searched, str(entry_id), _bounded(number)),
        )

    return {"embed_similar": embed_similar, "embed_similar_to": embed_similar_to}


async def _found(
    datasette: Datasette,
    request: Request | None,
    names: tuple[str, str],
    find: Callable[[Searched], Awaitable[Rows]],
) -> Rows:
    if request is None:
        return []  # a page that is made for nobody shows nothing that somebody may not see
    database, collection = names
    try:
        with translated(database):
            record = await access.get_visible_collection(
                datasette, request.actor, database, collection
            )
        searched = await Searched.of(request, datasette, datasette.get_database(database), record)
        return await find(searched)
    except HiddenCollectionError:
        return []
    except EmbedError as error:
        # At each view of the page: the template is wrong, or a provider is down.
        reason = redacted(str(error.detail))
        logger.warning("a template asked for rows of %s in %s: %s", collection, database, reason)
        return []
    except Exception:
        logger.exception("a template asked for rows of %s in %s", collection, database)
        return []


def _bounded(number: Any) -> int:
    """Return how many rows are asked for: at least one, and not as many as a reader likes."""
    try:
        return max(1, min(int(number), _MOST_ROWS))
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"the number of rows is no whole number: {number!r:.100}") from error
