"""Nothing: the answer at an address below ours that is none.

Layer 11: imports nothing of ours. Datasette would take it for a row of a table named ``-``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .http import Answer, RequestError, json_view

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


@json_view
async def nothing_view(request: Request, datasette: Datasette) -> Answer:
    """Say that there is nothing here, to whoever asks."""
    raise RequestError(
        "There is nothing at this address. /-/embed.json lists the collections of this site and "
        "their addresses, /-/embed/models its models",
        404,
    )
