"""Table filters: ``?_similar=`` and ``?_similar_to=`` on the page of a table.

Layer 10.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


def similar_filter(
    datasette: Datasette, request: Request, database: str, table: str
) -> Awaitable[Any] | None:
    """Return the condition that leaves the rows most similar to a text or a row."""
    return None
