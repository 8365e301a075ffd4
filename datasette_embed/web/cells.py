"""Cells: how a vector is shown in a table.

Layer 10.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasette.app import Datasette


def render_vector(
    datasette: Datasette, database: str, table: str | None, column: str, value: Any
) -> Awaitable[str | None] | None:
    """Return what to show in the place of a vector; None for anything else."""
    return None
