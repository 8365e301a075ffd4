"""Nearest rows: a few rows of a result by their labels and pages, to be shown within another page.

Layer 11: imports ``database`` and ``records``. The rows are those of ``results``; the pages of
results show them in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..database import sqlite3
from ..records import CollectionRecord
from .lookup import read
from .results import Question, Result, Searched

if TYPE_CHECKING:
    from datasette.database import Database

#: Vectors that are compared within about 20 ms: what a page may wait for that is about one row.
_MOST_COMPARED = 20_000
_LONGEST_LABEL = 100
_USUAL_LABELS = ("title", "name", "label", "subject")


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
    label = await _label_column(searched, found.columns[1:])
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


async def _label_column(searched: Searched, columns: Sequence[str]) -> str | None:
    """Return what Datasette calls a row by, or the column that most would call it by."""
    if searched.rows is None:
        return None
    label = await searched.database.label_column_for_table(searched.rows.table)
    if label:
        return str(label)
    names = {column.lower(): column for column in columns}
    return next((names[name] for name in _USUAL_LABELS if name in names), None)


def _label_of(row: dict[str, Any], column: str | None, entry_id: str) -> str:
    value = row.get(column) if column else row.get("content")
    text = " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
    text = text or entry_id
    return text if len(text) <= _LONGEST_LABEL else f"{text[:_LONGEST_LABEL].rstrip()}…"
