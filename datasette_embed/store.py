"""Collections as rows of SQLite: made, found, described, deleted.

Layer 5: imports ``database``, ``entries``, ``errors``, ``models``, ``records``, ``schema`` and
``watch_triggers``. A ``Store`` knows one connection; nothing here embeds anything. Its writing
methods run inside a transaction that the caller has opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from . import schema
from .database import check_writable, open_database, sqlite3, translated
from .entries import Entries
from .errors import (
    CollectionNotFoundError,
    ModelMismatchError,
    SourceError,
)
from .records import CollectionRecord, read_source
from .schema import SEPARATE_FILE
from .watch_triggers import drop_triggers

#: Where the name of a collection is kept beside its id: table, column.
_NAMED = (
    ("_embed_collections", "name"),
    ("_embed_jobs", "collection"),
    ("_embed_similarities", "collection"),
)
#: Tables of ours with rows of one collection.
_KEPT_FOR_COLLECTIONS = (
    "_embed_jobs",
    "_embed_collections",
    "_embed_warnings",
    "_embed_generations",
    "_embed_watches",
    "_embed_changes",
)


class Store(Entries):
    """The collections of one SQLite file.

    Args:
        conn: a connection in autocommit mode (``database.open_database``).
    """

    def list_collections(self) -> list[CollectionRecord]:
        """Return the file's collections by name; none for a file without our tables."""
        if not schema.has_collections(self.conn):
            return []
        rows = self.conn.execute(
            "select id, name, model from collections where typeof(name) = 'text' order by name"
        )
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
        # A file may hold anything: what is no text could not be shown.
        model_id = str(model_id)
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
            metric=str(metric),
            fingerprint=str(fingerprint),
            source=read_source(source) if source else None,
            store=bool(store),
            is_rebuilding=bool(is_rebuilding),
            created_at=created_at if isinstance(created_at, str) else None,
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

        ``record.id`` is ignored. Returns the record as stored: of a collection that is in
        our care already nothing is changed.

        Raises:
            ModelMismatchError: a collection of this name belongs to another model.
        """
        found = self.find_collection(record.name)
        if found is None:
            self.conn.execute(
                "insert into collections (name, model) values (?, ?)",
                (record.name, record.model_id),
            )
        elif found.model_id != record.model_id:
            raise ModelMismatchError(record.name, found.model_id, record.model_id)
        elif found.fingerprint is not None:
            return found  # somebody made it in the meantime
        self.conn.execute(
            "insert or replace into _embed_collections (collection_id, name, model, fingerprint,"
            " dimensions, metric, source, store, created_at)"
            " select id, name, model, ?, ?, ?, ?, ?, ? from collections where name = ?",
            (
                record.fingerprint,
                record.dimensions,
                record.metric,
                json.dumps(record.source) if record.source else None,
                int(record.store),
                record.created_at or schema.now(),
                record.name,
            ),
        )
        return self.get_collection(record.name)

    def set_source(self, collection: CollectionRecord, source: dict[str, Any]) -> None:
        """Record what a collection is made from."""
        self.conn.execute(
            "update _embed_collections set source = ? where collection_id = ?",
            (json.dumps(source), collection.id),
        )

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

    def has_contents(self, collection_id: int) -> bool:
        """Say whether any entry of the collection has its content stored."""
        return bool(
            self.conn.execute(
                "select 1 from embeddings where collection_id = ? and content is not null limit 1",
                (collection_id,),
            ).fetchone()
        )

    def set_space(self, collection_id: int, dimensions: int, metric: str) -> None:
        """Record how long the collection's vectors are and how they are compared.

        Some models say either only once they are loaded, which may be after it was made.
        """
        self.conn.execute(
            "update _embed_collections set dimensions = ?, metric = ? where collection_id = ?",
            (dimensions, metric, collection_id),
        )

    def set_store(self, collection_id: int, store: bool) -> None:
        """Record whether the collection keeps the content of its entries."""
        self.conn.execute(
            "update _embed_collections set store = ? where collection_id = ?",
            (int(store), collection_id),
        )

    def rename_collection(self, collection: CollectionRecord, name: str) -> CollectionRecord:
        """Give a collection another name wherever its name is kept. Returns it as stored.

        Raises:
            SourceError: the name is blank or taken.
        """
        if not name.strip():
            raise SourceError("the new name", "is blank")
        if self.find_collection(name) is not None:
            raise SourceError(f"collection '{name}'", "is there already: choose another name")
        values = (name, collection.id)
        self.conn.execute("update collections set name = ? where id = ?", values)
        for table, column in _NAMED:
            if schema.has_table(self.conn, table):
                self.conn.execute(
                    f"update {table} set {column} = ? where collection_id = ?", values
                )
        return self.get_collection(name)

    def delete_collection(self, collection: CollectionRecord) -> int:
        """Delete a collection and everything kept for it. Returns how many entries went."""
        deleted = self.conn.execute(
            "delete from embeddings where collection_id = ?", (collection.id,)
        ).rowcount
        self.conn.execute("delete from collections where id = ?", (collection.id,))
        drop_triggers(self.conn, collection.id)
        if schema.has_table(self.conn, "_embed_similarities"):
            # The table of pairs stays, as an ordinary one.
            self.conn.execute(
                "delete from _embed_similarity_entries where table_name in"
                " (select table_name from _embed_similarities where collection_id = ?)",
                (collection.id,),
            )
            self.conn.execute(
                "update _embed_similarities set collection_id = 0 where collection_id = ?",
                (collection.id,),
            )
        if schema.has_our_tables(self.conn):
            self.conn.execute(
                "delete from _embed_failures where job_id in"
                " (select id from _embed_jobs where collection_id = ?)",
                (collection.id,),
            )
            for table in _KEPT_FOR_COLLECTIONS:
                if schema.has_table(self.conn, table):  # an earlier version made fewer
                    self.conn.execute(
                        f"delete from {table} where collection_id = ?", (collection.id,)
                    )
            schema.drop_unused_triggers(self.conn)
        return int(deleted)

    def generation(self, collection_id: int) -> int | None:
        """Return the number that grows with every change; None in a file without triggers."""
        if not schema.has_table(self.conn, "_embed_generations"):
            return None
        row = self.conn.execute(
            "select generation from _embed_generations where collection_id = ?", (collection_id,)
        ).fetchone()
        return row[0] if row else None


@contextmanager
def existing(path: str, remedy: str = SEPARATE_FILE) -> Iterator[sqlite3.Connection | None]:
    """Open the file that vectors go to, if it is there, and make sure it takes them.

    A file that is locked, read-only or somebody else's says so here, before any work.

    Args:
        remedy: what to do when the file has tables of somebody else's in the place of ours.

    Raises:
        SourceError: it cannot be used, or its folder does not exist.
    """
    if not Path(path).exists():
        if not Path(path).absolute().parent.is_dir():
            raise SourceError(path, "its folder does not exist")
        yield None
        return
    with closing(open_database(path, writable=True)) as conn, translated(path):
        schema.refuse_foreign(conn, path, remedy)
        check_writable(conn)
        yield conn
