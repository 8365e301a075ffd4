"""One content into a collection: find what is missing, embed it, store it.

Layer 9: imports ``collection_setup``, ``entry_writer`` and what they import. For a content
that somebody has in hand; there is no job, so that a failure leaves nothing behind, no file
and no collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

from .collection_setup import check_collection
from .database import open_database, patient, sqlite3, translated, write_transaction
from .entry_writer import EntryWriter
from .missing import MissingContent
from .model_calls import embed_items, read_items
from .models import EmbeddingModel, Kind
from .records import CollectionRecord, Row, content_hash, entry_hash
from .schema import ensure_schema
from .store import Store, existing
from .vectors import ITEM_SIZE, encode


@dataclass(frozen=True)
class OneRow:
    """A source of one row."""

    row: Row
    path: str
    name: ClassVar[str] = "the text"
    definition: ClassVar[None] = None

    @property
    def is_binary(self) -> bool:
        """Whether the content is bytes, not text."""
        return isinstance(self.row.content, bytes)

    def iter_windows(self, size: int = 1_000) -> Iterator[list[Row]]:
        """Yield the row."""
        yield [self.row]


def embed_entry(
    path: str,
    name: str,
    row: Row,
    model: EmbeddingModel,
    *,
    store: bool = False,
    key: str | None = None,
) -> bytes:
    """Store the vector of a row, made or found, and return it as stored.

    The model is not called for a content that the collection holds already, under this id or
    another; what is new beside it, content or metadata, is still stored.

    Args:
        path: the file; made when it is missing.
        name: the collection; made when it is missing.
        row: a row with an id and a content.
        store: store the content too, as a collection that stores its contents does anyway.

    Raises:
        EmbedError: nothing was stored, and nothing was made.
        ValueError: the model does not take such a content.
    """
    with existing(path) as conn:
        if conn is not None:
            record = Store(conn).find_collection(name)
            check_collection(record, model, OneRow(row, path))
            if record is not None:
                writer = EntryWriter(Store(conn), path, name, model, content_hash)
                writer.write([row], store=store, key=key)
                writer.check_readable()
                return Store(conn).get_embedding(record, str(row.entry_id))
    model.check_items([row.content])
    reading = read_items(model, [row.content])[0]
    model.check_known(reading)
    blob = encode(embed_items(model, [row.content], Kind.DOCUMENT, key=key).vectors[0])
    digest = entry_hash(row.content, model)
    item = MissingContent(digest, [row], reading=reading)
    with closing(open_database(path, writable=True, create=True)) as conn, translated(path):
        _write(conn, path, name, model, OneRow(row, path), item, blob, store)
    return blob


def _write(
    conn: sqlite3.Connection,
    path: str,
    name: str,
    model: EmbeddingModel,
    source: OneRow,
    item: MissingContent,
    blob: bytes,
    store_content: bool,
) -> None:
    """Make the collection and its first entry, in one transaction.

    Raises:
        ModelMismatchError: somebody made it with another model while this one computed.
    """
    store = Store(conn)
    with patient(conn), write_transaction(conn):
        ensure_schema(conn, path)
        dimensions = len(blob) // ITEM_SIZE
        record = store.create_collection(CollectionRecord.new(name, model, dimensions=dimensions))
        check_collection(record, model, source)  # somebody may have made it meanwhile
        store.write_entries(record.id, item.new_entries(blob, model, store=store_content))
