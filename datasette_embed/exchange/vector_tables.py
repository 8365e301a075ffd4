"""Tables that hold vectors already, made by other tools, read as rows to import.

Imports ``database``, ``errors``, ``models``, ``registry``, ``schema``, ``sources`` and
``values``. Recognised without options: a table ``(id, embedding)``, and the tables
``_embeddings_NAME`` of the enrichment datasette-embeddings 0.1a3, with the primary key of the
table NAME and a column ``emb_MODEL`` for each model. The file is read, never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..database import quoted, sqlite3, translated
from ..errors import SourceError
from ..registry import get_registry
from ..schema import has_collections
from ..sources import entry_id_of
from .values import FileRow, Header

#: The models of datasette-embeddings 0.1a3, and the one before them. Their column cannot be
#: read back letter by letter, for both ``-`` and ``.`` became ``_``.
_MODELS = (
    "text-embedding-3-small",
    "text-embedding-3-large",
    "text-embedding-3-small-512",
    "text-embedding-3-large-256",
    "text-embedding-3-large-1024",
    "text-embedding-ada-002",
)
_PREFIX = "emb_"
_ROWIDS = ("rowid", "_rowid_", "oid")
_WINDOW = 1_000


@dataclass(frozen=True)
class TableSpec:
    """Which table, and which of its columns; empty and None where that is to be found out."""

    table: str
    id_columns: tuple[str, ...] = ()
    vector: str | None = None
    content: str | None = None


class TableRows:
    """The rows of a table or view, as ``values.Rows``.

    Args:
        conn: a connection of its own to the file, which may be written to meanwhile.
        path: named in errors.

    Raises:
        SourceError: no such table or column, or the columns do not say what they are.
    """

    def __init__(self, conn: sqlite3.Connection, path: str, spec: TableSpec) -> None:
        self.path = path
        self.notes: list[str] = []
        self.position = 0
        self._conn = conn
        conn.text_factory = _decoded
        with translated(path):
            self._open(spec)

    def _open(self, spec: TableSpec) -> None:
        is_plain = self._known_table(spec.table)
        self._table = quoted(spec.table)
        rows = self._conn.execute(
            "select name, type, pk from pragma_table_xinfo(?)", (spec.table,)
        ).fetchall()
        self._names = [name for name, _, _ in rows]
        blobs = [name for name, kind, _ in rows if str(kind).upper() == "BLOB"]
        rowid = self._find_rowid() if is_plain else None
        primary_key = [name for _, name in sorted((pk, name) for name, _, pk in rows if pk)]
        vector = self._vector(spec, blobs)
        ids = self._ids(spec, primary_key, rowid)
        self._check_columns([*ids, vector, *([spec.content] if spec.content else [])], rowid)
        self._columns = [
            *(c if c == rowid and c not in self._names else quoted(c) for c in ids),
            quoted(vector),
            quoted(spec.content) if spec.content else "null",
        ]
        self._rowid = rowid
        self.header = Header(model_id=_model_of(vector))
        (self.size,) = self._conn.execute(f"select count(*) from {self._table}").fetchone()

    def _known_table(self, name: str) -> bool:
        """Return whether it is a table whose rows can be paged by their rowid.

        Raises:
            SourceError: there is none, or it is one of those that hold collections.
        """
        rows = self._conn.execute(
            "select name, sql, type from sqlite_master where type in ('table', 'view')"
            " and name not like 'sqlite\\_%' escape '\\' order by name"
        ).fetchall()
        known = {row[0]: row[1:] for row in rows}
        if name not in known:
            names = ", ".join(known) or "none"
            raise SourceError(self.path, f"no table named '{name}'. Tables and views: {names}")
        is_ours = name in ("collections", "embeddings") and has_collections(self._conn)
        if is_ours or name.startswith("_embed_"):
            raise SourceError(
                self.path,
                f"'{name}' is where collections are kept: use collections export, then import",
            )
        sql, kind = known[name]
        return kind == "table" and not str(sql).lower().startswith("create virtual")

    def _find_rowid(self) -> str | None:
        """Return a name for the rowid that no column has taken; None without a rowid."""
        taken = {name.lower() for name in self._names}
        for alias in _ROWIDS:
            if alias not in taken:
                try:
                    self._conn.execute(f"select {alias} from {self._table} limit 0")
                except sqlite3.OperationalError:
                    return None
                return alias
        return None

    def _vector(self, spec: TableSpec, blobs: list[str]) -> str:
        """Return the column that holds the vectors."""
        if spec.vector:
            return spec.vector
        by_model = [name for name in self._names if name.startswith(_PREFIX)]
        for candidates in (by_model, [n for n in self._names if n == "embedding"], blobs):
            if len(candidates) == 1:
                return candidates[0]
            if candidates:
                raise SourceError(
                    self.path,
                    f"'{spec.table}' has several columns of vectors: name one with --vector "
                    f"({', '.join(candidates)})",
                )
        raise SourceError(
            self.path,
            f"'{spec.table}' has no column that looks like vectors: name one with --vector. "
            f"Columns: {', '.join(self._names)}",
        )

    def _ids(self, spec: TableSpec, primary_key: list[str], rowid: str | None) -> list[str]:
        """Return the columns that name a row."""
        if spec.id_columns:
            return list(spec.id_columns)
        if primary_key:
            return primary_key
        if "id" in self._names:
            return ["id"]
        if rowid:
            return [rowid]
        raise SourceError(
            self.path,
            f"'{spec.table}' has no primary key: name the column of the ids with --id. "
            f"Columns: {', '.join(self._names)}",
        )

    def _check_columns(self, columns: list[str], rowid: str | None) -> None:
        # SQLite would take an unknown name in double quotes for a text.
        for column in columns:
            if column not in self._names and column != rowid:
                raise SourceError(
                    self.path, f"no column named '{column}'. Columns: {', '.join(self._names)}"
                )

    def __iter__(self) -> Iterator[FileRow]:
        for record in self._records():
            self.position += 1
            *key, vector, content = record
            entry_id = _find_id(key)
            if entry_id is None:
                problem = "has no usable id: NULL, binary or not text in its key"
                yield FileRow(f"row {self.position}", problem=problem)
            elif vector is None or isinstance(vector, str | bytes):
                text = _content_text(content)
                yield FileRow(f"id {entry_id}", entry_id, vector, text)
            else:
                problem = "its vector is neither a BLOB nor the text of a JSON array"
                yield FileRow(f"id {entry_id}", problem=problem)

    def _records(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of the columns, row by row, in short reads.

        One long read would keep whoever writes to the file from committing: this import,
        where the collection is made in the same file.
        """
        columns, table, rowid = ", ".join(self._columns), self._table, self._rowid
        with translated(self.path):
            if rowid is None:
                names = [f"c{number}" for number in range(len(self._columns))]
                selected = ", ".join(
                    f"{c} as {n}" for c, n in zip(self._columns, names, strict=True)
                )
                self._conn.execute("drop table if exists temp._embed_vectors")
                self._conn.execute(
                    f"create temp table _embed_vectors as select {selected} from {table}"
                )
                columns, table, rowid = ", ".join(names), "temp._embed_vectors", "rowid"
        after: tuple[Any, ...] = ()
        while True:
            condition = f"where {rowid} > ?" if after else ""
            with translated(self.path):
                records = self._conn.execute(
                    f"select {rowid}, {columns} from {table} {condition}"
                    f" order by {rowid} limit {_WINDOW}",
                    after,
                ).fetchall()
            if not records:
                return
            yield from (record[1:] for record in records)
            after = records[-1][:1]

    def close(self) -> None:
        """The connection is the caller's."""


def _model_of(column: str) -> str | None:
    """Return the model whose vectors a column ``emb_MODEL`` holds, if it is one we know."""
    known = {model.model.model_id for model in get_registry().list_models()}
    by_column = {
        _PREFIX + model_id.replace("-", "_").replace(".", "_"): model_id
        for model_id in (*sorted(known), *_MODELS)
    }
    return by_column.get(column)


def _content_text(content: Any) -> Any:
    """Return the value of the content's column as the text it is stored as."""
    return str(content) if isinstance(content, int | float) else content


def _decoded(data: bytes) -> str:
    # What is no UTF-8 must not end the whole: it is found again in the value.
    return data.decode("utf-8", "surrogateescape")


def _find_id(key: list[Any]) -> str | None:
    try:
        return entry_id_of(key)
    except UnicodeEncodeError:
        return None
