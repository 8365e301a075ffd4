"""EntryWriter: contents that a caller has in hand, into a collection, a batch at a time.

Layer 7: imports ``database``, ``errors``, ``missing``, ``model_calls``, ``models``,
``records``, ``store`` and ``vectors``. No job, no retry and no plan: a batch is stored, or it
raises.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import vectors
from .database import lock_of, patient, write_transaction
from .errors import CollectionNotFoundError, DimensionMismatchError, UnreadableTextError
from .missing import KnownVectors, MissingContent, compare
from .model_calls import embed_items, read_items
from .models import EmbeddingModel, Item, Kind
from .records import CollectionRecord, Row, check_entry_id
from .schema import ensure_schema, has_latest_columns
from .store import Store


class EntryWriter:
    """Embeds and stores batches of entries of one collection.

    Args:
        store: the file; what is missing of its tables is made with the first batch.
        path: that file, named in errors.
        name: the collection.
        model: its model.
        digest: the hash of a content.

    Raises:
        CollectionNotFoundError: there is no such collection.
        OutdatedCollectionError: it holds vectors of another version of the model.
        DimensionMismatchError: the model's vectors have another length than the collection's.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        name: str,
        model: EmbeddingModel,
        digest: Callable[[Item], bytes],
    ) -> None:
        self._store = store
        self._path = path
        self._model = model
        self._digest = digest
        self._unreadable: list[str] = []
        self._lock = lock_of(store.conn)
        self._is_ready = False
        self._collection = store.get_collection(name)
        self._collection.check_current(model)
        if None not in (self._collection.dimensions, model.dimensions):
            self._check_dimensions(int(model.dimensions or 0))
        if not has_latest_columns(store.conn):
            ensure_schema(store.conn, path)
        self._known = KnownVectors(store, self._collection.id)

    def _make_ready(self) -> CollectionRecord:
        """Complete the tables, and take a collection that another tool made under our care.

        Runs in the transaction of a batch, so that an attempt that fails changes nothing.
        """
        if self._is_ready:
            return self._collection
        ensure_schema(self._store.conn, self._path)
        record = self._collection
        if record.fingerprint is not None:
            return record
        return self._store.create_collection(
            replace(
                record,
                dimensions=record.dimensions or self._model.dimensions,
                metric=self._model.metric,
                fingerprint=self._model.fingerprint,
            )
        )

    def write(self, rows: Sequence[Row], *, store: bool, key: str | None) -> None:
        """Embed what is missing of a batch, and store all of it in one transaction.

        Of an id that comes twice the last one counts.

        Args:
            store: keep the contents beside their vectors.
            key: the API key to call the model with.

        Raises:
            EmbedError: nothing of this batch was stored.
            ValueError: a content of a type that the model does not take.
        """
        rows = list({row.entry_id: row for row in rows}.values())
        self._model.check_items(row.content for row in rows)
        keep = store or self._collection.store
        with self._lock:
            found = compare(
                rows,
                self._store.find_states(self._collection.id, [str(row.entry_id) for row in rows]),
                self._model,
                dimensions=self._collection.dimensions,
                store_content=keep,
                digest=self._digest,
            )
        missing = self._readable(found.missing)
        with self._lock:
            hashes = [item.content_hash for item in missing]
            blobs = self._known.find(hashes, self._collection.dimensions)
            self._known.recall_cuts((i for i in missing if i.content_hash in blobs), self._model)
        blobs |= self._embed([item for item in missing if item.content_hash not in blobs], key)
        with self._lock, patient(self._store.conn), write_transaction(self._store.conn):
            self._check_still_there()
            collection = self._make_ready()
            if blobs and collection.dimensions is None:
                dimensions = len(next(iter(blobs.values()))) // vectors.ITEM_SIZE
                metric = self._model.metric
                self._store.set_space(collection.id, dimensions, metric)
                collection = replace(collection, dimensions=dimensions, metric=metric)
            self._known.set_aside([entry_id for item in missing for entry_id in item.entry_ids])
            for item in missing:
                new = item.new_entries(blobs[item.content_hash], self._model, store=keep)
                self._store.write_entries(collection.id, new)
            self._store.refresh_entries(collection.id, found.refreshes)
        self._collection, self._is_ready = collection, True

    def check_readable(self) -> None:
        """Name what was left out because it is empty, or because the model knows no word of it.

        Raises:
            UnreadableTextError: there is such a content.
        """
        if self._unreadable:
            listed = ", ".join(self._unreadable[:5]) + (", …" if len(self._unreadable) > 5 else "")
            raise UnreadableTextError(
                self._model.model_id,
                f"can make nothing of {len(self._unreadable)} of the entries, which were left "
                f"out ({listed}): they are empty, or it does not know a single word of them",
            )

    def _embed(self, missing: list[MissingContent], key: str | None) -> dict[bytes, bytes]:
        """Return ``content hash -> blob``; the model is called as often as its limits ask for."""
        if not missing:
            return {}
        contents = [item.content for item in missing]
        most_items = self._model.batch_size or len(contents)
        blobs: list[bytes] = []
        for call in self._model.cut_into_calls(contents, most_items):
            answer = embed_items(self._model, call, Kind.DOCUMENT, key=key)
            self._check_dimensions(answer.vectors.shape[1])
            if blobs and len(blobs[0]) != answer.vectors.shape[1] * vectors.ITEM_SIZE:
                first = len(blobs[0]) // vectors.ITEM_SIZE
                raise DimensionMismatchError(first, answer.vectors.shape[1])
            blobs += vectors.encode_rows(answer.vectors)
        return dict(zip([item.content_hash for item in missing], blobs, strict=True))

    def _readable(self, missing: list[MissingContent]) -> list[MissingContent]:
        readings = read_items(self._model, [item.content for item in missing])
        readable = []
        for item, reading in zip(missing, readings, strict=True):
            item.reading = reading
            if item.rows[0].is_blank or reading.is_unknown:
                self._unreadable += item.entry_ids
            else:
                readable.append(item)
        return readable

    def _check_dimensions(self, actual: int) -> None:
        expected = self._collection.dimensions
        if expected is not None and expected != actual:
            raise DimensionMismatchError(expected, actual, self._model.model_id)

    def _check_still_there(self) -> None:
        """Refuse to write into a collection that was deleted, or has begun to be embedded
        with another version of the model, while this one computed."""
        record = self._store.get_collection(self._collection.name)
        if not record.is_same(self._collection):
            raise CollectionNotFoundError(self._collection.name)
        record.check_current(self._model)


def row_of(entry_id: Any, value: Item, metadata: Mapping[str, Any] | None) -> Row:
    """Return an entry as a row.

    Raises:
        ValueError: an id or metadata that cannot be stored.
    """
    text = check_entry_id(entry_id)
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"entry '{text}': a text with surrogate characters cannot be stored")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ValueError(f"metadata must be a dict, not {type(metadata).__name__}")
    try:
        stored = json.dumps(dict(metadata), allow_nan=False) if metadata else None
    except TypeError as error:
        raise ValueError(f"metadata must be a dict that JSON can hold: {error}") from error
    return Row(text, value, metadata=stored)
