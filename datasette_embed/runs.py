"""Runs: a whole embedding run, from the question what there is to do to its end.

Layer 9: imports what a run is made of (``opened_sources``, ``planning``, ``collection_setup``,
``jobs``), ``amounts``, ``budgets`` for what costs nothing, and ``collection`` for a search. The
commands and, with ``create``, ``sync`` and ``search``, every Python program start here. Nothing is
printed and nobody is asked; what would be asked comes as questions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .amounts import about_money_text
from .budgets import is_free
from .collection import Collection, Entry
from .collection_setup import check_collection, ensure_collection
from .database import DatabaseLike, open_database, translated
from .errors import SourceError
from .image_values import ImageAccess
from .job_records import JobCounts, JobRecords, JobStatus
from .jobs import JobRun
from .model_names import default_model
from .models import Item
from .opened_sources import (
    Confirm,
    chosen_source,
    is_elsewhere,
    opened_source,
    require,
    syncable,
    synced_source,
)
from .planning import Plan, make_plan
from .records import RowSource
from .registry import Registry, get_registry
from .schema import SEPARATE_FILE
from .store import Store, existing


@dataclass(frozen=True)
class RunOptions:
    """How a run embeds.

    Attributes:
        store: store the content beside its vector.
        remove: delete entries whose row is gone.
        key: the API key to call the model with.
        batch_size: most texts of one model call; None for the usual number.
        job_id: the job to go on with; None for the collection's unfinished one, else a new one.
    """

    store: bool = False
    remove: bool = False
    key: str | None = None
    batch_size: int | None = None
    job_id: int | None = None


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        collection: its name.
        status: ``finished``, ``paused`` when the model kept failing, or what was asked for in
            the file.
        counts: what was done, in rows.
        job_id: the job whose row and failures tell more; None when nothing was to do.
        reason: why it has not finished.
    """

    collection: str
    status: JobStatus
    counts: JobCounts
    job_id: int | None = None
    reason: str | None = None


