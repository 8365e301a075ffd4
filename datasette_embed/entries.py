"""Entries as rows of SQLite: what is stored under an id, read and written.

Layer 4: imports ``database``, ``errors``, ``models``, ``records``, ``schema`` and
``strict_json``. Knows one connection and the ids of collections, not the collections. Its
writing methods run inside a transaction that the caller has opened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from . import schema
from .database import sqlite3
from .errors import EntryNotFoundError
from .models import Item
from .records import CollectionRecord, EntryState, EntryWarning, NewEntry, Refresh
from .strict_json import json_value

#: Memory for the values of one window.
WINDOW_BYTES = 64 * 1024 * 1024
#: Values of one statement; SQLite before 3.32 allows 999.
MOST_PARAMETERS = 900


class Entries:
    """The entries of one SQLite file, of all its collections.

    Args:
        conn: a connection in autocommit mode (``database.open_database``).
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

    def count(self, collection_id: int) -> int:
        """Return the number of entries."""
        row = self.conn.execute(
            "select count(*) from embeddings where collection_id = ?", (collection_id,)
        ).fetchone()
        return int(row[0])

    def find_states(self, collection_id: int, entry_ids: Sequence[str]) -> dict[str, EntryState]:
        """Return what is stored under these ids; an id without an entry is absent."""
        rows = self.conn.execute(
            "select e.id, e.content_hash,"
            " e.content is not null or e.content_blob is not null,"
            " case typeof(e.embedding) when 'blob' then length(e.embedding) end, e.metadata"
            " from json_each(?) as wanted"
            " cross join embeddings as e on e.collection_id = ? and e.id = wanted.value",
            (json.dumps(entry_ids), collection_id),
        )
        return {row[0]: EntryState(row[1], bool(row[2]), *row[3:]) for row in rows}

    def count_without_text_id(self, collection_id: int) -> int:
        """Return the number of entries whose id is NULL or a BLOB."""
        row = self.conn.execute(
            "select count(*) from embeddings where collection_id = ? and typeof(id) != 'text'",
            (collection_id,),
        ).fetchone()
        return int(row[0])

    def iter_by_hash(
        self, collection_id: int, digests: Sequence[bytes]
    ) -> Iterator[tuple[bytes, Any]]:
        """Yield (content hash, what is stored as the vector) of entries with these hashes."""
        for start in range(0, len(digests), MOST_PARAMETERS):
            asked = digests[start : start + MOST_PARAMETERS]
            yield from self.conn.execute(
                # "+", or SQLite may take the index that reads all of the collection each time.
                "select content_hash, embedding from embeddings where +collection_id = ?"
                f" and content_hash in ({', '.join('?' * len(asked))})",
                (collection_id, *asked),
            )

    def iter_cuts(
        self, collection_id: int, digests: Sequence[bytes]
    ) -> Iterator[tuple[bytes, int, int]]:
        """Yield (content hash, tokens, tokens lost) of entries that were embedded in part."""
        if not schema.has_table(self.conn, "_embed_warnings"):
            return
        for start in range(0, len(digests), MOST_PARAMETERS):
            asked = digests[start : start + MOST_PARAMETERS]
            yield from self.conn.execute(
                "select e.content_hash, w.tokens, w.tokens_lost from embeddings as e"
                " join _embed_warnings as w on w.collection_id = e.collection_id"
                " and w.entry_id = e.id and w.warning = ? where +e.collection_id = ?"
                f" and e.content_hash in ({', '.join('?' * len(asked))})",
                (EntryWarning.TRUNCATED, collection_id, *asked),
            )

    def get_embedding(self, collection: CollectionRecord, entry_id: str) -> bytes:
        """Return the stored blob of one entry; an empty one where no BLOB is stored.

        Raises:
            EntryNotFoundError: there is no entry of this id.
        """
        row = self.conn.execute(
            "select embedding from embeddings where collection_id = ? and id collate binary = ?",
            (collection.id, entry_id),
        ).fetchone()
        if row is None:
            raise EntryNotFoundError(collection.name, entry_id)
        return row[0] if isinstance(row[0], bytes) else b""

    def iter_embeddings(
        self,
        collection_id: int,
        window: int = 10_000,
        *,
        prefix: str = "",
        size: int | None = None,
    ) -> Iterator[list[tuple[str, Any]]]:
        """Yield lists of (entry id, stored value) in the order of ids.

        A value that is no BLOB (a damaged file) comes as it is. An entry whose id is no text
        is passed over: ``check`` counts those. An id that is not in the file's encoding comes
        with U+FFFD in the place of each mistake, whatever the connection makes of texts.

        Args:
            window: the longest list.
            prefix: only ids that begin with this, case and wildcards taken as they are.
            size: the bytes of a sound value. Of any other None is yielded, whatever it
                holds: a stranger's file may hold gigabytes.

        Raises:
            sqlite3.DatabaseError: the ids are damaged so that no order can be made of them.
        """
        value, sizes, encoding = "embedding", [], self.encoding
        if size is not None:
            value, sizes = "case when length(embedding) = ? then embedding end", [size]
            window = max(1, min(window, WINDOW_BYTES // max(1, size)))
        begins, parameters = self._beginning_with(prefix)
        # Ids as bytes: the next window begins behind what is stored, not behind what somebody
        # reads into it, which may come before.
        last, comparison = b"", ">="
        behind, stored_last = _as_stored(last, encoding)
        while rows := self.conn.execute(
            f"select cast(id as blob), {value} from embeddings where collection_id = ?"
            f" and id collate binary {comparison} {behind} and typeof(id) = 'text'"
            f" and {begins} order by id collate binary limit ?",
            (*sizes, collection_id, *stored_last, *parameters, window),
        ).fetchall():
            if comparison == ">" and rows[-1][0] == last:
                raise sqlite3.DatabaseError("malformed id of an entry")
            yield [(entry_id.decode(encoding, "replace"), blob) for entry_id, blob in rows]
            last, comparison = rows[-1][0], ">"
            behind, stored_last = _as_stored(last, encoding)

    @property
    def encoding(self) -> str:
        """Python's name of the file's encoding of text."""
        name = str(self.conn.execute("pragma encoding").fetchone()[0])
        return {"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}.get(name, "utf-8")

    @property
    def is_utf8(self) -> bool:
        """Whether the file keeps text as UTF-8, so that its order of ids is that of Python."""
        return self.encoding == "utf-8"

    def _beginning_with(self, prefix: str) -> tuple[str, list[str]]:
        """Return an SQL condition for ids that begin with a prefix, and its parameters."""
        end = end_of_prefix(prefix)
        if end is not None and self.is_utf8:
            return "id collate binary >= ? and id collate binary < ?", [prefix, end]
        return "substr(id, 1, length(?)) = ?", [prefix, prefix]

    def find_embeddings(self, collection_id: int, entry_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the stored blobs of these entries; an id without one is absent."""
        found = {}
        # One by one, for JSON would end an id at the character NUL.
        for entry_id in entry_ids:
            for (blob,) in self.conn.execute(
                "select embedding from embeddings where collection_id = ? and id collate binary = ?"
                " and typeof(embedding) = 'blob'",
                (collection_id, entry_id),
            ):
                found[entry_id] = blob
        return found

    def find_contents(self, collection_id: int, entry_ids: Sequence[str]) -> dict[str, str]:
        """Return the stored content of these entries, where it is stored."""
        details = self.find_details(collection_id, entry_ids)
        return {entry_id: text for entry_id, (text, _) in details.items() if text is not None}

    def find_details(
        self, collection_id: int, entry_ids: Sequence[str]
    ) -> dict[str, tuple[str | None, Any]]:
        """Return ``entry id -> (stored text, metadata)``.

        Metadata that is no JSON comes as the text that is stored; what is no UTF-8, with
        U+FFFD in the place of each mistake.
        """
        encoding = self.encoding
        found = {}
        # One by one, for JSON would end an id at the character NUL.
        for entry_id in entry_ids:
            for content, metadata in self.conn.execute(
                "select cast(content as blob), cast(metadata as blob) from embeddings"
                " where collection_id = ? and id collate binary = ?",
                (collection_id, entry_id),
            ):
                texts = [_decoded(value, encoding) for value in (content, metadata)]
                found[entry_id] = texts[0], _read_metadata(texts[1])
        return found

    def write_entries(
        self, collection_id: int, entries: Sequence[NewEntry], *, keep_metadata: bool = False
    ) -> None:
        """Write entries, replacing those of the same id.

        Args:
            keep_metadata: leave the stored metadata of an entry that comes without any.
        """
        if not entries:
            return
        metadata = "coalesce(excluded.metadata, metadata)" if keep_metadata else "excluded.metadata"
        updated = int(time.time())
        self.conn.executemany(
            "insert into embeddings (collection_id, id, embedding, content, content_blob,"
            " content_hash, metadata, updated) values (?, ?, ?, ?, ?, ?, ?, ?)"
            " on conflict (collection_id, id) do update set embedding = excluded.embedding,"
            " content = excluded.content, content_blob = excluded.content_blob,"
            f" content_hash = excluded.content_hash, metadata = {metadata},"
            " updated = excluded.updated",
            [
                (
                    collection_id,
                    e.entry_id,
                    e.embedding,
                    *_content_columns(e.content),
                    e.content_hash,
                    e.metadata,
                    updated,
                )
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

    def refresh_entries(self, collection_id: int, refreshes: Sequence[Refresh]) -> None:
        """Set the stored content or metadata of entries; their vectors stay."""
        updated = int(time.time())
        self.conn.executemany(
            "update embeddings set content = coalesce(?, content),"
            " content_blob = coalesce(?, content_blob), metadata = coalesce(?, metadata),"
            " updated = ? where collection_id = ? and id = ? and content_hash is ?",
            [
                (
                    *_content_columns(refresh.content),
                    refresh.metadata,
                    updated,
                    collection_id,
                    refresh.entry_id,
                    refresh.content_hash,
                )
                for refresh in refreshes
            ],
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
        if not schema.has_table(self.conn, "_embed_warnings"):
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


def _content_columns(content: Item | None) -> tuple[str | None, bytes | None]:
    """Return the values of the columns ``content`` and ``content_blob``."""
    return (content, None) if isinstance(content, str) else (None, content)


def _as_stored(text: bytes, encoding: str) -> tuple[str, list[bytes]]:
    """Return an SQL expression for a text as the file keeps it, and its parameters."""
    if encoding == "utf-8":
        return "cast(? as text)", [text]
    # SQLite takes the bytes of a parameter for UTF-8, those of a literal for the file's own.
    return f"cast(x'{text.hex()}' as text)", []


def _decoded(stored: bytes | None, encoding: str) -> str | None:
    return None if stored is None else stored.decode(encoding, "replace")


def _read_metadata(stored: str | None) -> Any:
    try:
        return json_value(stored) if stored else None
    except (ValueError, TypeError):
        return stored


def end_of_prefix(prefix: str) -> str | None:
    """Return the first text, in SQLite's order, behind all that begin with a prefix.

    None when there is none: nothing comes behind the last of all characters.
    """
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    # Surrogates are no characters: UTF-8 goes from U+D7FF to U+E000.
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)
