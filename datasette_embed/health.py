"""What is wrong in a file: vectors that cannot be used, models that are missing, orphans.

Layer 8: imports ``database``, ``errors``, ``records``, ``registry``, ``schema``,
``schema_sql``, ``sources``, ``store``, ``vectors``, ``watch_triggers`` and ``watches``. Mending
is left to the engine: what is wrong here is only marked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import schema, schema_sql, vectors
from .database import DeadlineError, deadline, sqlite3
from .errors import CallRefusedError, OutdatedCollectionError, SourceError
from .records import CollectionRecord
from .registry import Registry
from .sources import Source, SourceSpec
from .store import Store
from .watch_triggers import has_triggers, has_watch_tables
from .watches import Watches

#: Entries named for each kind of problem.
EXAMPLES = 5
#: Longest one look at the rows of a collection may take.
LIMIT_SECONDS = 2.0
#: How the messages about watches begin, or end.
WATCHED = "its watch was not set up"
NOT_NOTED = "changes of its table are not noted"
FILES_GONE = "the files of its model"
ORPHANED = "that serves no collection"


@dataclass
class Problem:
    """One kind of problem: where, what, how many, which, and what to do.

    Attributes:
        collection: its name, or None for the file as a whole.
        entries: how many entries have it; None when it is not about entries.
        examples: ids of the first few.
    """

    collection: str | None
    message: str
    entries: int | None = None
    examples: list[str] = field(default_factory=list)


def find_problems(
    conn: sqlite3.Connection, path: str, registry: Registry, source_conn: sqlite3.Connection
) -> Iterator[Problem]:
    """Yield the problems of every collection, then those of the file.

    Args:
        conn: the file.
        path: named in messages.
        registry: the models there are.
        source_conn: a second connection to the same file, to try the sources on.
    """
    store = Store(conn)
    for record in store.list_collections():
        yield from _vector_problems(store, record)
        model = registry.find(record.model_id)
        if model is not None:
            try:
                record.check_current(model)
            except OutdatedCollectionError as error:
                yield Problem(record.name, error.reason)
            except CallRefusedError as error:
                yield Problem(record.name, f"{FILES_GONE} {record.model_id}: {error.reason}")
        else:
            yield Problem(
                record.name,
                f"its model {record.model_id} is not registered here: words cannot be searched, "
                "only similar entries",
            )
        if record.source:
            try:
                spec = SourceSpec.from_json(record.source)
                if not spec.is_elsewhere:
                    with deadline(source_conn, LIMIT_SECONDS):
                        Source(source_conn, spec, path)
            except DeadlineError as error:
                yield Problem(
                    record.name,
                    f"its rows cannot be looked at within {error.seconds:g} seconds",
                )
            except SourceError as error:
                yield Problem(record.name, f"its rows cannot be read: {error}")
    yield from _watch_problems(conn, store.list_collections())
    yield from _file_problems(conn)
    yield from _orphan_problems(conn)


def _vector_problems(store: Store, record: CollectionRecord) -> Iterator[Problem]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for window in store.iter_embeddings(record.id):
        for entry_id, stored in window:
            if fault := fault_of(stored, record.dimensions):
                counts[fault] += 1
                if counts[fault] <= EXAMPLES:
                    examples.setdefault(fault, []).append(str(entry_id))
    for fault, count in counts.most_common():
        yield Problem(record.name, fault, count, examples[fault])
    without_text = store.count_without_text_id(record.id)
    if without_text:
        yield Problem(record.name, f"{without_text:,} of its ids are no text: no search finds them")


def mark_for_repair(conn: sqlite3.Connection, record: CollectionRecord) -> int:
    """Make entries without a usable vector out of date, so that a sync embeds them again.

    Runs in the caller's transaction. Returns how many there are.
    """
    store = Store(conn)
    faulty = [
        entry_id
        for window in store.iter_embeddings(record.id)
        for entry_id, stored in window
        if fault_of(stored, record.dimensions)
    ]
    store.forget_hashes(record.id, faulty)
    return len(faulty)


def fault_of(stored: Any, dimensions: int | None) -> str | None:
    """Say what is wrong with a stored vector, or None."""
    if stored is None:
        return "no vector (NULL)"
    if not isinstance(stored, bytes):
        return f"not a vector but {type(stored).__name__} in place of a BLOB"
    if not stored or len(stored) % vectors.ITEM_SIZE:
        return "length is no multiple of 4 bytes"
    if dimensions is not None and len(stored) != vectors.ITEM_SIZE * dimensions:
        return f"another length than the collection's {dimensions} dimensions"
    if not vectors.blob_is_usable(stored):
        return "zero, or NaN or infinity in it"
    return None


def _file_problems(conn: sqlite3.Connection) -> Iterator[Problem]:
    if not schema.has_collections(conn):
        return
    orphans = conn.execute(
        "select count(*) from embeddings where collection_id is null"
        " or collection_id not in (select id from collections)"
    ).fetchone()[0]
    if orphans:
        yield Problem(None, "vectors of a collection that does not exist", orphans)
    if not schema.has_our_tables(conn):
        present = set(schema_sql.TRIGGERS) - set(schema.missing_triggers(conn))
        if present:
            drops = "; ".join(f"drop trigger {name}" for name in sorted(present))
            yield Problem(None, f"our tables are gone but not their triggers. Run: {drops}")
        return
    if missing := schema.missing_tables(conn):
        yield Problem(
            None,
            f"tables are missing ({', '.join(missing)}), which stops programs that delete "
            "collections: the next create or sync restores them",
        )
    has_none = not conn.execute("select 1 from collections limit 1").fetchone()
    if (missing := schema.missing_triggers(conn)) and not has_none:
        yield Problem(
            None,
            f"triggers are missing ({', '.join(missing)}): the next create or sync restores them",
        )
    stale = conn.execute(
        "select count(*) from _embed_collections as ours left join collections as c"
        " on c.id = ours.collection_id and c.name = ours.name where c.id is null"
    ).fetchone()[0]
    if stale:
        yield Problem(None, f"settings of {stale} collection(s) that no longer exist")


def _watch_problems(conn: sqlite3.Connection, records: list[CollectionRecord]) -> Iterator[Problem]:
    """Yield what keeps a watched collection from following its table."""
    watches = Watches(conn)
    by_id = {record.id: record for record in records}
    for watch in watches.list_watches():
        if not (record := by_id.get(watch.collection_id)):
            continue  # an orphan
        if not watches.is_signed(watch, record):
            yield Problem(
                record.name, f"{WATCHED} for this file on this machine: nothing follows its table"
            )
        elif not has_triggers(conn, record.id, watch.table):
            yield Problem(
                record.name,
                f"{NOT_NOTED} any more, for its triggers are gone. A Datasette server puts "
                "them back",
            )


def _orphan_problems(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Yield what is left of watches whose collection is gone."""
    has_tables = has_watch_tables(conn)
    for _, table in Watches(conn).list_orphans():
        effect = "" if has_tables else ", which stops every program that writes it,"
        where = f"triggers on table {table}{effect}" if table else "rows"
        yield Problem(None, f"{where} of a watch {ORPHANED}")
