"""What is missing: rows beside what is stored for them, and vectors that are there already.

Layer 6: imports ``models``, ``records``, ``store`` and ``vectors``. The first of the three
steps of every way to embed: find what is missing, embed it, store it. No model is called to
embed and no table of a file is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import vectors
from .models import EmbeddingModel, Item, Reading
from .records import (
    EntryState,
    EntryWarning,
    NewEntry,
    Refresh,
    Row,
    content_hash,
    entry_hash,
)
from .store import Store
from .vectors import ITEM_SIZE

#: What stays of a text that a service finds too long, each time it does; of shorter ones than the
#: shortest nothing is cut.
CUT, SHORTEST_CUT = 0.7, 200


@dataclass
class MissingContent:
    """One distinct content and the rows that carry it; there is at least one.

    Attributes:
        cut_to: the characters of its text that are embedded, where a service was found to take
            no more; None for all.
    """

    content_hash: bytes
    rows: list[Row]
    has_failed_before: bool = False
    reading: Reading = field(default_factory=lambda: Reading(0))
    cut_to: int | None = None

    @property
    def content(self) -> Item:
        """What is embedded."""
        content = self.rows[0].content
        return content if self.cut_to is None else content[: self.cut_to]

    @property
    def entry_ids(self) -> list[str]:
        """The ids of the rows."""
        return [str(row.entry_id) for row in self.rows]

    def cut(self, model: EmbeddingModel) -> bool:
        """Cut a text that a service finds too long, so that it is embedded by its beginning.

        Returns:
            Whether less of it is left to try.
        """
        content = self.content
        if not isinstance(content, str) or len(content) <= SHORTEST_CUT:
            return False
        data = content.encode("utf-8", "replace")
        # A model whose tokens are estimated has sent no more than that already.
        sent = min(len(data), 4 * (model.max_tokens or len(data)))
        left = data[: int(sent * CUT)].decode("utf-8", "ignore")
        self.cut_to = max(SHORTEST_CUT, len(left))
        return True

    def new_entries(self, blob: bytes, model: EmbeddingModel, *, store: bool) -> list[NewEntry]:
        """Return what to write for each of the rows once the content has a vector.

        Args:
            store: whether the content is stored with it.
        """
        warnings = tuple(warnings_of(self.reading, self._tokens_read(model)))
        return [
            NewEntry(
                str(row.entry_id),
                blob,
                self.content_hash,
                # Of rows that are one to the caller's own hash each keeps its content.
                row.content if store else None,
                row.metadata,
                warnings,
            )
            for row in self.rows
        ]

    def _tokens_read(self, model: EmbeddingModel) -> int | None:
        """Return how many tokens of the text the model reads at most; None for all of them."""
        if self.cut_to is None:
            return model.max_tokens
        # At least one is lost, whatever the estimate says.
        share = self.cut_to / len(self.rows[0].content)
        return min(int(self.reading.tokens * share), self.reading.tokens - 1)


class Awaited:
    """The contents that the model is called for, or about to be, each once."""

    def __init__(self) -> None:
        self._by_hash: dict[bytes, MissingContent] = {}

    def add(self, missing: Iterable[MissingContent]) -> list[MissingContent]:
        """Return those that are new; the rows of the others join those that wait already."""
        new = []
        for item in missing:
            waiting = self._by_hash.setdefault(item.content_hash, item)
            if waiting is item:
                new.append(item)
            else:
                waiting.rows += item.rows
        return new

    def remove(self, item: MissingContent) -> None:
        """Forget a content whose call has ended."""
        del self._by_hash[item.content_hash]


@dataclass
class Comparison:
    """Rows compared with what is stored under their ids.

    Attributes:
        missing: what has to be embedded, one item a distinct content.
        refreshes: what to write beside vectors that stay.
        unchanged: how many rows need nothing at all.
    """

    missing: list[MissingContent]
    refreshes: list[Refresh]
    unchanged: int


def compare(
    rows: Sequence[Row],
    states: Mapping[str, EntryState],
    model: EmbeddingModel,
    *,
    dimensions: int | None,
    store_content: bool,
    digest: Callable[[Item], bytes] = content_hash,
) -> Comparison:
    """Return what is missing of rows that have an id and something to embed.

    Args:
        states: what is stored under their ids.
        dimensions: of the collection's vectors; None while that is not known.
        store_content: whether contents are to be stored.
        digest: the hash of a content.
    """
    missing: dict[bytes, MissingContent] = {}
    refreshes: list[Refresh] = []
    unchanged = 0
    for row in rows:
        state = states.get(str(row.entry_id))
        hashed = entry_hash(row.content, model, digest)
        if state is None or not state.is_current(hashed, dimensions):
            missing.setdefault(hashed, MissingContent(hashed, [])).rows.append(row)
        elif refresh := state.refresh(row, store=store_content):
            refreshes.append(refresh)
        else:
            unchanged += 1
    return Comparison(list(missing.values()), refreshes, unchanged)


def warnings_of(
    reading: Reading, max_tokens: int | None
) -> Iterator[tuple[EntryWarning, int, int]]:
    """Yield (warning, tokens, tokens lost) for what a model cannot read of a text."""
    if max_tokens is not None and reading.tokens > max_tokens:
        yield EntryWarning.TRUNCATED, reading.tokens, reading.tokens - max_tokens
    if reading.is_unreadable:
        yield EntryWarning.UNREADABLE, reading.tokens, reading.unknown_tokens


class KnownVectors:
    """The vectors of one collection, found by the hash of what they were made of.

    During one run it also knows those that the run has replaced or deleted, for their
    contents may only have moved to entries further down.

    Args:
        store: the file. A temporary table is made on its connection when it is needed.
        collection_id: the collection.
    """

    def __init__(self, store: Store, collection_id: int) -> None:
        self._store = store
        self._collection_id = collection_id
        self._has_table = False
        self._has_replaced = False

    def find(self, hashes: Iterable[bytes], dimensions: int | None) -> dict[bytes, bytes]:
        """Return ``content hash -> blob`` of the vectors that are sound and of these dimensions."""
        if dimensions is None:
            return {}

        def is_sound(blob: Any) -> bool:
            is_whole = isinstance(blob, bytes) and len(blob) == ITEM_SIZE * dimensions
            return is_whole and vectors.blob_is_usable(blob)

        asked = list(hashes)
        found: dict[bytes, bytes] = {}
        for digest, blob in self._store.iter_by_hash(self._collection_id, asked):
            if digest not in found and is_sound(blob):
                found[digest] = blob
        for digest in asked if self._has_replaced else ():
            for blob in self._iter_set_aside(digest):
                if digest not in found and is_sound(blob):
                    found[digest] = blob
        return found

    def recall_cuts(self, reused: Iterable[MissingContent], model: EmbeddingModel) -> None:
        """Mark the texts of which a service took only the beginning when they were embedded.

        A model that counts exactly is told no more than what it reads.
        """
        items = {} if model.counts_exactly else {item.content_hash: item for item in reused}
        found = list(self._store.iter_cuts(self._collection_id, list(items)))
        for digest in items if self._has_replaced else ():
            found += self._select_replaced("content_hash, tokens, tokens_lost", digest)
        for digest, tokens, lost in found:
            if tokens and lost:
                whole = len(items[digest].rows[0].content)
                items[digest].cut_to = max(1, int(whole * (1 - lost / tokens)))

    def set_aside(self, entry_ids: Sequence[str]) -> None:
        """Keep the vectors of entries that are about to be replaced or deleted."""
        conn = self._store.conn
        # Each time, for a transaction that was undone has taken the table with it.
        conn.execute(
            "create temp table if not exists _embed_replaced (collection_id integer,"
            " content_hash blob, embedding blob, tokens integer, tokens_lost integer,"
            " primary key (collection_id, content_hash))"
        )
        if not self._has_table:
            # Left over from an earlier run. Not dropped, which SQLite refuses while the
            # caller reads what to embed over the same connection.
            conn.execute("delete from temp._embed_replaced")
            self._has_table = True
        replaced = conn.execute(
            "insert or ignore into temp._embed_replaced"
            " select e.collection_id, e.content_hash, e.embedding, w.tokens, w.tokens_lost"
            " from embeddings as e left join _embed_warnings as w"
            " on w.collection_id = e.collection_id and w.entry_id = e.id and w.warning = ?"
            " where e.collection_id = ? and e.content_hash is not null"
            " and e.id in (select value from json_each(?))",
            (EntryWarning.TRUNCATED, self._collection_id, json.dumps(entry_ids)),
        )
        self._has_replaced = self._has_replaced or replaced.rowcount > 0

    def _iter_set_aside(self, digest: bytes) -> Iterator[Any]:
        yield from (row[0] for row in self._select_replaced("embedding", digest))

    def _select_replaced(self, columns: str, digest: bytes) -> list[Any]:
        found: list[Any] = self._store.conn.execute(
            f"select {columns} from temp._embed_replaced"
            " where collection_id = ? and content_hash = ?",
            (self._collection_id, digest),
        ).fetchall()
        return found
