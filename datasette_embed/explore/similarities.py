"""A table of each entry's nearest others, written once and brought up to date cheaply.

Layer 7: imports ``database``, ``errors``, ``schema``, ``records``, ``store`` and
``neighbors``. The table is an ordinary one; what it was made of is noted beside it, so that
the next run knows what changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from typing import Any

from ..database import quoted, read_snapshot, sqlite3, translated, write_transaction
from ..errors import SourceError
from ..records import CollectionRecord
from ..schema import columns_of, ensure_schema, has_table
from ..schema_sql import OUR_TABLES
from ..store import Store
from .neighbors import (
    CollectionVectors,
    Neighbors,
    Report,
    find_neighbors,
    read_vectors,
)

#: As in the database of https://til.simonwillison.net/, whose pages read it.
_TABLE = "create table {} (id TEXT, other_id TEXT, score FLOAT, PRIMARY KEY (id, other_id))"
_COLUMNS = {"id", "other_id", "score"}
#: Entries whose pairs are compared with the stored ones at a time.
_WINDOW = 1_000


@dataclass(frozen=True)
class SimilarityCounts:
    """What a run found and wrote.

    Attributes:
        entries: how many have a usable vector, and with it neighbours.
        left_out: how many have none.
        computed: for how many every other entry was looked at.
        pairs: rows the table has now.
        added, changed, removed: rows that were written.
    """

    entries: int
    left_out: int
    computed: int
    pairs: int
    added: int
    changed: int
    removed: int


@dataclass(frozen=True)
class _Origin:
    """What a table of pairs was made of, as noted in the file."""

    collection_id: int
    collection: str
    model: str
    fingerprint: str | None
    metric: str
    number: int


def write_similarities(
    conn: sqlite3.Connection,
    path: str,
    collection_name: str,
    *,
    table: str = "similarities",
    number: int = 10,
    only_changed: bool = False,
    report: Report | None = None,
) -> SimilarityCounts:
    """Bring a table ``(id, other_id, score)`` up to date with a collection's vectors.

    For each entry it holds the ``number`` nearest others, by the collection's metric, ties
    by id. All is computed first and then written in one transaction, and only where it
    differs from what is there.

    Args:
        conn: a connection that may write.
        path: its file, named in errors.
        only_changed: start from what is there and look only at what a change can affect.
            The result is that of a full run, which it falls back to where it has to.
        report: told how many entries are done, now and then.

    Raises:
        CollectionNotFoundError: there is no such collection.
        OutdatedCollectionError: it is only partly embedded with a new version of its model.
        SourceError: the table is a view, somebody else's, or another collection's; or
            SQLite refuses.
        ValueError: ``number`` is below 1.
    """
    if number < 1:
        raise ValueError(f"number must be at least 1, not {number}")
    with translated(path):
        vectors, wanted, previous = _read(conn, path, collection_name, table, number, only_changed)
        k = max(1, min(number, len(vectors.ids) - 1))
        if previous is None:
            computed, found = len(vectors.ids), find_neighbors(vectors, k, report=report)
        else:
            computed, found = previous.updated(vectors, k, report)
        ensure_schema(conn, path)
        with write_transaction(conn):
            # It took a while: the collection may be gone, the name be taken.
            _check(conn, path, table, Store(conn).get_collection(collection_name))
            if not _kind_of(conn, table):
                conn.execute(_TABLE.format(quoted(table)))
            written = _write_pairs(conn, table, vectors.ids, found)
            _write_origin(conn, table, wanted, vectors)
    pairs = int((found.places >= 0).sum())
    return SimilarityCounts(len(vectors.ids), vectors.left_out, computed, pairs, *written)


def _read(
    conn: sqlite3.Connection,
    path: str,
    collection_name: str,
    table: str,
    number: int,
    only_changed: bool,
) -> tuple[CollectionVectors, _Origin, _Previous | None]:
    """Return the vectors, what to note of them, and the last run if one can start from it.

    Raises:
        EmbedError: as ``write_similarities``.
    """
    with read_snapshot(conn):
        store = Store(conn)
        record = store.get_collection(collection_name)
        origin = _check(conn, path, table, record)
        wanted = _Origin(
            record.id, record.name, record.model_id, record.fingerprint, record.metric, number
        )
        vectors = read_vectors(store, record)
        previous = None
        if only_changed and _is_alike(origin, wanted) and _kind_of(conn, table):
            previous = _Previous(conn, table, vectors, number)
        return vectors, wanted, previous


# Whose table it is


def _is_alike(origin: _Origin | None, wanted: _Origin) -> bool:
    """Say whether what an origin's table holds is what is wanted, vectors aside."""
    return origin is not None and wanted == replace(
        origin, collection_id=wanted.collection_id, collection=wanted.collection
    )


