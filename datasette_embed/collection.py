"""Collection and Entry: LLM's Python API over store and search, with its defects done right.

Layer 8: imports ``database``, ``entry_writer``, ``errors``, ``model_calls``, ``model_checks``,
``models``, ``records``, ``registry``, ``schema``, ``searching``, ``store`` and ``vectors``. For
callers who have their contents in hand; what is read from a table or a file, and has to
survive a kill, is a job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any

from . import vectors
from .database import (
    DatabaseLike,
    adopt_database,
    check_takes_writes,
    is_missing_file,
    lock_of,
    translated,
    write_transaction,
)
from .entry_writer import EntryWriter, row_of
from .errors import (
    CollectionNotFoundError,
    InvalidVectorError,
    ModelMismatchError,
    NotFoundError,
    SourceError,
)
from .model_calls import embed_query
from .model_checks import check_model
from .models import EmbeddingModel, Item
from .records import CollectionRecord, content_hash
from .registry import get_registry
from .schema import ensure_schema
from .searching.exact import Hits, nearest
from .searching.matrix import MatrixSearch
from .store import Store


@dataclass
class Entry:
    """One entry found by a search.

    Attributes:
        id: its id.
        score: its similarity, higher is nearer; the cosine lies in [-1, 1].
        content: its text, where that is stored.
        metadata: what was stored with it, or None. Where the file holds something that is no
            JSON, that text itself.
    """

    id: str
    score: float | None
    content: str | None = None
    metadata: Any = None


class Collection:
    """A named set of entries with one model, in a SQLite file that LLM can read too.

    Args:
        name: its name; an existing one is opened, and opening it writes nothing.
        db: where it is. None keeps it in memory. A path that does not exist is made, unless
            ``create`` is false.
        model: the model of a new collection: an ``EmbeddingModel``, or one written for LLM.
        model_id: its id or alias, instead.
        create: make the collection when it does not exist.

    Attributes:
        id: its number in the file.
        model_id: the full id of its model.
        db: the sqlite-utils object of its file.

    Raises:
        Collection.DoesNotExist: it is not there and ``create`` is false.
        ModelMismatchError: it belongs to another model than the one named.
        UnknownModelError: no model is registered under ``model_id``.
        SourceError: the file cannot be used.
        ValueError: a new collection without a model.
    """

    DoesNotExist = NotFoundError

    def __init__(
        self,
        name: str,
        db: DatabaseLike | None = None,
        *,
        model: Any = None,
        model_id: str | None = None,
        create: bool = True,
    ) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"a collection's name must be text that is not blank, not {name!r}")
        self.name = name
        self._model = None if model is None else check_model(model)
        if create and is_missing_file(db):
            self._choose_model(model_id, None)  # before there is a file
        self.db, self._path, self._is_ours = adopt_database(db, create=create)
        self._store = Store(self.db.conn)
        self._search = MatrixSearch(self._store)
        self._has_searched = False
        self._lock = lock_of(self.db.conn)
        try:
            with translated(self._path):
                record = self._store.find_collection(name)
                self._choose_model(model_id, record, create=create)
                record = record or self._create()
        except BaseException:
            self.close()
            raise
        self.id = record.id
        self.model_id = record.model_id

    def _choose_model(
        self, model_id: str | None, record: CollectionRecord | None, *, create: bool = True
    ) -> None:
        """Settle on the model, by what was asked for and what is stored."""
        registered = get_registry().find(model_id) if model_id else None
        if registered and self._model and registered.model_id != self._model.model_id:
            raise ValueError(
                f"model= is {self._model.model_id} and model_id= {registered.model_id}: "
                "give one of them"
            )
        if record is None:
            if not create:
                known = [found.name for found in self._store.list_collections()]
                raise CollectionNotFoundError(self.name, known)
            if model_id:
                registered = get_registry().get(model_id)
            self._model = registered or self._model
            if self._model is None:
                raise ValueError(
                    "Either model= or model_id= must be provided when creating a new collection"
                )
            return
        for named in (self._model and self._model.model_id, registered and registered.model_id):
            if named not in (None, record.model_id):
                raise ModelMismatchError(self.name, record.model_id, str(named))
        if model_id and not registered and model_id != record.model_id:
            get_registry().get(model_id)  # raises, and names those there are

    def _create(self) -> CollectionRecord:
        model = self.model()
        with write_transaction(self.db.conn):
            ensure_schema(self.db.conn, self._path)
            return self._store.create_collection(CollectionRecord.new(self.name, model))

    def close(self) -> None:
        """Close the connection, where the collection has opened it itself."""
        if self._is_ours:
            self.db.conn.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def model(self) -> EmbeddingModel:
        """Return the collection's model.

        Raises:
            UnknownModelError: no model of this id is registered here.
        """
        if self._model is None:
            self._model = get_registry().get(self.model_id)
        return self._model

    def count(self) -> int:
        """Return the number of entries; 0 when the collection has been deleted."""
        with self._lock, translated(self._path):
            try:
                return self._store.count(self._record().id)
            except CollectionNotFoundError:
                return 0

    @classmethod
    def exists(cls, db: DatabaseLike, name: str) -> bool:
        """Say whether a file has a collection of this name; nothing is written."""
        if is_missing_file(db):
            return False
        database, path, is_ours = adopt_database(db, create=False)
        try:
            with translated(path):
                return Store(database.conn).find_collection(name) is not None
        finally:
            if is_ours:
                database.conn.close()

    def delete(self) -> None:
        """Delete the collection, its entries and all that is kept for it."""
        with self._lock, translated(self._path), write_transaction(self.db.conn):
            self._store.delete_collection(self._record())

    def _record(self) -> CollectionRecord:
        """Return what is stored of the collection.

        Raises:
            CollectionNotFoundError: it has been deleted.
        """
        record = self._store.get_collection(self.name)
        if (record.id, record.model_id) != (self.id, self.model_id):
            # Deleted, and another one made under its name.
            raise CollectionNotFoundError(f"{self.name} ({self.id})", [self.name])
        return record

    @staticmethod
    def content_hash(input: Item) -> bytes:
        """Return the hash of a content: md5, 16 bytes. Override it to hash in another way."""
        return content_hash(input)

    # -- embedding -----------------------------------------------------------------

    def embed(
        self,
        id: str | int,
        value: Item,
        metadata: Mapping[str, Any] | None = None,
        store: bool = False,
        *,
        key: str | None = None,
    ) -> None:
        """Embed one value under an id; what is up to date is not embedded again.

        The model is not called when the entry, or another one, holds this content already.
        New metadata, and ``store`` for the first time, are written all the same.

        Args:
            id: text, or a number that becomes text.
            value: text or bytes, as the model takes them.
            metadata: stored with the entry as JSON; None leaves that of unchanged content.
            store: keep the value beside its vector.
            key: the API key to call the model with.

        Raises:
            EmbedError: nothing was stored.
            ValueError: an id, a value or metadata of a type that cannot be used.
        """
        self.embed_multi_with_metadata([(id, value, metadata)], store=store, key=key)

    def embed_multi(
        self,
        entries: Iterable[tuple[str | int, Item]],
        store: bool = False,
        batch_size: int = 100,
        *,
        key: str | None = None,
    ) -> None:
        """Embed (id, value) pairs, as ``embed_multi_with_metadata``."""
        self.embed_multi_with_metadata(
            ((id, value, None) for id, value in entries),
            store=store,
            batch_size=batch_size,
            key=key,
        )

    def embed_multi_with_metadata(
        self,
        entries: Iterable[tuple[str | int, Item, Mapping[str, Any] | None]],
        store: bool = False,
        batch_size: int = 100,
        *,
        key: str | None = None,
    ) -> None:
        """Embed (id, value, metadata) triples, each batch in a transaction of its own.

        Of an id that comes twice the last one counts. A batch that fails leaves those before
        it stored. A text that is empty, or of which the model knows no word, is left out; the
        others are embedded, and then it is named.

        Args:
            entries: may be a generator.
            store: keep the values beside their vectors.
            batch_size: most values of one model call.
            key: the API key to call the model with.

        Raises:
            EmbedError: as ``embed``.
            ValueError: as ``embed``; ``batch_size`` is below 1; a triple that is none.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        remaining = iter(entries)
        model = self.model()
        with self._lock, translated(self._path):
            self._refuse_rows_of_a_table(self._record())
            check_takes_writes(self.db.conn)
            writer = EntryWriter(self._store, self._path, self.name, model, self.content_hash)
        size = min(batch_size, model.batch_size or batch_size)
        while batch := list(islice(remaining, size)):
            with translated(self._path):
                writer.write([row_of(*entry) for entry in batch], store=store, key=key)
        writer.check_readable()

    def _refuse_rows_of_a_table(self, record: CollectionRecord) -> None:
        """Refuse to add to what the next sync would take away again."""
        if record.source is not None:
            reason = "was made from a table or a query, and the next sync would remove this again"
            raise SourceError(f"collection '{self.name}'", f"{reason}: use another collection")

    # -- searching -----------------------------------------------------------------

    def similar(
        self,
        value: Item,
        number: int | None = 10,
        prefix: str | None = None,
        *,
        key: str | None = None,
    ) -> list[Entry]:
        """Return the entries most similar to a text, or to bytes, best first.

        Args:
            value: embedded as a query.
            number: how many; None for all of them.
            prefix: only ids that begin with this, exactly.
            key: the API key to call the model with.

        Raises:
            EmbedError: the value cannot be embedded, or the collection holds vectors of
                another version of its model.
            ValueError: ``number`` is below 0.
        """
        model = self.model()
        with self._lock, translated(self._path):
            self._record().check_current(model)
        vector = embed_query(model, value, key=key)
        return self._nearest(vectors.encode(vector), number, None, prefix)

    def similar_by_id(
        self, id: str | int, number: int | None = 10, prefix: str | None = None
    ) -> list[Entry]:
        """Return the entries most similar to a stored one, itself left out, best first.

        Raises:
            Collection.DoesNotExist: there is no entry of this id.
            InvalidVectorError: what is stored for it is no usable vector.
            DimensionMismatchError: it is one of another length than the collection's.
            ValueError: ``number`` is below 0.
        """
        with self._lock, translated(self._path):
            blob = self._store.get_embedding(self._record(), str(id))
        if not vectors.blob_is_usable(blob):
            raise InvalidVectorError(f"the stored vector of entry '{id}' cannot be used")
        return self._nearest(blob, number, str(id), prefix)

    def similar_by_vector(
        self,
        vector: Sequence[float],
        number: int | None = 10,
        skip_id: str | int | None = None,
        prefix: str | None = None,
    ) -> list[Entry]:
        """Return the entries most similar to a vector, best first; ties are in order of ids.

        Args:
            vector: as many numbers as the collection's dimensions.
            number: how many; None for all of them.
            skip_id: an entry to leave out.
            prefix: only ids that begin with this, exactly.

        Raises:
            InvalidVectorError: it is zero, not finite or no vector.
            DimensionMismatchError: it has another length.
            ValueError: ``number`` is below 0.
        """
        skipped = None if skip_id is None else str(skip_id)
        return self._nearest(vectors.encode(vector), number, skipped, prefix)

    def _nearest(
        self, blob: bytes, number: int | None, without: str | None, prefix: str | None
    ) -> list[Entry]:
        if number is not None and (not isinstance(number, int) or number < 0):
            raise ValueError(f"number must be 0 or more, or None for all, not {number!r}")
        with self._lock, translated(self._path):
            record = self._record()
            k = self._store.count(self.id) if number is None else number
            # Vectors are kept in memory from the second search on: many programs make one.
            search = self._search.nearest if self._has_searched else partial(nearest, self._store)
            self._has_searched = True
            found = Hits([])
            if k:
                found = search(record, blob, k, without=without, prefix=prefix or "")
            details = self._store.find_details(self.id, [hit.entry_id for hit in found.hits])
        return [
            Entry(h.entry_id, h.score, *details.get(h.entry_id, (None, None))) for h in found.hits
        ]
