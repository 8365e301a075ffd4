"""Make a collection and its job, or find them, and refuse what must not be mixed.

Layer 8: imports ``database``, ``errors``, ``job_records``, ``models``, ``records``, ``schema``,
``sources`` and ``store``. Nothing is embedded here; that is ``jobs``.
"""

from __future__ import annotations

from .database import sqlite3, write_transaction
from .errors import ModelMismatchError, ProviderError, SourceError
from .job_records import JobRecord, JobRecords
from .models import EmbeddingModel
from .records import CollectionRecord
from .schema import ensure_schema
from .sources import Source
from .store import Store


def ensure_collection(
    conn: sqlite3.Connection,
    path: str,
    name: str,
    model: EmbeddingModel,
    source: Source,
    *,
    store_content: bool = False,
) -> tuple[CollectionRecord, JobRecord]:
    """Create the tables, the collection and a job, or find those that are there.

    Returns:
        The collection, and its unfinished job if it has one, else a new one.

    Raises:
        SourceError: the file's tables of these names are not LLM's, or the collection
            was made from something else.
        ModelMismatchError: the collection belongs to another model.
    """
    ensure_schema(conn, path)
    store, records = Store(conn), JobRecords(conn)
    with write_transaction(conn):
        collection = store.find_collection(name)
        check_collection(collection, model, source)
        if collection is None or collection.source is None:
            collection = store.create_collection(
                CollectionRecord(
                    0,
                    name,
                    model.model_id,
                    dimensions=collection.dimensions if collection else model.dimensions,
                    metric=model.metric,
                    fingerprint=model.fingerprint,
                    source=source.spec.to_json(),
                    # What another tool has stored beside its vectors stays there.
                    store=store_content or bool(collection and store.has_contents(collection.id)),
                )
            )
        elif store_content and not collection.store:
            store.set_store(collection.id, True)
        job = records.find_unfinished(collection.id) or records.create(
            collection.id, name, model.model_id
        )
    return store.get_collection(name), job


def check_collection(
    collection: CollectionRecord | None, model: EmbeddingModel, source: Source
) -> None:
    """Refuse to mix two models, or two sources, in one collection.

    Raises:
        ProviderError: the model takes no text.
        ModelMismatchError: the collection belongs to another model.
        SourceError: it was made from something else.
    """
    if not model.supports_text:
        raise ProviderError(model.model_id, "embeds binary data only, and rows are text")
    if collection is None:
        return
    if collection.model_id != model.model_id:
        raise ModelMismatchError(collection.name, collection.model_id, model.model_id)
    if None not in (collection.dimensions, model.dimensions) and (
        collection.dimensions != model.dimensions
    ):
        # Of the same name, but now cut shorter, say.
        raise ModelMismatchError(
            collection.name,
            f"{collection.model_id} of {collection.dimensions} dimensions",
            f"{model.model_id} of {model.dimensions}",
        )
    if collection.source and collection.source != source.spec.to_json():
        made_from = type(source.spec).from_json(collection.source)
        raise SourceError(
            f"collection '{collection.name}'",
            f"was made from something else ({made_from}). Give this one another name with "
            f"--collection, or first delete '{collection.name}' with datasette embed "
            "collections delete",
        )