def _find_origin(conn: sqlite3.Connection, table: str) -> _Origin | None:
    """Return what a table was made of; None if it was not made here."""
    if not has_table(conn, "_embed_similarities"):
        return None
    row = conn.execute(
        "select collection_id, collection, model, fingerprint, metric, number"
        " from _embed_similarities where table_name = ?",
        (table,),
    ).fetchone()
    return _Origin(*row) if row else None


def _kind_of(conn: sqlite3.Connection, name: str) -> str | None:
    """Return ``table``, ``view`` or ``index``, whatever has this name; SQLite ignores case."""
    row = conn.execute(
        "select type from sqlite_master where name = ? collate nocase and type != 'trigger'",
        (name,),
    ).fetchone()
    return str(row[0]) if row else None


def _check(
    conn: sqlite3.Connection, path: str, table: str, record: CollectionRecord
) -> _Origin | None:
    """Refuse what must not be written, or not now; return what the table was made of.

    Raises:
        OutdatedCollectionError, SourceError: as ``write_similarities``.
    """
    record.check_not_rebuilding()
    lower = table.lower()
    if lower.startswith(("_embed_", "sqlite_")) or lower in OUR_TABLES:
        raise SourceError(path, f"the name '{table}' is taken: choose another with --table")
    origin = _find_origin(conn, table)
    kind = _kind_of(conn, table)
    if kind and not (kind == "table" and origin and columns_of(conn, table) >= _COLUMNS):
        article = "an" if kind == "index" else "a"
        raise SourceError(
            path,
            f"has {article} {kind} '{table}' that was not made here: choose another name with "
            f"--table, or drop that {kind}",
        )
    if origin and record.id != origin.collection_id and record.name != origin.collection:
        raise SourceError(
            path,
            f"the table '{table}' belongs to collection '{origin.collection}': choose another "
            "with --table",
        )
    return origin


# What is there, and what a change can affect


class _Previous:
    """The pairs and digests of the last run, in terms of the places of today.

    Args:
        number: how many neighbours were asked for then, and are now.
    """

    def __init__(
        self, conn: sqlite3.Connection, table: str, vectors: CollectionVectors, number: int
    ) -> None:
        import numpy as np

        digests = _stored_digests(conn, table)
        is_changed = [
            digests.get(entry_id) != digest
            for entry_id, digest in zip(vectors.ids, vectors.digests, strict=True)
        ]
        self.changed = np.flatnonzero(np.array(is_changed, dtype=bool))
        # So many an entry listed then, unless somebody else changed the table.
        length = min(number, len(digests) - 1)
        self.kept = Neighbors.none(len(vectors.ids), max(1, length))
        is_affected = np.array(is_changed, dtype=bool)
        places = {entry_id: place for place, entry_id in enumerate(vectors.ids)}
        counts = np.zeros(len(vectors.ids), dtype=np.intp)
        for entry_id, other_id, score in conn.execute(
            f"select id, other_id, score from {quoted(table)}"
        ):
            place, other = places.get(entry_id), places.get(other_id)
            if place is None or is_affected[place]:
                continue
            at = counts[place]
            counts[place] += 1
            if at >= length or other is None or is_changed[other] or not isinstance(score, float):
                is_affected[place] = True
                continue
            self.kept.places[place, at], self.kept.scores[place, at] = other, score
        is_affected |= counts != length
        self.affected = np.flatnonzero(is_affected)

    def updated(
        self, vectors: CollectionVectors, k: int, report: Report | None
    ) -> tuple[int, Neighbors]:
        """Return for how many entries all others were looked at, and the neighbours of all.

        An entry that is changed, or listed one that is changed or gone, is looked at anew.
        To any other a changed entry may have come nearer.
        """
        import numpy as np

        found = Neighbors.none(len(vectors.ids), k)
        anew = find_neighbors(vectors, k, rows=self.affected, report=report)
        found.places[self.affected], found.scores[self.affected] = anew.places, anew.scores
        others = np.setdiff1d(np.arange(len(vectors.ids)), self.affected)
        nearer = find_neighbors(vectors, k, rows=others, columns=self.changed)
        kept = Neighbors(self.kept.places[others], self.kept.scores[others])
        merged = nearer.merged(kept)
        found.places[others], found.scores[others] = merged.places, merged.scores
        return len(self.affected), found


