"""What a run would do, and what it would cost, before it starts.

Layer 8: imports ``batches``, ``model_calls``, ``models``, ``sources``, ``store``,
``failure_records`` and ``errors``. Reads only; the run itself is ``jobs``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Container
from dataclasses import dataclass

from .errors import InvalidVectorError, ProviderError, SourceError
from .failure_records import FailureRecords
from .missing import compare
from .model_calls import embed_items, read_items
from .models import EmbeddingModel, Item, Kind
from .records import CollectionRecord, EntryState, Row, RowSource
from .store import Store

#: Texts whose tokens are counted, from which the rest is extrapolated.
TOKEN_SAMPLE = 200
#: Texts that are embedded to time a local model, and the fewest rows worth timing.
TIMED_SAMPLE = 12
TIMED_FROM = 100
#: Rows compared with each other to count distinct texts, about 100 bytes of memory each;
#: those beyond are taken as distinct.
DIGEST_LIMIT = 1_000_000


@dataclass
class Plan:
    """What a run over a source would do. Counts are rows unless said otherwise.

    Attributes:
        rows: rows of the source.
        missing: rows to embed, because they are new, their text changed, or they failed.
        failed_before: those of them whose text could not be embedded before.
        contents: distinct texts among them: the items that reach the model, at most.
        unchanged: rows that are up to date.
        to_store: up-to-date rows whose text or metadata is to be stored in addition.
        blank: rows without text.
        blanked: entries of those, made when they had text, which go.
        unusable: rows that hold something else than text.
        example_problem: what is wrong with the first of those.
        is_other_version: the collection was made with another version or other options of its
            model, so that all of it is embedded again.
        removable: entries whose row is gone or has become blank.
        tokens: tokens the model will read; an estimate when ``is_sampled``.
        too_long: rows longer than the model reads; an estimate when ``is_sampled``.
        unreadable: rows the model has mostly no words for; an estimate when ``is_sampled``.
        cost_usd: None when the model has no price.
        duration_seconds: None when it was not timed, or a text of the sample failed.
        disk_bytes: what the new vectors take, about.
    """

    rows: int = 0
    missing: int = 0
    failed_before: int = 0
    contents: int = 0
    unchanged: int = 0
    to_store: int = 0
    blank: int = 0
    blanked: int = 0
    unusable: int = 0
    example_problem: str | None = None
    removable: int = 0
    tokens: int = 0
    too_long: int = 0
    unreadable: int = 0
    is_sampled: bool = False
    is_other_version: bool = False
    cost_usd: float | None = None
    duration_seconds: float | None = None
    disk_bytes: int = 0

    @property
    def is_up_to_date(self) -> bool:
        """Whether there is nothing to embed, store, record or take back."""
        return not (self.missing or self.to_store or self.unusable or self.blanked)


def make_plan(
    source: RowSource,
    model: EmbeddingModel,
    store: Store | None,
    collection: CollectionRecord | None,
    *,
    store_content: bool = False,
) -> Plan:
    """Read the whole source, compare it with what is stored, and estimate the work.

    Args:
        store: where the collection is; None for a file still to be made.
        collection: the collection it would go to; None for one still to be made.
        store_content: whether the content is to be stored with the vectors.

    Raises:
        SourceError: the source cannot be read, or the collection is another tool's and
            holds entries that do not come from it.
    """
    failed = (
        FailureRecords(store.conn).known_failures(collection.id) if store and collection else ()
    )
    comparison = _Comparison(model, collection, store_content, failed)
    for window in source.iter_windows():
        ids = [row.entry_id for row in window if row.entry_id is not None]
        comparison.add(
            window, store.find_states(collection.id, ids) if store and collection else {}
        )
    plan = comparison.plan
    plan.contents = min(plan.missing, len(comparison.digests) + max(0, plan.missing - DIGEST_LIMIT))
    if store and collection:
        plan.removable = store.count(collection.id) - comparison.kept
        if collection.source is None and source.definition is not None and plan.removable:
            raise SourceError(
                f"collection '{collection.name}'",
                f"holds {plan.removable:,} entries that are no rows of {source.name}: "
                "give this one another name with --collection",
            )
    _estimate(plan, comparison.sample, model)
    return plan


class _Comparison:
    """The rows of a source beside what is stored for them, window by window.

    Attributes:
        plan: the counts so far.
        kept: entries whose row is there and has text, or something that is no text.
        sample: a uniform sample of the missing contents.
        digests: hashes of the missing contents, the first ``DIGEST_LIMIT`` of them.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        collection: CollectionRecord | None,
        store_content: bool,
        failed: Container[tuple[str, bytes]],
    ) -> None:
        self._model = model
        self._failed = failed
        self.plan = Plan()
        self.kept = 0
        self.sample: list[Item] = []
        self.digests: set[bytes] = set()
        self._chooser = random.Random(0)
        self._dimensions = collection.dimensions if collection else None
        self._store_content = store_content
        self._is_stale = collection is not None and collection.fingerprint not in (
            None,
            model.fingerprint,
        )
        self.plan.is_other_version = self._is_stale

    def add(self, window: list[Row], states: dict[str, EntryState]) -> None:
        """Count one window of rows; ``states`` is what is stored under their ids."""
        plan = self.plan
        sound: list[Row] = []
        for row in window:
            is_stored = (row.entry_id or "") in states
            plan.rows += 1
            if row.is_blank:
                plan.blank += 1
                plan.blanked += is_stored
                continue
            self.kept += is_stored
            if row.problem:
                plan.unusable += 1
                plan.example_problem = plan.example_problem or row.problem
            else:
                sound.append(row)
        found = compare(
            sound,
            {} if self._is_stale else states,
            self._model,
            dimensions=self._dimensions,
            store_content=self._store_content,
        )
        plan.to_store += len(found.refreshes)
        plan.unchanged += len(found.refreshes) + found.unchanged
        for item in found.missing:
            if plan.missing < DIGEST_LIMIT:
                self.digests.add(item.content_hash)
            for row in item.rows:
                plan.missing += 1
                plan.failed_before += (str(row.entry_id), item.content_hash) in self._failed
                _add_to_sample(self.sample, row.content, plan.missing, self._chooser)


