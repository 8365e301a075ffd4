"""The resumable embedding engine: source -> what is missing -> vectors -> rows.

Layer 8: imports everything below. Synchronous and restartable: each batch is embedded outside
any transaction, then written in one together with the job's progress, so that a kill costs the
calls under way, as many as the model takes at once, and what is not written yet. What is up to
date is decided by content, not by a cursor, so a run may start over as often as it likes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from .batches import BatchEmbedder, Outcome, Paused, Stopped, cut_into_batches, first_line
from .database import patient, sqlite3, translated, write_transaction
from .errors import (
    DatabaseLockedError,
    EmbedError,
    JobStateError,
    SourceError,
    UnreadableTextError,
)
from .failure_records import FailureRecords
from .heartbeat import Heartbeat
from .job_records import (
    CANCELLED_BY_REQUEST,
    PAUSED_BY_REQUEST,
    UNFINISHED,
    Claim,
    Failure,
    JobCounts,
    JobRecord,
    JobRecords,
    JobStatus,
    Request,
)
from .lasting_writes import write_lasting
from .missing import Awaited, KnownVectors, MissingContent, compare
from .model_calls import read_items
from .models import EmbeddingModel
from .records import CollectionRecord, Refresh, Row, RowSource
from .store import Store

WINDOW_ROWS = 1_000
#: So many items failing one after the other mean that something else is wrong.
FAILURES_BEFORE_PAUSE = 25
#: What a failure says in place of an id.
NO_ID = "(a row without an id)"


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
        key: the API key to call the model with.
        batch_size: most texts of one call and one transaction.
        report: called with the counts after every step.
        pause: set it to end the run in the state ``pause_status`` after the calls under way.

    Attributes:
        pause_status: ``paused``; or ``pending`` where it is to go on by itself.
        states: the states in which the job is taken.
        on_lost: called from another thread when the job is no longer this run's.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: str,
        collection: CollectionRecord,
        job: JobRecord,
        source: RowSource,
        model: EmbeddingModel,
        *,
        rows_total: int = 0,
        remove: bool = False,
        key: str | None = None,
        batch_size: int | None = None,
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
        self._failures = FailureRecords(conn)
        self.rows_total = rows_total
        self._remove = remove
        # The ids a source is limited to; None for one that yields every row it has.
        self._only: frozenset[str] | None = getattr(source, "only", None)
        self.report = report
        self.pause = pause or threading.Event()
        self._batch_size = batch_size
        self._known = KnownVectors(self._store, collection.id)
        self._key = key
        self.reason: str | None = None
        self.pause_status = JobStatus.PAUSED
        self.states: tuple[JobStatus, ...] = UNFINISHED
        self.on_lost: Callable[[], None] = lambda: None
        self._request: Request | None = None
        self._failures_in_a_row = 0
        self._failing: set[str] = set()
        self._awaited = Awaited()
        self._known_failures: set[tuple[str, bytes]] = set()
        self._claim = Claim(job.id, "", -1)  # of nothing, until run() has the real one

    def run(self) -> JobStatus:
        """Embed what is missing. Returns the state it ended in.

        That is ``finished``, ``paused``, ``cancelled`` when that was asked for in the file,
        or the ``pause_status``.

        Raises:
            JobStateError: another process runs this job, or took it over.
            EmbedError: the job failed; its state and reason are recorded first.
        """
        with translated(self.path), write_transaction(self.conn):
            claim = self._records.claim(self.job, self.rows_total, self.states)
        self._claim = claim
        self._known_failures = self._failures.known_failures(self.collection.id)
        # Here, for whoever made this run may have given it another pause since.
        self._embedder = BatchEmbedder(
            self.model, self.pause, self.collection.dimensions, self._show_life, key=self._key
        )
        with Heartbeat(self.path, claim, self.on_lost):
            return self._run_claimed(claim)

    def _run_claimed(self, claim: Claim) -> JobStatus:
        try:
            with translated(self.path):
                self._run(claim)
                self.reason = self.counts.describe_failures()
                self._keep(
                    lambda: self._records.end(claim, JobStatus.FINISHED, self.counts, self.reason)
                )
            return JobStatus.FINISHED
        except Paused as paused:
            return self._end_early(claim, paused)
        except JobStateError:
            raise
        except BaseException as error:
            status, reason = JobStatus.FAILED, first_line(error)
            if isinstance(error, KeyboardInterrupt):
                status, reason = JobStatus.PAUSED, "interrupted"
            elif isinstance(error, DatabaseLockedError):
                status = self.pause_status  # nothing is wrong with the job
            # Where the file itself is what failed, this fails too, and the job is freed
            # by the end of its process or of its lease.
            with suppress(SourceError, JobStateError):
                self._end(claim, status, reason)
            raise

    def _end_early(self, claim: Claim, paused: Paused) -> JobStatus:
        """End in the state that was asked for, by the file before anybody else."""
        with translated(self.path), patient(self.conn), write_transaction(self.conn):
            request = self._records.checkpoint(claim, self.counts)
            status, self.reason = JobStatus.PAUSED, str(paused) or None
            if request is Request.CANCEL:
                status, self.reason = JobStatus.CANCELLED, CANCELLED_BY_REQUEST
            elif request is Request.PAUSE:
                self.reason = self.reason or PAUSED_BY_REQUEST
            elif isinstance(paused, Stopped):
                status = self.pause_status
            self._records.end(claim, status, self.counts, self.reason)
        return status

    def _end(self, claim: Claim, status: JobStatus, reason: str | None) -> None:
        with translated(self.path), write_transaction(self.conn):
            self._records.end(claim, status, self.counts, reason)

    def _keep(self, write: Callable[[], None]) -> None:
        """Write in one transaction, even if another program has the file for long."""
        counts, collection = replace(self.counts), self.collection

        def undo() -> None:
            self.counts, self.collection = replace(counts), collection

        write_lasting(self.conn, self.path, write, undo, self.pause)

    def _run(self, claim: Claim) -> None:
        if self.collection.fingerprint != self.model.fingerprint:
            if self.model.is_local:  # one that cannot be loaded makes no vector outdated
                self.model.warm()
            self._keep(lambda: self._store.set_fingerprint(self.collection, self.model.fingerprint))
            self.collection = self._store.get_collection(self.collection.name)
        self.conn.execute("drop table if exists temp._embed_seen")
        self.conn.execute("create temp table _embed_seen (id text primary key)")
        for outcomes in self._embedder.embed_all(self._batches(claim)):
            self._write_outcomes(claim, outcomes)
        self._keep(lambda: self._write_end(claim))
        self.report(self.counts)

    def _batches(self, claim: Claim) -> Iterator[list[MissingContent]]:
        """Yield what the model is to be called for, reading the source as it is asked for."""
        for window in self.source.iter_windows(WINDOW_ROWS):
            missing = self._start_window(claim, window)
            self._obey()
            yield from cut_into_batches(missing, self.model, self._batch_size)

    def _write_end(self, claim: Claim) -> None:
        self._checkpoint(claim)
        self._forget_failures()
        if self._remove:
            self.counts.removed += self._delete_unseen()
        if self.collection.is_rebuilding and self._only is None:
            self.counts.removed += self._store.finish_rebuilding(self.collection)

    def _forget_failures(self) -> None:
        if self._only is not None:  # what it did not look at fails as before
            self._failures.forget_failures(self.job, self._failing, among=self._only)
        elif self.source.definition is None:  # it has met only some of the entries
            self._failures.forget_healed(self.job)
        else:
            self._failures.forget_failures(self.job, self._failing)

    def _checkpoint(self, claim: Claim) -> None:
        """Record the progress inside the transaction that makes it, if the job is still ours.

        What the job is asked to do is done by ``_obey``, once that transaction stands.
        """
        self._request = self._records.checkpoint(claim, self.counts)

    def _obey(self) -> None:
        """Begin no further call of the model if the file or whoever started the run says so."""
        if self._request or self.pause.is_set():
            self._embedder.stop(Stopped())

    def _delete_unseen(self) -> int:
        among = "" if self._only is None else " and id in (select value from json_each(?))"
        parameters = [] if self._only is None else [json.dumps(sorted(self._only))]
        return int(
            self.conn.execute(
                "delete from embeddings where collection_id = ?"
                f" and id not in (select id from temp._embed_seen){among}",
                (self.collection.id, *parameters),
            ).rowcount
        )

    # -- one window ----------------------------------------------------------------

    def _start_window(self, claim: Claim, window: list[Row]) -> list[MissingContent]:
        """Write what needs no model; return what the model is to be called for."""
        missing, refreshes, blanked = self._compare(window)
        missing, failures = self._read(missing)
        failures += [Failure(row.entry_id or NO_ID, row.problem) for row in window if row.problem]
        reused = self._known.find(
            (item.content_hash for item in missing), self.collection.dimensions
        )
        self._known.recall_cuts((i for i in missing if i.content_hash in reused), self.model)

        def write() -> None:
            self._known.set_aside(blanked + [i for item in missing for i in item.entry_ids])
            self._store.refresh_entries(self.collection.id, refreshes)
            known = [(i, reused[i.content_hash]) for i in missing if i.content_hash in reused]
            self._write(known)
            rows = sum(len(item.rows) for item, _ in known)
            self.counts.reused += rows
            self.counts.rows_done += rows
            self.counts.removed += self._store.delete_entries(self.collection.id, blanked)
            self._record(claim, failures)
            self._checkpoint(claim)

        self._keep(write)
        self.report(self.counts)
        return self._awaited.add(item for item in missing if item.content_hash not in reused)

    def _read(self, missing: list[MissingContent]) -> tuple[list[MissingContent], list[Failure]]:
        """Return what the model can read, and a failure for each row it knows no word of."""
        readable: list[MissingContent] = []
        failures: list[Failure] = []
        readings = read_items(self.model, [item.content for item in missing])
        for item, reading in zip(missing, readings, strict=True):
            item.reading = reading
            try:
                self.model.check_known(reading)
            except UnreadableTextError as error:
                failures += _failures_of(item, first_line(error))
            else:
                readable.append(item)
        return readable, failures

    def _record(self, claim: Claim, failures: list[Failure]) -> None:
        self._failures.record_failures(claim.job_id, failures)
        self._failing.update(failure.entry_id for failure in failures)
        self.counts.failed += len(failures)
        self.counts.rows_done += len(failures)

    def _show_life(self) -> None:
        # What this batch has paid for so far must not be lost to another program's lock.
        with suppress(DatabaseLockedError), translated(self.path), write_transaction(self.conn):
            self._checkpoint(self._claim)
        self._obey()

    def _compare(self, window: list[Row]) -> tuple[list[MissingContent], list[Refresh], list[str]]:
        """Return what is missing (one item a distinct content), what to write beside vectors
        that stay, and the entries whose row has become blank."""
        blank = [row for row in window if row.is_blank]
        blank_ids = [row.entry_id for row in blank if row.entry_id is not None]
        self.counts.blank += len(blank)
        filled = [row for row in window if not row.is_blank and row.entry_id is not None]
        sound = [row for row in filled if not row.problem]
        found = compare(
            sound,
            self._store.find_states(self.collection.id, [str(row.entry_id) for row in sound]),
            self.model,
            dimensions=self.collection.dimensions,
            store_content=self.collection.store,
        )
        for item in found.missing:
            item.has_failed_before = any(
                (entry_id, item.content_hash) in self._known_failures for entry_id in item.entry_ids
            )
        self.counts.unchanged += found.unchanged
        self.counts.refreshed += len(found.refreshes)
        self.counts.rows_done += len(blank) + found.unchanged + len(found.refreshes)
        if self._remove:
            seen = [(row.entry_id,) for row in filled]
            self.conn.executemany("insert or ignore into temp._embed_seen values (?)", seen)
        blanked = list(self._store.find_states(self.collection.id, blank_ids))
        return found.missing, found.refreshes, blanked

    # -- one batch -----------------------------------------------------------------

    def _write_outcomes(self, claim: Claim, outcomes: list[Outcome]) -> None:
        """Write what came of one call, and record how far the job is."""
        failures: list[Failure] = []
        embedded: list[tuple[MissingContent, bytes]] = []
        for item, outcome in outcomes:
            self._awaited.remove(item)
            if isinstance(outcome, bytes):
                embedded.append((item, outcome))
                self._failures_in_a_row = 0
            else:
                failures += _failures_of(item, first_line(outcome))
                self._count_failure(item, outcome)

        def write() -> None:
            self._write_dimensions()
            self._write(embedded)
            rows = sum(len(item.rows) for item, _ in embedded)
            self.counts.embedded += len(embedded)
            self.counts.reused += rows - len(embedded)
            self.counts.rows_done += rows
            self.counts.tokens = self._embedder.tokens
            self._record(claim, failures)
            self._checkpoint(claim)

        self._keep(write)
        self.report(self.counts)
        self._obey()

    def _count_failure(self, item: MissingContent, error: EmbedError) -> None:
        """Give up when one text after the other fails, for reasons that are not the text's."""
        if isinstance(error, UnreadableTextError) or item.has_failed_before:
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_BEFORE_PAUSE:
            self._embedder.stop(
                Paused(
                    f"{self._failures_in_a_row} texts failed one after the other, "
                    f"the last with: {first_line(error)}"
                )
            )

    def _write_dimensions(self) -> None:
        if self.collection.dimensions is None and self._embedder.dimensions is not None:
            dimensions, metric = self._embedder.dimensions, self.model.metric
            self._store.set_space(self.collection.id, dimensions, metric)
            self.collection = replace(self.collection, dimensions=dimensions, metric=metric)

    def _write(self, found: Iterable[tuple[MissingContent, bytes]]) -> None:
        """Write the entries of contents, all with few statements."""
        store = self.collection.store
        new = [e for item, blob in found for e in item.new_entries(blob, self.model, store=store)]
        self._store.write_entries(self.collection.id, new, keep_metadata=True)


def _failures_of(item: MissingContent, message: str) -> list[Failure]:
    """Return a failure for each of the rows that carry a content."""
    return [Failure(entry_id, message, item.content_hash) for entry_id in item.entry_ids]
