"""The texts shown beside the ids of search results, within bounds.

Layer 10: imports what it reads. The definition of a source comes out of the file, which
may be a stranger's, and a view or a condition can be made to run for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter

from ..database import open_database, sqlite3
from ..errors import SourceError
from ..records import CollectionRecord
from ..sources import Source, SourceSpec
from ..store import Store
from .output import say

#: Longest the texts of one search may take, all together.
LIMIT_SECONDS = 1.0
#: SQLite's instructions between two looks at the clock, about 0.1 ms.
_INSTRUCTIONS = 1_000


def find_contents(
    db: str, store: Store, record: CollectionRecord, entry_ids: Sequence[str]
) -> dict[str, str]:
    """Return ``entry id -> text``: as stored, else from the rows; say why any is missing."""
    contents = store.find_contents(record.id, entry_ids)
    missing = [entry_id for entry_id in entry_ids if entry_id not in contents]
    if not missing:
        return contents
    reason = "their rows are gone, or have a key of several columns"
    try:
        spec = SourceSpec.from_json(record.source) if record.source else None
        if spec is None:
            reason = "the collection does not say what it was made from"
        elif spec.is_elsewhere:
            reason = "their rows are in another file (--store keeps the text beside the vector)"
        elif Path(db).exists():
            with closing(open_database(db)) as conn:
                for entry_id, text in _iter_texts(conn, db, spec, missing):
                    contents[entry_id] = text
    except _TooSlow:
        reason = "reading them takes too long"
    except SourceError as error:
        reason = str(error)
    if not contents.keys() >= set(missing):
        say(f"Some texts are not shown: {reason}" if contents else f"No text is shown: {reason}")
    return contents


class _TooSlow(Exception):
    """The texts could not be read in time."""


def _iter_texts(
    conn: sqlite3.Connection, db: str, spec: SourceSpec, entry_ids: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield (entry id, text) of the rows that are there.

    Raises:
        SourceError: the source cannot be read.
        _TooSlow: it would take too long.
    """
    deadline = perf_counter() + LIMIT_SECONDS
    conn.set_progress_handler(lambda: perf_counter() > deadline, _INSTRUCTIONS)
    try:
        source = Source(conn, spec, db)
        for entry_id in entry_ids:
            if text := source.find_content(entry_id):
                yield entry_id, text
    except SourceError as error:
        if perf_counter() > deadline:
            raise _TooSlow from error
        raise
