"""Template functions: the rows nearest to a text or a row, for templates of a site.

Layer 11: imports nothing yet. A template calls them with ``await``, as Datasette's templates do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


def template_functions(datasette: Datasette, request: Request) -> dict[str, Any]:
    """Return the functions by name."""
    return {}
