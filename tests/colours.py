"""Pictures of colours, and a model that knows them: words and pictures of one colour are near."""

from __future__ import annotations

import re
import zlib
from contextlib import closing
from pathlib import Path

from datasette_embed.database import sqlite3
from datasette_embed.errors import UnreadableTextError
from datasette_embed.models import EmbeddingModel, Item, Kind
from tests.images import png

COLOURS = {
    "red": (210, 40, 40),
    "orange": (235, 140, 30),
    "yellow": (240, 220, 60),
    "green": (40, 160, 60),
    "blue": (40, 80, 200),
    "purple": (130, 50, 170),
}
#: Width and height, upright and lying.
SHAPES = [(640, 480), (300, 500), (40, 40), (900, 200)]


class ColourModel(EmbeddingModel):
    """Reads names of colours, and the PNGs of ``tests.images``."""

    model_id = "colours"
    dimensions = 4
    supports_binary = True
    is_local = True
    counts_exactly = True

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> list[list[float]]:
        return [[*(part - 100.0 for part in self._colour(item)), 40.0] for item in items]

    def _colour(self, item: Item) -> tuple[float, ...]:
        if isinstance(item, bytes):
            start = item.find(b"IDAT")
            if start < 0:
                raise UnreadableTextError(self.model_id, "cannot read this image")
            line = zlib.decompressobj().decompress(item[start + 4 :], 4)
            return tuple(line[1:4])
        names = [name for name in re.findall(r"[a-z]+", item.lower()) if name in COLOURS]
        return COLOURS[names[0]] if names else (100.0, 100.0, 100.0)


def make_pictures(path: Path) -> Path:
    """Write a table ``photos`` with a picture of each colour and shape, and what is none."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("create table photos (id integer primary key, title text, photo blob)")
        rows = [
            (f"{name.title()}, {width} by {height}", png(*colour, width=width, height=height))
            for name, colour in COLOURS.items()
            for width, height in SHAPES
        ]
        rows += [("Not a picture", b"<svg></svg>"), ("Nothing", None)]
        conn.executemany("insert into photos (title, photo) values (?, ?)", rows)
    return path
