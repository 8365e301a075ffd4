"""Weak matches: whether the best rows for some words are near, or only the least far.

Layer 11: imports ``models``, ``records``, ``store`` and ``vectors``. Every search finds rows, and
what a score means differs from model to model, so the collection itself is the measure: how
far the nearest other row stands out from all rows, for rows of its own.

The gap of a search is its best score less the mean of the scores of all rows. It is weak
below 0.6 of the usual gap, the median of those of up to 100 rows against the rest of a
sample, without the rows that say the same (a score of 0.99 or more). benchmarks/weak_matches.py
asks 577 articles 30 questions that they answer and 30 about other things: none of the first is
called weak, 27 of the others are, also where rows repeat. A least score chosen for these very
questions does as well (2 wrong); but it has to be another for each model.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .. import vectors
from ..database import sqlite3
from ..records import CollectionRecord
from ..store import Store
from .lookup import read

if TYPE_CHECKING:
    from datasette.app import Datasette
    from datasette.database import Database

    from ..vectors import Vectors

#: The part of the usual gap below which a search found nothing near.
WEAK_PART = 0.6
#: Rows that stand for all, and of them those whose nearest is looked for.
SAMPLED_ROWS, SAMPLED_GAPS = 1_000, 100
#: Of fewer rows nothing can be said.
FEWEST_ROWS = 20
#: From this score on another row says the same, and how near it is says nothing of the others.
SAME_SCORE = 0.99
#: Entries that are listed to choose the sampled ones from, which takes some 30 ms.
_MOST_LISTED = 50_000
#: A stranger's file may have any number of collections.
_MOST_REMEMBERED = 1_000


@dataclass(frozen=True)
class Usual:
    """What is usual in a collection.

    Attributes:
        centre: the mean of its rows' vectors at length 1.
        best: the score of the nearest other row, the median.
        gap: the same above the mean of all scores.
    """

    centre: Vectors
    best: float
    gap: float

    def is_weak(self, blob: bytes, best: float) -> bool:
        """Say whether a best score is that of a search that found nothing near.

        Args:
            blob: the vector searched for.
            best: the cosine of the best row.
        """
        query_vector = vectors.normalize(vectors.decode(blob))
        if len(query_vector) != len(self.centre):
            return False
        mean = float(vectors.dot_scores(self.centre[None, :], query_vector)[0])
        return best - mean < WEAK_PART * self.gap


def usual_of(blobs: list[bytes]) -> Usual | None:
    """Return what is usual among vectors; None of too few, or of rows that are all one."""
    sound = [blob for blob in dict.fromkeys(blobs) if vectors.blob_is_usable(blob)]
    length = max(map(len, sound), default=0)
    rows = [vectors.decode(blob) for blob in sound if len(blob) == length]
    if len(rows) < FEWEST_ROWS:
        return None
    matrix = vectors.normalize(vectors.as_vectors(rows))
    step = max(1, len(rows) // SAMPLED_GAPS)
    best, gaps = [], []
    for place in range(0, len(rows), step):
        scores = vectors.dot_scores(matrix, matrix[place]).tolist()
        others = [score for score in scores if score < SAME_SCORE]
        if len(others) >= FEWEST_ROWS - 1:
            best.append(max(others))
            gaps.append(best[-1] - fmean(others))
    gap = median(gaps) if gaps else 0.0
    return Usual(vectors.average(matrix), median(best), gap) if gap > 0 else None


_remembered: WeakKeyDictionary[Any, dict[Hashable, tuple[Hashable, Usual | None]]] = (
    WeakKeyDictionary()
)
_lock = threading.Lock()


async def find_usual(
    datasette: Datasette, database: Database, record: CollectionRecord
) -> Usual | None:
    """Return what is usual in a collection, kept in memory until it changes.

    None where nothing can be said; of scores that are no cosines nothing is.

    Raises:
        SourceError: the file cannot be read.
    """
    if record.metric != "cosine":
        return None
    with _lock:
        remembered = _remembered.setdefault(datasette, {})
    key = (database.name, record.id, record.name)

    def find(conn: sqlite3.Connection) -> Usual | None:
        stamp = _stamp(conn, record)
        found = remembered.get(key)
        if found is None or found[0] != stamp:
            found = stamp, usual_of(_sample(conn, record))
            with _lock:
                if len(remembered) >= _MOST_REMEMBERED:
                    remembered.clear()
                remembered[key] = found
        return found[1]

    return await read(database, find)


def _stamp(conn: sqlite3.Connection, record: CollectionRecord) -> Hashable:
    generation = Store(conn).generation(record.id)
    if generation is not None:
        return generation
    # Nobody counts the changes of this file; so near a number need not be.
    sql = "select count(*), max(rowid) from embeddings where collection_id = ?"
    return tuple(conn.execute(sql, (record.id,)).fetchone())


def _sample(conn: sqlite3.Connection, record: CollectionRecord) -> list[bytes]:
    """Return vectors from everywhere in the collection, the same ones each time.

    Of a large one from its beginning in the order of ids: every change of the collection
    makes a visitor wait for this.
    """
    # The index alone is read for this: it ends with the rowid.
    sql = "select rowid from embeddings where collection_id = ? order by id limit ?"
    ids = [row[0] for row in conn.execute(sql, (record.id, _MOST_LISTED))]
    step = max(1, len(ids) // SAMPLED_ROWS)
    sql = "select embedding from embeddings where rowid = ?"
    rows = [conn.execute(sql, (number,)).fetchone() for number in ids[::step][:SAMPLED_ROWS]]
    return [row[0] for row in rows if row and isinstance(row[0], bytes)]
