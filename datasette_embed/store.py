"""Collections and their entries as rows of SQLite: read, write, what is up to date.

Layer 5: imports ``errors``, ``database``, ``models``, ``records`` and ``schema``. A
``Store`` knows one connection; nothing here embeds anything. Its writing methods run
inside a transaction that the caller has opened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from . import schema
from .database import sqlite3
from .errors import (
    CollectionNotFoundError,
    EntryNotFoundError,
    ModelMismatchError,
    OutdatedCollectionError,
)
from .models import EmbeddingModel
from .records import CollectionRecord, EntryState, EntryWarning, NewEntry, read_source


class Store:
    """The collections of one SQLite file.

    Args:
        conn: a connection in autocommit mode (``database.open_database``).
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

    # -- collections ---------------------------------------------------------------

    def list_collections(self) -> list[CollectionRecord]:
        """Return the file's collections by name; none for a file without our tables."""
        if not schema.has_collections(self.conn):
            return []
        rows = self.conn.execute("select id, name, model from collections order by name")
        return [self._record(*row) for row in rows.fetchall()]

    def find_collection(self, name: str) -> CollectionRecord | None:
        """Return the collection of this name, or None."""
        if not schema.has_collections(self.conn):
            return None
        row = self.conn.execute(
            "select id, name, model from collections where name = ?", (name,)
        ).fetchone()
        return self._record(*row) if row else None

    def get_collection(self, name: str) -> CollectionRecord:
        """Return the collection of this name.

        Raises:
            CollectionNotFoundError: listing those there are.
        """
        record = self.find_collection(name)
        if record is None:
            raise CollectionNotFoundError(name, [c.name for c in self.list_collections()])
        return record

    def _record(self, collection_id: int, name: str, model_id: str) -> CollectionRecord:
        ours = None
        if schema.has_our_tables(self.conn):
            # By name and model too: SQLite reuses the id of a deleted collection, and a
            # tool without our triggers leaves our row behind.
            ours = self.conn.execute(
                "select dimensions, metric, fingerprint, source, store, rebuilding, created_at"
                " from _embed_collections where collection_id = ? and name = ? and model = ?",
                (collection_id, name, model_id),
            ).fetchone()
        if ours is None:
            return CollectionRecord(
                collection_id, name, model_id, dimensions=self._stored_dimensions(collection_id)
            )
        dimensions, metric, fingerprint, source, store, is_rebuilding, created_at = ours
        if not isinstance(dimensions, int):
            dimensions = None
        return CollectionRecord(
            collection_id,
            name,
            model_id,
            dimensions=dimensions or self._stored_dimensions(collection_id),
            metric=metric,
            fingerprint=fingerprint,
            source=read_source(source) if source else None,
            store=bool(store),
            is_rebuilding=bool(is_rebuilding),
            created_at=created_at,
        )

    def _stored_dimensions(self, collection_id: int) -> int | None:
        """Return the most frequent length of the first stored vectors, in numbers."""
        row = self.conn.execute(
            "select length(embedding) / 4 from (select embedding from embeddings"
            " where collection_id = ? and typeof(embedding) = 'blob' limit 100)"
            " where length(embedding) > 0 and length(embedding) % 4 = 0"
            " group by 1 order by count(*) desc limit 1",
            (collection_id,),
        ).fetchone()
        return row[0] if row else None

    def create_collection(self, record: CollectionRecord) -> CollectionRecord:
        """Write a new collection, or take one that another tool made under our care.

        ``record.id`` is ignored. Returns the record as stored.

        Raises:
            ModelMismatchError: a collection of this name belongs to another model.
        """
        existing = self.find_collection(record.name)
        if existing is None:
            self.conn.execute(
                "insert into collections (name, model) values (?, ?)",
                (record.name, record.model_id),
            )
        elif existing.model_id != record.model_id:
            raise ModelMismatchError(record.name, existing.model_id, record.model_id)
        collection_id = self.conn.execute(
            "select id from collections where name = ?", (record.name,)
        ).fetchone()[0]
        self.conn.execute(
            "insert or replace into _embed_collections (collection_id, name, model, fingerprint,"
            " dimensions, metric, source, store, created_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                collection_id,
                record.name,
                record.model_id,
                record.fingerprint,
                record.dimensions,
                record.metric,
                json.dumps(record.source) if record.source else None,
                int(record.store),
                record.created_at or schema.now(),
            ),
        )
        return self.get_collection(record.name)

    def set_fingerprint(self, collection: CollectionRecord, fingerprint: str) -> None:
        """Record that the collection's model changed, and that every vector is out of date.

        The hashes go, not the vectors: the collection stays searchable while it is
        embedded again, and each entry is up to date once its hash is back.
        """
        self.conn.execute(
            "update embeddings set content_hash = null where collection_id = ?", (collection.id,)
        )
        self.conn.execute(
            "update _embed_collections set fingerprint = ?, rebuilding = 1 where collection_id = ?",
            (fingerprint, collection.id),
        )

    def finish_rebuilding(self, collection: CollectionRecord) -> int:
        """Delete the vectors of the model's old version that are left, and return how many."""
        left = self.conn.execute(
            "delete from embeddings where collection_id = ? and content_hash is null",
            (collection.id,),
        ).rowcount
        self.conn.execute(
            "update _embed_collections set rebuilding = 0 where collection_id = ?",
            (collection.id,),
        )
        return int(left)

    def check_current(self, collection: CollectionRecord, model: EmbeddingModel) -> None:
        """Refuse to compare vectors of this model with those of another version of it.

        Raises:
            OutdatedCollectionError: the collection holds such vectors.
        """
        if collection.fingerprint not in (None, model.fingerprint):
            raise OutdatedCollectionError(
                collection.name,
                f"was embedded with another version of its model ({collection.fingerprint}, "
                f"now {model.fingerprint})",
            )
        if collection.is_rebuilding:
            raise OutdatedCollectionError(
                collection.name, "is only partly embedded with the new version of its model"
            )

    def has_contents(self, collection_id: int) -> bool:
        """Say whether any entry of the collection has its content stored."""
        return bool(
            self.conn.execute(
                "select 1 from embeddings where collection_id = ? and content is not null limit 1",
                (collection_id,),
            ).fetchone()
        )

    def set_dimensions(self, collection_id: int, dimensions: int) -> None:
        """Record the length of the collection's vectors."""
        self.conn.execute(
            "update _embed_collections set dimensions = ? where collection_id = ?",
            (dimensions, collection_id),
        )

    def set_store(self, collection_id: int, store: bool) -> None:
        """Record whether the collection keeps the content of its entries."""
        self.conn.execute(
            "update _embed_collections set store = ? where collection_id = ?",
            (int(store), collection_id),
        )

    def delete_collection(self, collection: CollectionRecord) -> int:
        """Delete a collection and everything kept for it. Returns how many entries went."""
        deleted = self.conn.execute(
            "delete from embeddings where collection_id = ?", (collection.id,)
        ).rowcount
        self.conn.execute("delete from collections where id = ?", (collection.id,))
        if schema.has_our_tables(self.conn):
            self.conn.execute(
                "delete from _embed_failures where job_id in"
                " (select id from _embed_jobs where collection_id = ?)",
                (collection.id,),
            )
            for table in (
                "_embed_jobs",
                "_embed_collections",
                "_embed_warnings",
                "_embed_generations",
            ):
                self.conn.execute(f"delete from {table} where collection_id = ?", (collection.id,))
            schema.drop_unused_triggers(self.conn)
        return int(deleted)

    # -- entries -------------------------------------------------------------------

    def count(self, collection_id: int) -> int:
        """Return the number of entries."""
        row = self.conn.execute(
            "select count(*) from embeddings where collection_id = ?", (collection_id,)
        ).fetchone()
        return int(row[0])

    def find_states(self, collection_id: int, entry_ids: Sequence[str]) -> dict[str, EntryState]:
        """Return what is stored under these ids; an id without an entry is absent."""
        rows = self.conn.execute(
            "select e.id, e.content_hash, e.content is not null,"
            " case typeof(e.embedding) when 'blob' then length(e.embedding) end"
            " from json_each(?) as wanted"
            " cross join embeddings as e on e.collection_id = ? and e.id = wanted.value",
            (json.dumps(entry_ids), collection_id),
        )
        return {row[0]: EntryState(row[1], bool(row[2]), row[3]) for row in rows}

    def find_by_hashes(self, collection_id: int, hashes: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return ``content hash -> embedding`` for contents stored under any id."""
        found: dict[bytes, bytes] = {}
        for digest in hashes:
            row = self.conn.execute(
                "select embedding from embeddings where content_hash = ? and collection_id = ?"
                " and embedding is not null limit 1",
                (digest, collection_id),
            ).fetchone()
            if row:
                found[digest] = row[0]
        return found

    def get_embedding(self, collection: CollectionRecord, entry_id: str) -> bytes:
        """Return the stored blob of one entry; an empty one where no BLOB is stored.

        Raises:
            EntryNotFoundError: there is no entry of this id.
        """
        row = self.conn.execute(
            "select embedding from embeddings where collection_id = ? and id = ?",
            (collection.id, entry_id),
        ).fetchone()
        if row is None:
            raise EntryNotFoundError(collection.name, entry_id)
        return row[0] if isinstance(row[0], bytes) else b""

    def iter_embeddings(
        self, collection_id: int, window: int = 10_000
    ) -> Iterator[list[tuple[str, Any]]]:
        """Yield lists of (entry id, stored value) in the order of ids.

        A value that is no BLOB (a damaged file) comes as it is.
        """
        last = ""
        comparison = ">="
        while rows := self.conn.execute(
            f"select id, embedding from embeddings where collection_id = ? and id {comparison} ?"
            " order by id limit ?",
            (collection_id, last, window),
        ).fetchall():
            yield rows
            last, comparison = rows[-1][0], ">"

    def find_contents(self, collection_id: int, entry_ids: Sequence[str]) -> dict[str, str]:
        """Return the stored content of these entries, where it is stored."""
        rows = self.conn.execute(
            "select e.id, e.content from json_each(?) as wanted cross join embeddings as e"
            " on e.collection_id = ? and e.id = wanted.value where e.content is not null",
            (json.dumps(entry_ids), collection_id),
        )
        return dict(rows.fetchall())

    def write_entries(self, collection_id: int, entries: Sequence[NewEntry]) -> None:
        """Write entries, replacing those of the same id; metadata of an entry is kept."""
        updated = int(time.time())
        self.conn.executemany(
            "insert into embeddings (collection_id, id, embedding, content, content_hash, updated)"
            " values (?, ?, ?, ?, ?, ?) on conflict (collection_id, id) do update set"
            " embedding = excluded.embedding, content = excluded.content, content_blob = null,"
            " content_hash = excluded.content_hash, updated = excluded.updated",
            [
                (collection_id, e.entry_id, e.embedding, e.content, e.content_hash, updated)
                for e in entries
            ],
        )
        self.conn.execute(
            "delete from _embed_warnings where collection_id = ?"
            " and entry_id in (select value from json_each(?))",
            (collection_id, json.dumps([e.entry_id for e in entries])),
        )
        self.conn.executemany(
            "insert into _embed_warnings (collection_id, entry_id, warning, tokens, tokens_lost)"
            " values (?, ?, ?, ?, ?)",
            [
                (collection_id, e.entry_id, warning.value, tokens, lost)
                for e in entries
                for warning, tokens, lost in e.warnings
            ],
        )

    def write_contents(self, collection_id: int, contents: Sequence[tuple[str, str]]) -> None:
        """Set the stored content of (entry id, content) pairs; the vectors stay."""
        updated = int(time.time())
        self.conn.executemany(
            "update embeddings set content = ?, updated = ? where collection_id = ? and id = ?",
            [(content, updated, collection_id, entry_id) for entry_id, content in contents],
        )

    def forget_hashes(self, collection_id: int, entry_ids: Sequence[str]) -> None:
        """Make these entries out of date, whatever their content."""
        self.conn.executemany(
            "update embeddings set content_hash = null where collection_id = ? and id = ?",
            [(collection_id, entry_id) for entry_id in entry_ids],
        )

    def delete_entries(self, collection_id: int, entry_ids: Sequence[str]) -> int:
        """Delete these entries. Returns how many there were."""
        return int(
            self.conn.execute(
                "delete from embeddings where collection_id = ?"
                " and id in (select value from json_each(?))",
                (collection_id, json.dumps(entry_ids)),
            ).rowcount
        )

    def count_warnings(self, collection_id: int) -> dict[EntryWarning, int]:
        """Return how many entries carry each warning."""
        if not schema.has_our_tables(self.conn):
            return {}
        rows = self.conn.execute(
            "select warning, count(*) from _embed_warnings where collection_id = ? group by 1",
            (collection_id,),
        )
        known = {warning.value for warning in EntryWarning}
        return {EntryWarning(name): count for name, count in rows if name in known}

    def list_warnings(
        self, collection_id: int, warning: EntryWarning, limit: int
    ) -> list[tuple[str, int, int]]:
        """Return (entry id, tokens, tokens lost), those that lose most first."""
        rows = self.conn.execute(
            "select entry_id, tokens, tokens_lost from _embed_warnings where collection_id = ?"
            " and warning = ? order by tokens_lost desc, entry_id limit ?",
            (collection_id, warning.value, limit),
        )
        return [(entry_id, tokens, lost) for entry_id, tokens, lost in rows]

    def generation(self, collection_id: int) -> int | None:
        """Return the number that grows with every change; None in a file without triggers."""
        if not schema.has_table(self.conn, "_embed_generations"):
            return None
        row = self.conn.execute(
            "select generation from _embed_generations where collection_id = ?", (collection_id,)
        ).fetchone()
        return row[0] if row else None
