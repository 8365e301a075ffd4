"""What to embed: the rows of a table, a view or a query, as (entry id, content).

Layer 7: imports ``errors``, ``database``, ``image_rows`` and ``source_specs``. A source is opened
on a connection of its own and read in windows, each in a short read of its own, so that nobody
who writes to the file has to wait while a model computes. No embedding and no writing
belongs here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import sqlite_utils
from datasette.utils import tilde_encode

from .database import quoted, sqlite3, translated
from .errors import SourceError
from .image_rows import ImageRows
from .image_values import ReadImage
from .input_rows import windows
from .models import is_blank
from .records import Row
from .schema_sql import OUR_TABLES
from .source_specs import SourceSpec as SourceSpec

_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")
#: How many rows decide which columns hold prose.
_SAMPLE_ROWS = 200
#: Join of the columns without a template, the same as LLM's embed-multi.
_SEPARATOR = " "


class Source:
    """A source opened for reading.

    Args:
        conn: a connection of its own to the file that holds the rows.
        spec: what to read; a spec without columns or template gets the columns that hold
            prose. ``source.spec`` is the complete one.
        path: named in errors.
        read_image: reads what texts in a column of images stand for; None where it may not be.

    Attributes:
        columns: those that make up the content, or are named in the template.
        id_columns: those that make up the entry id.

    Raises:
        SourceError: no such table or column, a query that fails.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        spec: SourceSpec,
        path: str,
        read_image: ReadImage | None = None,
    ) -> None:
        if bool(spec.table) == bool(spec.sql):
            raise SourceError(path, "name a table or a query (--sql), one of them")
        self.conn = conn
        self.path = path
        self._images = ImageRows.of(spec, path, read_image)
        conn.text_factory = _decoded
        with translated(path):
            self._open(spec)

    @property
    def definition(self) -> dict[str, Any]:
        """What is stored with the collection, so that ``sync`` can read the rows again."""
        return self.spec.to_json()

    @property
    def name(self) -> str:
        """What to call the source in a sentence."""
        return self.spec.name

    @property
    def is_binary(self) -> bool:
        """Whether the contents are bytes, not texts."""
        return self._images is not None

    def __str__(self) -> str:
        return f"{self.path}: {self.spec}"

    # -- opening -------------------------------------------------------------------

    def _open(self, spec: SourceSpec) -> None:
        self._from = _subquery(spec.sql) if spec.sql else self._known_table(str(spec.table))
        names = self.column_names()
        primary_key, paging_key = self._keys(spec)
        id_columns = list(spec.id_columns) or primary_key or names[:1]
        self._check_columns([c for c in id_columns if c not in _ROWIDS], names)
        # On a line of its own, for it may end in a comment.
        self._where = f"({spec.where}\n)" if spec.where else "1"
        # Without brackets too, or "1) or (1" would take the paging condition apart.
        for condition in (self._where, f"{spec.where or 1}\n"):
            self.conn.execute(f"select 1 from {self._from} where {condition} limit 0")
        self._template = spec.template
        if self._images:
            self.columns = [self._images.column]
        elif spec.template:
            self.columns = list(dict.fromkeys(_PLACEHOLDER.findall(spec.template)))
            if not self.columns:
                raise SourceError(self.path, "the template names no {{ column }}")
        else:
            self.columns = list(spec.columns) or self._default_columns(spec, names, id_columns)
        self._check_columns(self.columns, names)
        has_columns = not (spec.template or self._images)
        self.spec = replace(spec, columns=tuple(self.columns) if has_columns else ())
        self.id_columns = id_columns
        self._ids = [_expression(column) for column in id_columns]
        self._texts = self._images.expressions if self._images else list(map(quoted, self.columns))
        self._key = paging_key
        self._may_repeat_ids = bool(spec.id_columns) or not paging_key or self._mixes_types(spec)

    def _mixes_types(self, spec: SourceSpec) -> bool:
        """Say whether the primary key's columns may hold both 1 and '1' (no affinity)."""
        rows = self.conn.execute(
            "select type from pragma_table_info(?) where pk > 0", (spec.table or "",)
        )
        return any(not kind or "BLOB" in kind.upper() for (kind,) in rows)

    def _prepare(self) -> None:
        """Make ready to be read, once: opening alone must cost nothing.

        What a collection says of its source comes from a file that may be a stranger's,
        and a query or view can be made to run for hours.
        """
        if self._may_repeat_ids:
            self._refuse_repeated_ids()
            self._may_repeat_ids = False
        if not self._key:
            self._take_snapshot()

    def _known_table(self, name: str) -> str:
        rows = self.conn.execute(
            "select name from sqlite_master where type in ('table', 'view')"
            " and name not like 'sqlite\\_%' escape '\\' order by name"
        )
        names = [row[0] for row in rows]
        if name not in names:
            theirs = [known for known in names if known not in OUR_TABLES]
            raise SourceError(
                self.path,
                f"no table named '{name}'. Tables and views: {', '.join(theirs) or 'none'}",
            )
        return quoted(name)

    def column_names(self) -> list[str]:
        """Return all there are to choose from."""
        # Not PRAGMA table_info, which leaves generated columns out.
        cursor = self.conn.execute(f"select * from {self._from} limit 0")
        names = [column[0] for column in cursor.description]
        # SQLite itself tells columns of one name apart: the second id is "id:1".
        if self._from.startswith("(") and len(names) < 2:
            raise SourceError(
                self.path, "the query returns one column: select an id first, then the text"
            )
        return names

    def _keys(self, spec: SourceSpec) -> tuple[list[str], list[str]]:
        """Return the columns of the primary key, and the expressions to page by.

        Both are empty for a view, a query and a virtual table, whose rows may have no key.
        """
        if not spec.table:
            return [], []
        database = sqlite_utils.Database(self.conn, recursive_triggers=False, execute_plugins=False)
        if spec.table in database.view_names():
            return [], []
        table = database.table(spec.table)
        primary_key = [] if table.use_rowid else list(table.pks)
        names = {name.lower() for name in self.column_names()}
        for alias in _ROWIDS:
            if alias not in names:
                try:
                    self.conn.execute(f"select {alias} from {self._from} limit 0")
                except sqlite3.OperationalError:
                    break  # WITHOUT ROWID: its primary key allows no NULL, so it can be paged by
                return primary_key or [alias], [alias]
        return primary_key, [quoted(column) for column in primary_key]

    def _check_columns(self, columns: Sequence[str], names: list[str]) -> None:
        # SQLite would take an unknown name in double quotes for a text.
        for column in columns:
            if column not in names:
                reason = f"no column named '{column}'. Columns: {', '.join(names)}"
                raise SourceError(self.path, reason, column)

    def _default_columns(
        self, spec: SourceSpec, names: list[str], id_columns: list[str]
    ) -> list[str]:
        """Return the columns to embed when none is named.

        For a query all but the ids. For a table those in which most values have several
        words, since an identifier, a date or a URL only blurs the meaning of a row; if
        no column has, every column that holds text.
        """
        others = [name for name in names if name not in id_columns]
        if spec.sql:
            return others
        sample = self.conn.execute(
            f"select {', '.join(map(quoted, others)) or 'null'} from {self._from}"
            f" where {self._where} limit {_SAMPLE_ROWS}"
        ).fetchall()
        if not sample:
            which = " that meet the condition" if spec.where else ""
            raise SourceError(self.path, f"'{spec.table}' has no rows to embed{which}")
        prose, text, empty = [], [], []
        for column, values in zip(others, zip(*sample, strict=True), strict=False):
            texts = [value for value in values if isinstance(value, str) and value.strip()]
            if texts:
                text.append(column)
            if all(value is None or isinstance(value, str) for value in values) and not texts:
                empty.append(column)
            if sum(" " in value.strip() for value in texts) * 2 > len(texts):
                prose.append(column)
        if not text and not empty:
            raise SourceError(
                self.path, f"'{spec.table}' has no column of text: name some with --columns"
            )
        return prose or text or empty

    def _refuse_repeated_ids(self) -> None:
        # As text, for 1 and '1' are one entry; and NULL is no id at all.
        ids = ", ".join(f"cast({column} as text)" for column in self._ids)
        present = " and ".join(f"{column} is not null" for column in self._ids)
        twice = self.conn.execute(
            f"select {self._ids[0]}, count(*) from {self._from} where {self._where} and {present}"
            f" group by {ids} having count(*) > 1 limit 1"
        ).fetchone()
        if twice:
            raise SourceError(
                self.path,
                f"the ids are not unique: '{twice[0]}' comes {twice[1]} times. "
                "Name columns that tell the rows apart with --id",
            )

    def _take_snapshot(self) -> None:
        """Copy the rows of a view or query to a temporary table that can be paged.

        Reading them in one go instead would hold the file's read lock for as long as
        the model computes.
        """
        ids = [f"id{n}" for n in range(len(self._ids))]
        texts = [f"text{n}" for n in range(len(self._texts))]
        selected = zip([*self._ids, *self._texts], [*ids, *texts], strict=True)
        self.conn.execute("drop table if exists temp._embed_source")
        self.conn.execute(
            "create temp table _embed_source as select "
            + ", ".join(f"{expression} as {name}" for expression, name in selected)
            + f" from {self._from} where {self._where}"
        )
        self._from, self._where = "temp._embed_source", "1"
        self._ids, self._texts, self._key = ids, texts, ["rowid"]

    # -- reading -------------------------------------------------------------------

    def iter_windows(self, size: int = 1_000) -> Iterator[list[Row]]:
        """Yield the rows in lists of at most ``size``.

        Raises:
            SourceError: ids that are not unique; the file cannot be read (any longer).
        """
        if self._images is None:
            yield from self._iter_pages(size)
        else:
            # One by one, for a thousand of them may be more than the memory holds.
            yield from windows((row for page in self._iter_pages(1) for row in page), size)

    def _iter_pages(self, size: int) -> Iterator[list[Row]]:
        with translated(self.path):
            self._prepare()
        key = ", ".join(self._key)
        select = f"select {', '.join([*self._key, *self._ids, *self._texts])} from {self._from}"
        first_text = len(self._key) + len(self._ids)
        last: tuple[Any, ...] = ()
        while True:
            marks = ", ".join("cast(? as text)" if type(v) is _NotUtf8 else "?" for v in last)
            after = f"and ({key}) > ({marks})" if last else ""
            with translated(self.path):
                records = self.conn.execute(
                    f"{select} where {self._where} {after} order by {key} limit ?", (*last, size)
                ).fetchall()
            if not records:
                return
            yield [self._row(r[len(self._key) : first_text], r[first_text:]) for r in records]
            last = records[-1][: len(self._key)]

    def peek(self, number: int) -> list[Row]:
        """Return the first rows as they would be embedded, without a look at the others.

        Raises:
            SourceError: the file cannot be read.
        """
        order = f" order by {', '.join(self._key)}" if self._key else ""
        with translated(self.path):
            records = self.conn.execute(
                f"select {', '.join([*self._ids, *self._texts])} from {self._from}"
                f" where {self._where}{order} limit ?",
                (number,),
            ).fetchall()
        return [self._row(r[: len(self._ids)], r[len(self._ids) :]) for r in records]

    def text_lengths(self) -> dict[str, float | None]:
        """Return each column with the average length of its texts, of a sample of the rows.

        None for a column without text.
        """
        names = self.column_names()
        texts = [
            f"avg(case typeof({n}) when 'text' then length({n}) end)" for n in map(quoted, names)
        ]
        with translated(self.path):
            found = self.conn.execute(
                f"select {', '.join(texts)} from (select * from {self._from}"
                f" where {self._where} limit {_SAMPLE_ROWS})"
            ).fetchone()
        return dict(zip(names, found, strict=True))

    def find_content(self, entry_id: str) -> str | None:
        """Return the text of one row for display, or None.

        None too for an image, and where the id is made of several columns, since ids are never
        parsed.
        """
        if len(self._ids) != 1 or self._images:
            return None
        with translated(self.path):
            record = self.conn.execute(
                f"select {self._ids[0]}, {', '.join(self._texts)} from {self._from}"
                f" where {self._ids[0]} = ?",
                (entry_id,),
            ).fetchone()
        return str(self._row(record[:1], record[1:]).content) if record else None

    def _row(self, ids: tuple[Any, ...], values: tuple[Any, ...]) -> Row:
        entry_id = entry_id_of(ids)
        if entry_id is None:
            return Row(None, "", "the row has no usable id: NULL, binary or not text in its key")
        if self._images:
            return self._images.row(entry_id, *values)
        for column, value in zip(self.columns, values, strict=True):
            if isinstance(value, _NotUtf8):
                return Row(entry_id, "", f"column '{column}' holds text that is not UTF-8")
            if isinstance(value, bytes):
                return Row(entry_id, "", f"column '{column}' holds binary content, not text")
        texts = ["" if value is None else str(value) for value in values]
        if self._template is None:
            return Row(entry_id, _SEPARATOR.join(texts))
        if all(is_blank(text) for text in texts):
            # The words of the template alone would give every empty row the same vector.
            return Row(entry_id, "")
        by_column = dict(zip(self.columns, texts, strict=True))
        return Row(entry_id, _PLACEHOLDER.sub(lambda m: by_column[m.group(1)], self._template))


_ROWIDS = ("rowid", "_rowid_", "oid")


class _NotUtf8(bytes):
    """TEXT of the database that is not valid UTF-8."""


def _decoded(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _NotUtf8(data)


def _subquery(sql: str) -> str:
    # People end a query with a semicolon or a comment.
    return f"({sql.rstrip().rstrip(';')}\n)"


def _expression(column: str) -> str:
    return column if column in _ROWIDS else quoted(column)


def entry_id_of(key: Sequence[Any]) -> str | None:
    """Return the entry id of a primary key: plain text, or Datasette's comma form.

    None when a part is NULL or binary, which no text can stand for, or holds the character
    NUL, at which SQLite's JSON functions end a text.
    """
    if any(part is None or isinstance(part, bytes) or "\0" in str(part) for part in key):
        return None
    if len(key) == 1:
        return str(key[0])
    return ",".join(tilde_encode(str(part)) for part in key)