def _stored_digests(conn: sqlite3.Connection, table: str) -> dict[str, bytes]:
    rows = conn.execute(
        "select entry_id, digest from _embed_similarity_entries where table_name = ?", (table,)
    )
    return dict(rows.fetchall())


# Writing what differs


def _write_pairs(
    conn: sqlite3.Connection, table: str, ids: list[str], found: Neighbors
) -> tuple[int, int, int]:
    """Make the table hold these pairs; return how many were added, changed and removed."""
    name = quoted(table)
    counts = [0, 0, 0]
    for condition, limits, rows in _windows(ids):
        stored = {
            (entry_id, other_id): score
            for entry_id, other_id, score in conn.execute(
                f"select id, other_id, score from {name} where {condition}", limits
            )
        }
        pairs = dict(_iter_pairs(ids, found, rows))
        added = [(*pair, score) for pair, score in pairs.items() if pair not in stored]
        changed = [
            (score, *pair)
            for pair, score in pairs.items()
            if pair in stored and stored[pair] != score
        ]
        removed = [pair for pair in stored if pair not in pairs]
        conn.executemany(f"delete from {name} where id is ? and other_id is ?", removed)
        conn.executemany(f"update {name} set score = ? where id = ? and other_id = ?", changed)
        conn.executemany(f"insert into {name} (id, other_id, score) values (?, ?, ?)", added)
        counts[0] += len(added)
        counts[1] += len(changed)
        counts[2] += len(removed)
    return counts[0], counts[1], counts[2]


def _windows(ids: list[str]) -> Iterator[tuple[str, tuple[str, ...], range]]:
    """Yield a condition on ``id``, its parameters and the places it is about.

    Together the conditions hold for every row, also for one of an entry that is gone.
    """
    starts = range(0, len(ids), _WINDOW) if ids else range(1)
    for start in starts:
        end = min(start + _WINDOW, len(ids))
        conditions, limits = ["1"], []
        if start:
            conditions.append("id >= ?")
            limits.append(ids[start])
        if end < len(ids):
            conditions.append("id < ?")
            limits.append(ids[end])
        yield " and ".join(conditions), tuple(limits), range(start, end)


def _iter_pairs(
    ids: list[str], found: Neighbors, rows: range
) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield ((id, other id), score) of some entries."""
    places = found.places[rows.start : rows.stop].tolist()
    scores = found.scores[rows.start : rows.stop].tolist()
    for row, others, values in zip(rows, places, scores, strict=True):
        for other, score in zip(others, values, strict=True):
            if other >= 0:
                yield (ids[row], ids[other]), score


def _write_origin(
    conn: sqlite3.Connection, table: str, origin: _Origin, vectors: CollectionVectors
) -> None:
    """Note what the table was made of, where that differs from what is noted."""
    if _find_origin(conn, table) != origin:
        conn.execute(
            "insert or replace into _embed_similarities (table_name, collection_id, collection,"
            " model, fingerprint, metric, number) values (?, ?, ?, ?, ?, ?, ?)",
            (table, *astuple(origin)),
        )
    stored = _stored_digests(conn, table)
    digests = dict(zip(vectors.ids, vectors.digests, strict=True))
    gone: list[Any] = [(table, entry_id) for entry_id in stored if entry_id not in digests]
    conn.executemany(
        "delete from _embed_similarity_entries where table_name = ? and entry_id = ?", gone
    )
    conn.executemany(
        "insert or replace into _embed_similarity_entries (table_name, entry_id, digest)"
        " values (?, ?, ?)",
        [
            (table, entry_id, digest)
            for entry_id, digest in digests.items()
            if stored.get(entry_id) != digest
        ],
    )
