"""Image rows: the rows of a source whose content is an image.

Layer 6: imports ``database``, ``errors``, ``image_types``, ``image_values``, ``records`` and
``source_specs``. What of a table is read, and what becomes of it; the paging is that of every
source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .database import quoted
from .errors import SourceError
from .image_types import MOST_IMAGE_BYTES
from .image_values import ImageError, ReadImage, image_of, not_followed, refuse_large
from .records import Row
from .source_specs import SourceSpec


@dataclass(frozen=True)
class ImageRows:
    """How the rows of a column of images are read.

    Attributes:
        column: its name.
        path: the file of the table, named in errors.
        image_from: what the texts in it are.
        read_image: reads what they stand for; None where nothing may be read but the file.
    """

    column: str
    path: str
    image_from: str | None
    read_image: ReadImage | None

    @classmethod
    def of(cls, spec: SourceSpec, path: str, read_image: ReadImage | None) -> ImageRows | None:
        """Return how a source reads images; None for one of texts.

        Raises:
            SourceError: it says both.
        """
        if spec.image is None:
            return None
        if spec.template or spec.columns:
            raise SourceError(path, "a row is its image or its text, not both")
        return cls(spec.image, path, spec.image_from, read_image)

    @property
    def expressions(self) -> list[str]:
        """What to select of a row, for ``row``."""
        # Of a blob SQLite tells the length without reading it.
        column, size = quoted(self.column), f"length({quoted(self.column)})"
        return [f"case when {size} <= {MOST_IMAGE_BYTES} then {column} end", size]

    def row(self, entry_id: str, value: Any, size: int | None) -> Row:
        """Return a row with the bytes of its image, or why there are none.

        Raises:
            SourceError: nothing may be read but the file, and the images are not in it.
        """
        if self.image_from and self.read_image is None:
            raise SourceError(self.path, not_followed(self.image_from))
        try:
            refuse_large(size or 0)
            return Row(entry_id, image_of(value, self.read_image))
        except ImageError as error:
            return Row(entry_id, b"", str(error))
