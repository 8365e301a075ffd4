"""The resumable embedding engine: source -> what is missing -> vectors -> rows.

Layer 8: imports everything below. Synchronous and restartable: each batch is embedded
outside any transaction, then written in one together with the job's progress, so that a
kill at any moment costs the batch in flight and nothing else. What is up to date is
decided by content, not by a cursor, so a run may start over as often as it likes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from . import vectors
from .batches import (
    BatchEmbedder,
    MissingContent,
    Paused,
    cut_into_batches,
    first_line,
    warnings_of,
)
from .database import sqlite3, translated, write_transaction
from .errors import (
    EmbedError,
    JobStateError,
    ModelMismatchError,
    ProviderError,
    SourceError,
    UnreadableTextError,
)
from .job_records import Claim, JobCounts, JobRecord, JobRecords, JobStatus
from .models import EmbeddingModel
from .schema import ensure_schema
from .sources import Row, Source
from .store import CollectionRecord, NewEntry, Store, content_hash

WINDOW_ROWS = 1_000
#: So many items failing one after the other mean that something else is wrong.
FAILURES_BEFORE_PAUSE = 25


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
                    store=store_content,
                )
            )
        elif store_content and not collection.store:
            store.set_store(collection.id, True)
        if collection.fingerprint != model.fingerprint:
            store.set_fingerprint(collection, model.fingerprint)
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
    if collection.source and collection.source != source.spec.to_json():
        made_from = type(source.spec).from_json(collection.source)
        raise SourceError(
            f"collection '{collection.name}'",
            f"was made from something else ({made_from}). Give this one another name with "
            "--collection, or delete the old one: datasette embed collections delete",
        )


class JobRun:
    """One run of one job, from claim to end.

    Args:
        conn: the file that holds the collection, opened for writing.
        path: that file, named in errors.
        collection: where the vectors go.
        job: the job to run.
        source: the rows.
        model: the collection's model.
        rows_total: rows of the source, for the progress.
        remove: delete entries whose row is gone or has become blank.
        report: called with the counts after every step.
        pause: set it to end the run in the state ``paused`` after the batch in flight.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: str,
        collection: CollectionRecord,
        job: JobRecord,
        source: Source,
        model: EmbeddingModel,
        *,
        rows_total: int = 0,
        remove: bool = False,
        report: Callable[[JobCounts], None] = lambda counts: None,
        pause: threading.Event | None = None,
    ) -> None:
        self.conn = conn
        self.path = path
        self.collection = collection
        self.job = job
        self.source = source
        self.model = model
        self.counts = JobCounts()
        self._store = Store(conn)
        self._records = JobRecords(conn)
        self.rows_total = rows_total
        self._remove = remove
        self.report = report
        self.pause = pause or threading.Event()
        self._embedder = BatchEmbedder(model, self.pause, collection.dimensions)
        self.reason: str | None = None
        self._failures_in_a_row = 0
        self._failing: list[str] = []

    def run(self) -> JobStatus:
        """Embed what is missing. Returns ``finished`` or ``paused``.

        Raises:
            JobStateError: another process runs this job, or took it over.
            EmbedError: the job failed; its state and reason are recorded first.
        """
        with translated(self.path), write_transaction(self.conn):
            claim = self._records.claim(self.job, self.rows_total)
        try:
            with translated(self.path):
                self._run(claim)
                self._end(claim, JobStatus.FINISHED, None)
            return JobStatus.FINISHED
        except Paused as paused:
            self.reason = str(paused) or None
            self._end(claim, JobStatus.PAUSED, self.reason)
            return JobStatus.PAUSED
        except JobStateError:
            raise
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            # Where the file itself is what failed, this fails too, and the job is freed
            # by the end of its process.
            with suppress(SourceError, JobStateError):
                self._end(
                    claim,
                    JobStatus.PAUSED if interrupted else JobStatus.FAILED,
                    "interrupted" if interrupted else first_line(error),
                )
            raise

    def _end(self, claim: Claim, status: JobStatus, reason: str | None) -> None:
        with translated(self.path), write_transaction(self.conn):
            self._records.end(claim, status, self.counts, reason)

    def _run(self, claim: Claim) -> None:
        self.conn.execute("drop table if exists temp._embed_seen")
        self.conn.execute("create temp table _embed_seen (id text primary key)")
        self.conn.execute("drop table if exists temp._embed_replaced")
        self.conn.execute(
            "create temp table _embed_replaced (content_hash blob primary key, embedding blob)"
        )
        for window in self.source.iter_windows(WINDOW_ROWS):
            self._run_window(claim, window)
        with write_transaction(self.conn):
            self._records.checkpoint(claim, self.counts)
            self._records.forget_failures(claim.job_id, self._failing)
            if self._remove:
                self.counts.removed += self._delete_unseen()
        self.report(self.counts)

    def _delete_unseen(self) -> int:
        return int(
            self.conn.execute(
                "delete from embeddings where collection_id = ?"
                " and id not in (select id from temp._embed_seen)",
                (self.collection.id,),
            ).rowcount
        )

    # -- one window ----------------------------------------------------------------

    def _run_window(self, claim: Claim, window: list[Row]) -> None:
        missing, to_store = self._compare(window)
        readings = self.model.read([item.content for item in missing])
        for item, reading in zip(missing, readings, strict=True):
            item.reading = reading
        reused = self._find_reusable(missing)
        with write_transaction(self.conn):
            self._keep_replaced(missing)
            self._store.write_contents(self.collection.id, to_store)
            for item in missing:
                if item.content_hash in reused:
                    self._write(item, reused[item.content_hash])
                    self.counts.reused += len(item.entry_ids)
                    self.counts.rows_done += len(item.entry_ids)
            self._records.record_failures(
                claim.job_id,
                [(self._id_for_failure(row), row.problem) for row in window if row.problem],
            )
            self._records.checkpoint(claim, self.counts)
        self.report(self.counts)
        missing = [item for item in missing if item.content_hash not in reused]
        for batch in cut_into_batches(missing, self.model):
            if self.pause.is_set():
                raise Paused
            self._run_batch(claim, batch)

    def _compare(self, window: list[Row]) -> tuple[list[MissingContent], list[tuple[str, str]]]:
        """Return what is missing, one item a distinct content, and the contents to store."""
        ids = [row.entry_id for row in window if row.entry_id is not None]
        states = self._store.find_states(self.collection.id, ids)
        missing: dict[bytes, MissingContent] = {}
        to_store: list[tuple[str, str]] = []
        seen: list[tuple[str]] = []
        for row in window:
            if row.problem or row.entry_id is None:
                self.counts.failed += 1
                self.counts.rows_done += 1
                self._failing.append(self._id_for_failure(row))
                if row.entry_id is not None:
                    seen.append((row.entry_id,))
                continue
            if row.is_blank:
                self.counts.blank += 1
                self.counts.rows_done += 1
                continue
            seen.append((row.entry_id,))
            digest = content_hash(row.content)
            state = states.get(row.entry_id)
            if state is None or state.content_hash != digest:
                item = missing.setdefault(digest, MissingContent(row.content, digest, []))
                item.entry_ids.append(row.entry_id)
                continue
            self.counts.rows_done += 1
            if self.collection.store and not state.has_content:
                to_store.append((row.entry_id, row.content))
                self.counts.refreshed += 1
            else:
                self.counts.unchanged += 1
        if self._remove:
            self.conn.execute("begin")
            self.conn.executemany("insert or ignore into temp._embed_seen values (?)", seen)
            self.conn.execute("commit")
        return list(missing.values()), to_store

    def _id_for_failure(self, row: Row) -> str:
        return row.entry_id if row.entry_id is not None else "(a row without an id)"

    def _find_reusable(self, missing: Sequence[MissingContent]) -> dict[bytes, bytes]:
        """Return vectors stored for the same content under another id, if they are sound."""
        found = self._store.find_by_hashes(
            self.collection.id, (item.content_hash for item in missing)
        )
        found.update(self._find_replaced([i for i in missing if i.content_hash not in found]))
        dimensions = self.collection.dimensions
        return {
            digest: blob
            for digest, blob in found.items()
            if isinstance(blob, bytes)
            and dimensions is not None
            and len(blob) == 4 * dimensions
            and vectors.is_usable(vectors.decode(blob))
        }

    def _keep_replaced(self, missing: Sequence[MissingContent]) -> None:
        """Set aside the vectors that are about to be replaced.

        Their contents may only have moved to rows further down.
        """
        ids = [entry_id for item in missing for entry_id in item.entry_ids]
        self.conn.execute(
            "insert or ignore into temp._embed_replaced select content_hash, embedding"
            " from embeddings where collection_id = ? and content_hash is not null"
            " and id in (select value from json_each(?))",
            (self.collection.id, json.dumps(ids)),
        )

    def _find_replaced(self, missing: Sequence[MissingContent]) -> dict[bytes, bytes]:
        found = {}
        for item in missing:
            row = self.conn.execute(
                "select embedding from temp._embed_replaced where content_hash = ?",
                (item.content_hash,),
            ).fetchone()
            if row:
                found[item.content_hash] = row[0]
        return found

    # -- one batch -----------------------------------------------------------------

    def _run_batch(self, claim: Claim, batch: list[MissingContent]) -> None:
        embedded: list[tuple[MissingContent, bytes]] = []
        failures: list[tuple[str, str]] = []
        stopped: Exception | None = None
        try:
            for item, outcome in self._embedder.embed(batch):
                if isinstance(outcome, bytes):
                    embedded.append((item, outcome))
                    self._failures_in_a_row = 0
                else:
                    message = first_line(outcome)
                    failures += [(entry_id, message) for entry_id in item.entry_ids]
                    self._count_failure(outcome)
        except (Paused, EmbedError) as error:
            stopped = error  # but what has been paid for is kept
        with write_transaction(self.conn):
            self._write_dimensions()
            for item, blob in embedded:
                self._write(item, blob)
                self.counts.embedded += 1
                self.counts.reused += len(item.entry_ids) - 1
            self.counts.tokens = self._embedder.tokens
            self.counts.failed += len(failures)
            self._failing += [entry_id for entry_id, _ in failures]
            self.counts.rows_done += len(failures) + sum(len(i.entry_ids) for i, _ in embedded)
            self._records.record_failures(claim.job_id, failures)
            self._records.checkpoint(claim, self.counts)
        self.report(self.counts)
        if stopped:
            raise stopped

    def _count_failure(self, error: EmbedError) -> None:
        """Give up when one text after the other fails, for reasons that are not the text's.

        Raises:
            Paused: with the reason.
        """
        if isinstance(error, UnreadableTextError):
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_BEFORE_PAUSE:
            raise Paused(
                f"{self._failures_in_a_row} texts failed one after the other, "
                f"the last with: {first_line(error)}"
            )

    def _write_dimensions(self) -> None:
        if self.collection.dimensions is None and self._embedder.dimensions is not None:
            self._store.set_dimensions(self.collection.id, self._embedder.dimensions)
            self.collection = replace(self.collection, dimensions=self._embedder.dimensions)

    def _write(self, item: MissingContent, blob: bytes) -> None:
        warnings = tuple(warnings_of(item.reading, self.model.max_tokens))
        content = item.content if self.collection.store else None
        self._store.write_entries(
            self.collection.id,
            [
                NewEntry(entry_id, blob, item.content_hash, content, warnings)
                for entry_id in item.entry_ids
            ],
        )
