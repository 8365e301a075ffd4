"""Column types: ``embedding``, for columns of vectors in Datasette 1.0.

Layer 11: imports ``vectors`` and ``cells``. Whoever gives a column this type declares that its
blobs are vectors: pages then show what they are, JSON has their numbers, and what is no
vector is refused when rows are written.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from .. import vectors
from .cells import vector_text

#: In the column's config: the length its vectors must have.
DIMENSIONS = "dimensions"


def column_types() -> list[Any]:
    """Return the column types of this package."""
    # Datasette 0.65 has no such module, and never calls this.
    from datasette.column_types import ColumnType, SQLiteType

    class EmbeddingColumnType(ColumnType):  # type: ignore[misc]
        """A vector: a BLOB of little-endian float32."""

        name = "embedding"
        description = "Embedding (vector of float32)"
        sqlite_types = (SQLiteType.BLOB,)

        async def render_cell(self, value: Any, **_: Any) -> str | None:
            numbers = find_numbers(value, self.config)
            return None if numbers is None else Markup.escape(vector_text(len(numbers)))

        async def transform_value(self, value: Any, datasette: Any) -> Any:
            numbers = find_numbers(value, self.config)
            return value if numbers is None else numbers

        async def validate(self, value: Any, datasette: Any) -> str | None:
            return refusal_of(value, self.config)

    return [EmbeddingColumnType]


def find_numbers(value: Any, config: dict[str, Any] | None) -> list[float] | None:
    """Return the numbers of a stored vector; None for what is none, or has none in JSON."""
    return None if value is None or refusal_of(value, config) else vectors.decode(value).tolist()


def refusal_of(value: Any, config: dict[str, Any] | None) -> str | None:
    """Return why a value is no vector of a column, or None; NULL stands for no vector."""
    if value is None:
        return None
    if not isinstance(value, bytes):
        return 'a vector is a BLOB of float32, in JSON {"$base64": true, "encoded": "…"}'
    if not value or len(value) % vectors.ITEM_SIZE:
        return f"{len(value)} bytes are no vector: float32 takes {vectors.ITEM_SIZE} bytes a number"
    wanted, given = (config or {}).get(DIMENSIONS), len(value) // vectors.ITEM_SIZE
    if wanted is not None and wanted != given:
        return f"the vector has {given} dimensions, this column holds {wanted}"
    if not vectors.blob_is_usable(value):
        return "the vector is zero, or has NaN or infinity in it"
    return None