def _add_to_sample(sample: list[Item], content: Item, seen: int, chooser: random.Random) -> None:
    """Keep a uniform sample of a stream (reservoir sampling, Vitter 1985, algorithm R)."""
    # An image has no tokens to count, and two hundred of them may take a gigabyte.
    size = TOKEN_SAMPLE if isinstance(content, str) else TIMED_SAMPLE
    if len(sample) < size:
        sample.append(content)
    elif (place := chooser.randrange(seen)) < size:
        sample[place] = content


def _estimate(plan: Plan, sample: list[Item], model: EmbeddingModel) -> None:
    if not sample:
        return
    readings = read_items(model, sample)
    share = plan.missing / len(sample)
    plan.is_sampled = plan.missing > len(sample) or not model.counts_exactly
    limit = model.max_tokens
    plan.tokens = round(
        share * sum(min(reading.tokens, limit or reading.tokens) for reading in readings)
    )
    plan.too_long = round(share * sum(r.tokens > limit for r in readings)) if limit else 0
    plan.unreadable = round(share * sum(r.is_unreadable for r in readings))
    if model.price_per_million_tokens is not None:
        plan.cost_usd = plan.tokens * model.price_per_million_tokens / 1e6
    if model.dimensions:
        # The vector, and about 200 bytes of hash, id and index entries.
        plan.disk_bytes = plan.missing * (model.dimensions * 4 + 200)
    if model.is_local and plan.missing >= TIMED_FROM:
        timed = sample[:TIMED_SAMPLE]
        model.warm()
        started = time.perf_counter()
        try:
            embed_items(model, timed, Kind.DOCUMENT)
        except (ProviderError, InvalidVectorError):
            return  # the run finds the text that fails, and goes on without it
        plan.duration_seconds = (time.perf_counter() - started) / len(timed) * plan.contents
