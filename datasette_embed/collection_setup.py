"""Make a collection and its job, or find them, and refuse what must not be mixed.

Layer 8: imports ``database``, ``errors``, ``failure_records``, ``job_records``, ``models``,
``records``, ``schema``, ``sources`` and ``store``. Nothing is embedded here; that is ``jobs``.
"""

from __future__ import annotations

from .database import sqlite3, write_transaction
from .errors import JobStateError, ModelMismatchError, ProviderError, SourceError
from .failure_records import FailureRecords
from .job_records import WATCH, JobRecord, JobRecords, JobStatus
from .models import EmbeddingModel
from .records import CollectionRecord, RowSource
from .schema import ensure_schema
from .sources import SourceSpec
from .store import Store


def ensure_collection(
    conn: sqlite3.Connection,
    path: str,
    name: str,
    model: EmbeddingModel,
    source: RowSource,
    *,
    store_content: bool = False,
    job_id: int | None = None,
) -> tuple[CollectionRecord, JobRecord]:
    """Create the tables, the collection and a job, or find those that are there.

    Args:
        job_id: the job to return instead.

    Returns:
        The collection, and its unfinished job if it has one, else a new one.

    Raises:
        SourceError: the file's tables of these names are not LLM's, or the collection
            was made from something else.
        ModelMismatchError: the collection belongs to another model.
    """
    with write_transaction(conn):
        collection = prepare_collection(
            conn, path, name, model, source, store_content=store_content
        )
        records = JobRecords(conn)
        if job_id is not None:
            return collection, records.get_job(job_id)
        job = records.find_resumable(collection.id) or records.create(
            collection.id, name, model.model_id
        )
    return collection, job


def prepare_collection(
    conn: sqlite3.Connection,
    path: str,
    name: str,
    model: EmbeddingModel,
    source: RowSource,
    *,
    store_content: bool = False,
) -> CollectionRecord:
    """Create the tables and the collection, or find those that are there.

    Raises:
        EmbedError: as ``ensure_collection``.
    """
    store = Store(conn)
    with write_transaction(conn):
        ensure_schema(conn, path)
        collection = store.find_collection(name)
        check_collection(collection, model, source)
        if collection is None or collection.fingerprint is None:
            # What another tool has stored beside its vectors stays there.
            has_contents = collection is not None and store.has_contents(collection.id)
            known = collection and collection.dimensions
            collection = store.create_collection(
                CollectionRecord.new(
                    name,
                    model,
                    dimensions=known or model.dimensions,
                    store=has_contents and source.definition is not None,
                )
            )
        if source.definition is not None and collection.source is None:
            store.set_source(collection, source.definition)
        if store_content and not collection.store:
            store.set_store(collection.id, True)
    return store.get_collection(name)


class OtherSourceError(SourceError):
    """A collection was made from something else."""


#: The action of a job that embeds recorded failures only.
RETRY = "retry"


def make_retry(conn: sqlite3.Connection, job: JobRecord) -> JobRecord:
    """Write a job that embeds once more what the collection of a job could not embed.

    Raises:
        JobStateError: there is nothing of the kind, or a job of the collection is unfinished.
        CollectionNotFoundError: it is gone.
    """
    record = check_retry(conn, job)
    return JobRecords(conn).create(record.id, record.name, record.model_id, action=RETRY)


def check_retry(conn: sqlite3.Connection, job: JobRecord) -> CollectionRecord:
    """Return the collection of a job, if what it could not embed may be tried once more.

    Raises:
        EmbedError: as ``make_retry``.
    """
    record = Store(conn).get_collection(job.collection)
    for other in JobRecords(conn).list_unfinished(record.id):
        if other.action == WATCH and other.status is not JobStatus.RUNNING:
            continue  # it waits for changes, or for a person
        if other.is_abandoned:
            raise JobStateError(other.id, "interrupted", "resume it first, or cancel it")
        reason = "let it come to its end first, or cancel it"
        raise JobStateError(other.id, other.status.value, reason)
    if not FailureRecords(conn).failing_ids(record.id):
        raise JobStateError(job.id, job.status.value, "it has no failures to retry")
    return record


def check_collection(
    collection: CollectionRecord | None, model: EmbeddingModel, source: RowSource
) -> None:
    """Refuse to mix two models, or two sources, in one collection.

    Raises:
        ProviderError: the model does not take what the rows hold.
        ModelMismatchError: the collection belongs to another model.
        OtherSourceError: it was made from something else.
        OutdatedCollectionError: it was made with another version of the model, and not all
            of it would be embedded again.
    """
    if source.is_binary and not model.supports_binary:
        reason = "embeds text only, not images or other bytes: choose a model that reads them"
        raise ProviderError(model.model_id, reason)
    if not source.is_binary and not model.supports_text:
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
    if collection.source and collection.source != source.definition:
        made_from = SourceSpec.from_json(collection.source)
        raise OtherSourceError(
            f"collection '{collection.name}'",
            f"was made from something else ({made_from}). Give this one another name"
            f"{' with --collection' if source.definition else ''}, or first delete "
            f"'{collection.name}' with datasette embed collections delete",
        )
    if source.definition is None:
        collection.check_current(model)
