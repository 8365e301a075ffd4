"""The resumable embedding engine: source -> what is missing -> vectors -> rows.

Layer 8: imports everything below. Synchronous and restartable: each batch is embedded
outside any transaction, then written in one together with the job's progress, so that a
kill at any moment costs the batch in flight and nothing else. What is up to date is
decided by content, not by a cursor, so a run may start over as often as it likes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from . import vectors
from .database import sqlite3, translated, write_transaction
from .errors import (
    DimensionMismatchError,
    EmbedError,
    InvalidVectorError,
    JobStateError,
    MissingDependencyError,
    MissingKeyError,
    ModelMismatchError,
    ModelNotAllowedError,
    ProviderError,
    SourceError,
)
from .job_records import Claim, JobCounts, JobRecord, JobRecords, JobStatus
from .models import EmbeddingModel, Item, Kind, Reading
from .schema import ensure_schema
from .sources import Row, Source
from .store import CollectionRecord, EntryWarning, NewEntry, Store, content_hash

WINDOW_ROWS = 1_000
#: Items of one model call and one transaction; also what a kill can cost.
BATCH_ITEMS = 64
RETRIES = 5
LONGEST_BACKOFF_SECONDS = 60.0
#: So many items failing one after the other mean that something else is wrong.
FAILURES_BEFORE_PAUSE = 25

# Errors that no other item and no later attempt of this run can escape.
_FATAL = (
    DimensionMismatchError,
    MissingDependencyError,
    MissingKeyError,
    ModelNotAllowedError,
)


class _Paused(Exception):
    """Raised inside a run to end it in the state ``paused``."""


@dataclass
class _Missing:
    """One distinct content and the rows of the window that carry it."""

    content: str
    content_hash: bytes
    entry_ids: list[str]
    reading: Reading = field(default_factory=lambda: Reading(0))


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
        ModelMismatchError: the collection belongs to another model.
        SourceError: it was made from something else.
    """
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
        self._rows_total = rows_total
        self._remove = remove
        self._report = report
        self._pause = pause or threading.Event()
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
            claim = self._records.claim(self.job, self._rows_total)
        try:
            with translated(self.path):
                self._run(claim)
                self._end(claim, JobStatus.FINISHED, None)
            return JobStatus.FINISHED
        except _Paused as paused:
            self.reason = str(paused) or None
            self._end(claim, JobStatus.PAUSED, self.reason)
            return JobStatus.PAUSED
        except JobStateError:
            raise
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            # Where the file itself is what failed, this fails too, and the job is freed
            # by the end of its process.
            with suppress(sqlite3.Error):
                self._end(
                    claim,
                    JobStatus.PAUSED if interrupted else JobStatus.FAILED,
                    "interrupted" if interrupted else _first_line(error),
                )
            raise

    def _end(self, claim: Claim, status: JobStatus, reason: str | None) -> None:
        with write_transaction(self.conn):
            self._records.end(claim, status, self.counts, reason)

    def _run(self, claim: Claim) -> None:
        self.conn.execute("create temp table if not exists _embed_seen (id text primary key)")
        self.conn.execute("delete from temp._embed_seen")
        for window in self.source.iter_windows(WINDOW_ROWS):
            self._run_window(claim, window)
        with write_transaction(self.conn):
            self._records.checkpoint(claim, self.counts)
            self._records.forget_failures(claim.job_id, self._failing)
            if self._remove:
                self.counts.removed += self._delete_unseen()
        self._report(self.counts)

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
        self._report(self.counts)
        missing = [item for item in missing if item.content_hash not in reused]
        for batch in _batches(missing, self.model):
            if self._pause.is_set():
                raise _Paused
            self._run_batch(claim, batch)

    def _compare(self, window: list[Row]) -> tuple[list[_Missing], list[tuple[str, str]]]:
        """Return what is missing, one item a distinct content, and the contents to store."""
        ids = [row.entry_id for row in window if row.entry_id is not None]
        states = self._store.find_states(self.collection.id, ids)
        missing: dict[bytes, _Missing] = {}
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
                item = missing.setdefault(digest, _Missing(row.content, digest, []))
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

    def _find_reusable(self, missing: Sequence[_Missing]) -> dict[bytes, bytes]:
        """Return vectors stored for the same content under another id, if they are sound."""
        found = self._store.find_by_hashes(
            self.collection.id, (item.content_hash for item in missing)
        )
        dimensions = self.collection.dimensions
        return {
            digest: blob
            for digest, blob in found.items()
            if isinstance(blob, bytes)
            and dimensions is not None
            and len(blob) == 4 * dimensions
            and vectors.is_usable(vectors.decode(blob))
        }

    # -- one batch -----------------------------------------------------------------

    def _run_batch(self, claim: Claim, batch: list[_Missing]) -> None:
        embedded: list[tuple[_Missing, bytes]] = []
        failures: list[tuple[str, str]] = []
        pause_reason = None
        for item, outcome in self._embed(batch):
            if isinstance(outcome, bytes):
                embedded.append((item, outcome))
                self._failures_in_a_row = 0
                continue
            failures += [(entry_id, _first_line(outcome)) for entry_id in item.entry_ids]
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_BEFORE_PAUSE:
                pause_reason = (
                    f"{self._failures_in_a_row} texts failed one after the other, "
                    f"the last with: {_first_line(outcome)}"
                )
                break
        with write_transaction(self.conn):
            for item, blob in embedded:
                self._write(item, blob)
                self.counts.embedded += 1
                self.counts.reused += len(item.entry_ids) - 1
            self.counts.failed += len(failures)
            self._failing += [entry_id for entry_id, _ in failures]
            self.counts.rows_done += len(failures) + sum(len(i.entry_ids) for i, _ in embedded)
            self._records.record_failures(claim.job_id, failures)
            self._records.checkpoint(claim, self.counts)
        self._report(self.counts)
        if pause_reason:
            raise _Paused(pause_reason)

    def _embed(self, batch: list[_Missing]) -> Iterator[tuple[_Missing, bytes | EmbedError]]:
        """Yield each item with its blob or its error; a batch that fails is cut in two.

        Raises:
            EmbedError: one that every other item would meet too.
        """
        try:
            answer = self._embed_with_retries([item.content for item in batch])
        except _FATAL:
            raise
        except (ProviderError, InvalidVectorError) as error:
            if len(batch) == 1:
                yield batch[0], error
                return
            middle = len(batch) // 2
            yield from self._embed(batch[:middle])
            yield from self._embed(batch[middle:])
            return
        for item, vector in zip(batch, answer, strict=True):
            yield item, vectors.encode(vector)

    def _embed_with_retries(self, contents: list[Item]) -> Iterable[Sequence[float]]:
        for attempt in range(RETRIES + 1):
            try:
                answer = self.model.embed_checked(contents, kind=Kind.DOCUMENT)
            except ProviderError as error:
                if not error.retryable:
                    raise
                if attempt == RETRIES:
                    raise _Paused(f"the model kept failing: {_first_line(error)}") from error
                # Full jitter, so that many waiting clients do not come back together.
                backoff = random.uniform(0, min(LONGEST_BACKOFF_SECONDS, 2.0**attempt))
                if self._pause.wait(error.retry_after_seconds or backoff):
                    raise _Paused from error
                continue
            self.counts.tokens += answer.tokens or 0
            self._check_dimensions(answer.vectors.shape[1])
            rows: Iterable[Sequence[float]] = answer.vectors
            return rows
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _check_dimensions(self, dimensions: int) -> None:
        if self.collection.dimensions is None:
            with write_transaction(self.conn):
                self._store.set_dimensions(self.collection.id, dimensions)
            self.collection = self._store.get_collection(self.collection.name)
        elif self.collection.dimensions != dimensions:
            raise DimensionMismatchError(self.collection.dimensions, dimensions)

    def _write(self, item: _Missing, blob: bytes) -> None:
        warnings = tuple(_warnings(item.reading, self.model.max_tokens))
        content = item.content if self.collection.store else None
        self._store.write_entries(
            self.collection.id,
            [
                NewEntry(entry_id, blob, item.content_hash, content, warnings)
                for entry_id in item.entry_ids
            ],
        )


def is_unreadable(reading: Reading) -> bool:
    """Say whether more than a fifth of a text means nothing to the model."""
    return reading.unknown_tokens * 5 > reading.tokens


def _warnings(reading: Reading, max_tokens: int | None) -> Iterator[tuple[EntryWarning, int, int]]:
    if max_tokens is not None and reading.tokens > max_tokens:
        yield EntryWarning.TRUNCATED, reading.tokens, reading.tokens - max_tokens
    if is_unreadable(reading):
        yield EntryWarning.UNREADABLE, reading.tokens, reading.unknown_tokens


def _batches(missing: list[_Missing], model: EmbeddingModel) -> Iterator[list[_Missing]]:
    """Cut a window into batches of texts of like length, which pad each other least.

    The batches come in a shuffled order: short ones first would promise an end that the
    long ones then put off.
    """
    size = min(BATCH_ITEMS, model.batch_size or BATCH_ITEMS)
    ordered = sorted(missing, key=lambda item: item.reading.tokens)
    starts = list(range(0, len(ordered), size))
    random.Random(0).shuffle(starts)
    for start in starts:
        yield ordered[start : start + size]


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