class Run:
    """One run over a source, prepared: nothing has been written yet.

    Args:
        path: the file the vectors go to; it may not exist.
        name: the collection; it may not exist.
        source: the rows.
        model_id: None for the collection's own model, else the default one.
        options: how to embed.
        registry: the models there are; None for those of this process.

    Attributes:
        model: the model it embeds with.
        plan: what there is to do.
        entries: how many the collection has now.
        is_done: whether there is nothing to do at all.

    Raises:
        EmbedError: it cannot be done.
    """

    def __init__(
        self,
        path: str,
        name: str,
        source: RowSource,
        model_id: str | None = None,
        options: RunOptions | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.source = source
        self.options = options or RunOptions()
        self.entries = 0
        unfinished = None
        # Only what is read from a table has such an option.
        remedy = SEPARATE_FILE + (" with --into embeddings.db" if source.definition else "")
        with existing(path, remedy) as conn:
            store = Store(conn) if conn else None
            collection = store.find_collection(name) if store else None
            if conn and store and collection:
                unfinished = JobRecords(conn).find_resumable(collection.id)
                self.entries = store.count(collection.id)
                model_id = model_id or collection.model_id
            self.model = default_model(registry or get_registry(), model_id)
            check_collection(collection, self.model, source)
            keeps_content = self.options.store or bool(collection and collection.store)
            self.plan = make_plan(
                source, self.model, store, collection, store_content=keeps_content
            )
        if collection is None or source.definition is None:
            _refuse_nothing(self.plan, source)
        # A job that was killed after its last batch still waits to be finished, and so does
        # a collection whose job was cancelled there.
        self.is_done = (
            collection is not None
            and self.plan.is_up_to_date
            and not unfinished
            and not collection.is_rebuilding
            and not (self.options.remove and self.plan.removable)
        )

    def questions(self) -> Iterator[str]:
        """Yield what to ask before it costs money, or empties the collection."""
        plan, model = self.plan, self.model
        if plan.missing and not is_free(model):
            cost = f" for {about_money_text(plan.cost_usd)}" if plan.cost_usd is not None else ""
            rows = "1 row" if plan.missing == 1 else f"{plan.missing:,} rows"
            yield f"Embed {rows} with {model.model_id}{cost}?"
        removed = plan.removable if self.options.remove else plan.blanked
        if self.entries and removed == self.entries and not plan.missing:
            yield f"Remove all {self.entries:,} entries of '{self.name}', whose rows are gone?"

    @contextmanager
    def opened(self) -> Iterator[JobRun]:
        """Make the file, the collection and the job, as far as they are missing, and yield it.

        Raises:
            MissingKeyError: the model needs an API key; nothing has been made.
            EmbedError: as ``ensure_collection``; what is raised inside the block too.
        """
        options = self.options
        if self.plan.missing:
            self.model.key_for_call(options.key)
        with (
            closing(open_database(self.path, writable=True, create=True)) as conn,
            translated(self.path),
        ):
            collection, job = ensure_collection(
                conn,
                self.path,
                self.name,
                self.model,
                self.source,
                store_content=options.store,
                job_id=options.job_id,
            )
            yield JobRun(
                conn,
                self.path,
                collection,
                job,
                self.source,
                self.model,
                rows_total=self.plan.rows,
                remove=options.remove,
                key=options.key,
                batch_size=options.batch_size,
            )

    def complete(
        self, confirm: Confirm | None = None, pause: threading.Event | None = None
    ) -> RunOutcome:
        """Do what there is to do, silently.

        Args:
            confirm: asked before what costs money or empties the collection; None: go on.
            pause: set it to end the run after the batch in flight; the next one goes on.

        Raises:
            SourceError: the answer to a question was no; nothing was changed.
            EmbedError: the job failed; its row says how far it came.
        """
        if self.is_done:
            plan = self.plan
            counts = JobCounts(plan.rows, unchanged=plan.unchanged, blank=plan.blank)
            return RunOutcome(self.name, JobStatus.FINISHED, counts)
        for question in self.questions() if confirm else ():
            require(confirm, f"collection '{self.name}'", question)
        with self.opened() as job:
            job.pause = pause or job.pause
            status = job.run()
            return RunOutcome(self.name, status, job.counts, job.job.id, job.reason)


def create(
    db: str | Path,
    table: str | None = None,
    *,
    columns: Sequence[str] = (),
    template: str | None = None,
    sql: str | None = None,
    where: str | None = None,
    id_columns: Sequence[str] = (),
    collection: str | None = None,
    model_id: str | None = None,
    store: bool = False,
    into: str | Path | None = None,
    key: str | None = None,
    image: str | None = None,
    image_files: str | Path | None = None,
    image_urls: bool = False,
) -> RunOutcome:
    """Embed the rows of a table, a view or a query: ``datasette embed create``.

    Again, after an interruption or when rows were added, it embeds only what is missing.

    Args:
        table: a table or view of ``db``; or ``sql``, a query whose first column is the id.
        columns: what makes up the text; none: those that hold prose. Or a ``template``.
        image: a column of images instead; of paths in ``image_files``, of ``image_urls``.
        id_columns: the columns that name a row; none: the primary key.
        collection: its name, None for the table's. ``into``: its file, None for ``db``.
        model_id: None for the collection's own model, else the default one.

    Raises:
        EmbedError: nothing was changed, or the job's row says how far it came.
        ValueError: neither or both of ``table`` and ``sql``; no name for the collection.
    """
    images = _image_access(image_files, image_urls)
    name, spec = chosen_source(
        table=table,
        sql=sql,
        columns=_names(columns),
        template=template,
        where=where,
        id_columns=_names(id_columns),
        collection=collection,
        is_elsewhere=is_elsewhere(db, into),
        image=image,
        images=images,
    )
    path, options = str(into or db), RunOptions(store=store, key=key)
    with opened_source(str(db), spec, path, name, images=images) as source:
        return Run(path, name, source, model_id, options).complete()


def sync(
    db: str | Path,
    *collections: str,
    rows_from: str | Path | None = None,
    keep_removed: bool = False,
    key: str | None = None,
    confirm: Confirm = lambda question: False,
    image_files: str | Path | None = None,
    image_urls: bool = False,
) -> list[RunOutcome]:
    """Bring collections up to date with their rows: ``datasette embed sync``.

    Args:
        db: the file with the collections.
        collections: their names; none for all that know what they were made from.
        rows_from: the file that holds the rows of those whose rows are elsewhere.
        keep_removed: keep entries whose row is gone.
        key: the API key to call models with.
        confirm: asked before it reads rows of another file (the collection says which, and
            may be a stranger's), before it costs money and before it empties a collection.
            The default answers no.
        image_files: the folder of the images whose paths a collection was made from.
        image_urls: fetch the images whose addresses a collection was made from.

    Raises:
        EmbedError: a collection cannot be brought up to date; those before it are.
    """
    options = RunOptions(remove=not keep_removed, key=key)
    images = _image_access(image_files, image_urls)
    outcomes = []
    for record in syncable(str(db), collections):
        elsewhere = None if rows_from is None else str(rows_from)
        with synced_source(str(db), record, elsewhere, confirm, images) as source:
            run = Run(str(db), record.name, source, options=options)
            outcomes.append(run.complete(confirm))
    return outcomes


def search(
    db: DatabaseLike,
    collection: str,
    value: Item,
    number: int | None = 10,
    *,
    prefix: str | None = None,
    key: str | None = None,
) -> list[Entry]:
    """Return the entries of a collection most similar to a text or to bytes, best first.

    Raises:
        EmbedError: as ``Collection`` and ``Collection.similar``; nothing is written.
        ValueError: ``number`` is below 0.
    """
    with Collection(collection, db, create=False) as opened:
        return opened.similar(value, number, prefix, key=key)


def _image_access(folder: str | Path | None, urls: bool) -> ImageAccess:
    return ImageAccess(None if folder is None else str(folder), urls)


def _names(columns: Sequence[str]) -> tuple[str, ...]:
    # A text is a sequence too, of its characters.
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _refuse_nothing(plan: Plan, source: RowSource) -> None:
    """Refuse a source of which no row can be embedded; nothing has been written yet."""
    if plan.rows == 0:
        raise SourceError(source.path, f"{source.name} has no rows to embed")
    if plan.blank + plan.unusable == plan.rows:
        if plan.unusable:
            raise SourceError(
                source.path, f"no row of {source.name} can be embedded: {plan.example_problem}"
            )
        rows = "the only row is" if plan.rows == 1 else f"all {plan.rows:,} rows are"
        raise SourceError(source.path, f"{rows} empty or NULL")
