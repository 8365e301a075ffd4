"""Column types: ``embedding``, for columns of vectors in Datasette 1.0.

Layer 10.
"""

from __future__ import annotations

from typing import Any


def column_types() -> list[Any]:
    """Return the column types of this package."""
    return []
