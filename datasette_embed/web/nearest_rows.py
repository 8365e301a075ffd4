"""Nearest rows: a few rows of a result by their labels and pages, to be shown within another page.

Layer 11: imports ``database`` and ``records``. The rows are those of ``results``; the pages of
results show them in full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..database import sqlite3
from ..records import CollectionRecord
from .lookup import read
from .results import Question, Result, Searched

if TYPE_CHECKING:
    from datasette.database import Database

#: Vectors of 384 numbers that are compared in under 20 ms on a slow server (20,000 take 75 ms):
#: what a page may wait for that is about one row.
_MOST_COMPARED = 4_000
_LONGEST_LABEL = 100


async def is_quickly_searched(database: Database, record: CollectionRecord) -> bool:
    """Say whether so few vectors have to be compared that any page can wait for it."""

    def is_small(conn: sqlite3.Connection) -> bool:
        sql = "select 1 from embeddings where collection_id = ? limit 1 offset ?"
        return conn.execute(sql, (record.id, _MOST_COMPARED)).fetchone() is None

    return await read(database, is_small)


async def nearest_to(searched: Searched, entry_id: str, number: int) -> list[dict[str, Any]]:
    """Return the rows nearest to an entry, itself left out, best first."""
    found = await searched.nearest_to_entry(entry_id, Question(number))
    return await _labelled(searched, found)


async def nearest_to_words(searched: Searched, text: str, number: int) -> list[dict[str, Any]]:
    """Return the rows nearest to a text, best first.

    Raises:
        EmbedError: as ``Searched.embedded``.
    """
    await searched.embedded(text)
    found = await searched.nearest_to_text(text, Question(number))
    return await _labelled(searched, found)


async def _labelled(searched: Searched, found: Result) -> list[dict[str, Any]]:
    """Return the rows as templates use them: score, id, label, url, like_url and row."""
    label = await searched.label_column()
    return [
        {
            # The first column: one of the table may have the same name.
            "score": row[0],
            "id": entry_id,
            "label": _label_of(dict(zip(found.columns, row, strict=True)), label, entry_id),
            "url": url,
            "like_url": searched.like_url(entry_id),
            "row": dict(zip(found.columns[1:], row[1:], strict=True)),
        }
        for row, entry_id, url in zip(found.rows, found.entry_ids, found.urls, strict=True)
        if entry_id is not None
    ]


def _label_of(row: dict[str, Any], column: str | None, entry_id: str) -> str:
    value = row.get(column or "content")
    text = " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
    text = text or entry_id
    return text if len(text) <= _LONGEST_LABEL else f"{text[:_LONGEST_LABEL].rstrip()}…"
