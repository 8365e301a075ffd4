"""Cells: how a vector is shown in a table.

Layer 11: imports ``database``, ``schema``, ``store`` and ``vectors``. A blob is called a vector
only where the collection of its row says so, never because of its length. Only HTML changes:
Datasette asks nobody about cells in JSON and CSV.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from datasette.utils import path_from_row_pks
from markupsafe import Markup

from ..database import sqlite3
from ..schema import has_collections
from ..store import Store
from ..vectors import ITEM_SIZE

if TYPE_CHECKING:
    from datasette.app import Datasette

#: How long it is remembered what a collection says: longer than a page takes to be made, so
#: that no cell of it costs a query of its own.
REMEMBERED_SECONDS = 1.0
#: A stranger's file may have any number of collections.
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True)
class _Known:
    """What a file says of a collection.

    Attributes:
        dimensions: the length of its vectors, or None.
        keys: the primary key of the table that holds them.
        until: when to ask again, on the clock of ``time.monotonic``.
    """

    dimensions: int | None
    keys: tuple[str, ...]
    until: float


_remembered: weakref.WeakKeyDictionary[Any, dict[tuple[str, int], _Known]] = (
    weakref.WeakKeyDictionary()
)


def render_vector(
    datasette: Datasette, database: str, table: str | None, column: str, value: Any, row: Any
) -> Awaitable[str | None] | str | None:
    """Return what to show in the place of a vector; None for anything else.

    Args:
        row: the whole row, which names the collection.
    """
    if not isinstance(value, bytes) or column != "embedding" or table is None:
        return None
    if table.lower() != "embeddings" or (collection_id := _collection_of(row)) is None:
        return None
    known = _remembered.get(datasette, {}).get((database, collection_id))
    if known is not None and monotonic() < known.until:
        return _shown(datasette, database, table, value, row, known)
    return _ask_and_show(datasette, database, table, value, row, collection_id)


def vector_text(dimensions: int) -> str:
    """Return what stands in the place of a vector."""
    return f"vector, {dimensions} dimension{'' if dimensions == 1 else 's'}"


async def _ask_and_show(
    datasette: Datasette, database: str, table: str, value: bytes, row: Any, collection_id: int
) -> str | None:
    db = datasette.get_database(database)
    known = await db.execute_fn(partial(_read, collection_id=collection_id))
    remembered = _remembered.setdefault(datasette, {})
    if len(remembered) >= _MOST_REMEMBERED:
        remembered.clear()
    remembered[database, collection_id] = known
    return _shown(datasette, database, table, value, row, known)


def _read(conn: sqlite3.Connection, collection_id: int) -> _Known:
    until = monotonic() + REMEMBERED_SECONDS
    if not has_collections(conn):  # somebody's own table of this name
        return _Known(None, (), until)
    named = conn.execute("select name from collections where id = ?", (collection_id,)).fetchone()
    record = Store(conn).find_collection(named[0]) if named else None
    keys = conn.execute("select name from pragma_table_info('embeddings') where pk > 0 order by pk")
    return _Known(record.dimensions if record else None, tuple(key[0] for key in keys), until)


def _shown(
    datasette: Datasette, database: str, table: str, value: bytes, row: Any, known: _Known
) -> str | None:
    if known.dimensions is None or len(value) != ITEM_SIZE * known.dimensions:
        return None
    text = vector_text(known.dimensions)
    try:
        path = path_from_row_pks(row, known.keys, not known.keys)
    except (KeyError, IndexError):  # the page does not show the columns of the key
        return str(Markup.escape(text))
    # What Datasette would have shown is a link to the bytes.
    url = datasette.urls.row_blob(database, table, path, "embedding")
    return Markup('<a class="blob-download" href="{}">{}</a>').format(url, text)


def _collection_of(row: Any) -> int | None:
    """Return the id of a row's collection; None where the row does not say."""
    try:
        collection_id = row["collection_id"]
    except (KeyError, IndexError, TypeError):
        return None
    if isinstance(collection_id, dict):  # with the label of the collection
        collection_id = collection_id.get("value")
    return collection_id if isinstance(collection_id, int) else None
