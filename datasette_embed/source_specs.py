"""What a collection is made of, as it is stored with the collection.

Layer 4: imports ``errors``, ``image_values`` and ``records``. Nothing is opened or
read here; that is ``sources``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import SourceError
from .image_values import ImageFrom
from .records import is_storable


@dataclass(frozen=True)
class SourceSpec:
    """What a collection is made of, as it is stored with the collection.

    Exactly one of ``table`` (a table or a view) and ``sql`` is given.

    Attributes:
        columns: the columns that make up the content; empty: all but the ids.
        template: text with ``{{ column }}`` in it, instead of columns.
        where: an SQL condition on the table.
        filters: the query string of a table page that ``where`` was made of, if it was.
        id_columns: the columns that name a row, where that is not the primary key.
        is_elsewhere: whether the rows live in another file than the vectors.
        image: the column of the images that are embedded, instead of texts.
        image_from: what the texts in it are (``ImageFrom``); None: it holds the images.
    """

    table: str | None = None
    sql: str | None = None
    columns: tuple[str, ...] = ()
    template: str | None = None
    where: str | None = None
    filters: str | None = None
    id_columns: tuple[str, ...] = ()
    is_elsewhere: bool = False
    image: str | None = None
    image_from: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object without the fields that are empty."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if value
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> SourceSpec:
        """Read what ``to_json`` wrote; unknown fields of a later version are refused.

        Raises:
            SourceError: the stored definition is not one.
        """
        fields: dict[str, Any] = {}
        for name, value in stored.items():
            default = getattr(cls, name, None) if name in cls.__dataclass_fields__ else ...
            expected = str if default is None else list if default == () else type(default)
            text = "".join(map(str, value)) if isinstance(value, list) else str(value)
            if not isinstance(value, expected) or not is_storable(text):
                raise SourceError(
                    "the collection's source", f"cannot be read: {name!r} is not what it should be"
                )
            fields[name] = tuple(map(str, value)) if isinstance(value, list) else value
        if fields.get("image_from") not in (None, *ImageFrom):
            raise SourceError(
                "the collection's source", "cannot be read: 'image_from' is not what it should be"
            )
        return cls(**fields)

    @property
    def name(self) -> str:
        """What to call the source in a sentence."""
        return f"'{self.table}'" if self.table else "the query"

    def __str__(self) -> str:
        if self.sql:
            return f"query: {self.sql}"
        what = self.template or ", ".join(self.columns)
        if self.image:
            kinds = {"files": "files of images", "urls": "addresses of images"}
            what = f"{kinds.get(self.image_from or '', 'images')} in {self.image}"
        where = f" where {self.where}" if self.where else ""
        return f"table {self.table}{where}: {what}"
