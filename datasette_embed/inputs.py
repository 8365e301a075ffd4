"""Rows that come from outside: files of records, queries over databases, folders.

Layer 7: imports ``database``, ``errors``, ``input_files``, ``input_rows``, ``models`` and
``records``. Each class here is a source of rows for the engine (``path``, ``name``,
``definition``, ``iter_windows``) whose definition is not stored, since nobody could read
standard input again. Nothing is embedded here, and no file of the user's is written.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, cast
from urllib.parse import quote

from .database import Connection, open_database, quoted, sqlite3, translated
from .errors import SourceError
from .input_files import InputFormat, Record, check_encoding, decoded, open_text, read_records
from .input_rows import AS_IT_IS, WINDOW_BYTES, Shape, checked, id_of, json_of, text_of, windows
from .models import Item
from .records import Row

DEFAULT_FILE_ENCODINGS = ("utf-8", "latin-1")
STANDARD_INPUT = "standard input"


class RecordRows:
    """The rows of a file or a query, read completely into a temporary database.

    A record is a row: its first column (for JSON the first key of the first object) is the
    id, the others are joined with one space. Of records of one id the last one counts.

    Args:
        records: what to read, once.
        path: named in errors.
        description: one line that says what is read.

    Attributes:
        repeated: how many records were replaced by a later one of the same id.

    Raises:
        SourceError: no such metadata column, no column of text, or what reading raises.
    """

    name = "the input"
    definition = None
    is_binary = False

    def __init__(
        self, records: Iterable[Record], path: str, description: str, shape: Shape
    ) -> None:
        self.path = path
        self._description = description
        self._shape = shape
        # SQLite keeps a database without a name in memory and puts what does not fit there
        # in a file that it deletes itself.
        self._conn = sqlite3.connect("", isolation_level=None)
        try:
            with translated(path):
                self.repeated = self._read(records)
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return self._description

    def close(self) -> None:
        """Free the temporary database."""
        self._conn.close()

    def _read(self, records: Iterable[Record]) -> int:
        self._conn.execute(
            "create table rows (number integer primary key, id text unique, content text,"
            " problem text, metadata text)"
        )
        columns: dict[str, None] = {}
        count = 0
        self._conn.execute("begin")
        for count, record in enumerate(records, 1):
            columns.update(dict.fromkeys(record.values))
            if count == 1:
                self._check_text_left(list(columns))
            row = self._row(record, next(iter(columns)))
            self._conn.execute(
                "insert or replace into rows (id, content, problem, metadata) values (?, ?, ?, ?)",
                (row.entry_id, row.content, row.problem, row.metadata),
            )
        self._conn.execute("commit")
        for name in self._shape.metadata_columns if count else ():
            if name not in columns:
                raise SourceError(
                    self.path, f"no column named '{name}'. Columns: {', '.join(columns)}"
                )
        kept = self._conn.execute("select count(*) from rows").fetchone()[0]
        return count - int(kept)

    def _check_text_left(self, columns: list[str]) -> None:
        if not columns[1:]:
            raise SourceError(
                self.path,
                f"has one column ({', '.join(columns)}): expected an id, and one or more of text",
            )
        if not set(columns[1:]) - set(self._shape.metadata_columns):
            raise SourceError(self.path, "has no column of text but those kept as metadata")

    def _row(self, record: Record, id_column: str) -> Row:
        values = record.values
        try:
            entry_id = id_of(values.get(id_column))
        except ValueError as error:
            return Row(None, "", f"{record.place} has no usable id: {error}")
        entry_id = self._shape.prefix + entry_id
        kept = self._shape.metadata_columns
        try:
            texts = [text_of(v) for c, v in values.items() if c != id_column and c not in kept]
            content = checked(self._shape.text(" ".join(texts)))
            chosen = {column: values[column] for column in kept if column in values}
            # In ASCII, as LLM writes it.
            metadata = json_of(chosen, ensure_ascii=True) if chosen else None
        except ValueError as error:
            return Row(entry_id, "", f"{record.place}: {error}")
        return Row(entry_id, content, None, metadata)

    def iter_windows(self, size: int = 1_000) -> Iterator[list[Row]]:
        """Yield the rows in lists of at most ``size``, in the order of the records."""
        rows = self._conn.execute("select id, content, problem, metadata from rows order by number")
        yield from windows((Row(*values) for values in rows), size)


class FolderRows:
    """The files of folders that match patterns: the path is the id, the file the content.

    The list of files is made once; they are read when they are needed, window by window.

    Args:
        folders: (folder, pattern) pairs; ids are paths relative to the folder.
        encodings: tried in order, the first that reads a file wins.
        binary: take the bytes instead of a text.

    Attributes:
        repeated: how many files are left out because another one has the same id.

    Raises:
        SourceError: a pattern that cannot be used, or no file matches.
    """

    name = "the folder"
    definition = None

    def __init__(
        self,
        folders: Sequence[tuple[str, str]],
        *,
        encodings: Sequence[str] = DEFAULT_FILE_ENCODINGS,
        binary: bool = False,
        shape: Shape = AS_IT_IS,
    ) -> None:
        for encoding in encodings:
            check_encoding(encoding)
        self.path = ", ".join(dict.fromkeys(folder for folder, _ in folders))
        self._description = ", ".join(f"{folder}: {pattern}" for folder, pattern in folders)
        self._encodings = encodings
        self.is_binary = binary
        self._shape = shape
        self.repeated = 0
        files: dict[str, Path] = {}
        for folder, pattern in folders:
            for file in _matching(Path(folder), pattern):
                entry_id = file.relative_to(folder).as_posix()
                self.repeated += files.get(entry_id, file) != file
                files[entry_id] = file
        self._problems = [
            Row(None, "", f"Could not read folder {error.filename}: {error.strerror}")
            for folder, pattern in folders
            for error in (_unreadable(folder) if "**" in pattern else ())
        ]
        if not files:
            raise SourceError(self.path, f"no file matches {_listed(p for _, p in folders)}")
        self._files = sorted(files.items())

    def __str__(self) -> str:
        return self._description

    def close(self) -> None:
        """There is nothing to free."""

    def iter_windows(self, size: int = 1_000) -> Iterator[list[Row]]:
        """Yield the files in lists of at most ``size``, or about 32 MB."""
        rows = (self._row(*item) for item in self._files)
        yield from windows(chain(self._problems, rows), size)

    def _row(self, entry_id: str, file: Path) -> Row:
        try:
            entry_id = self._shape.prefix + id_of(entry_id)
        except ValueError as error:
            return Row(None, "", f"file {file} has no usable name: {error}")
        try:
            # Reading a pipe or a device might never end.
            if not stat.S_ISREG(file.stat().st_mode):
                return Row(entry_id, "", f"Not a regular file: {file}")
            data = file.read_bytes()
        except OSError as error:
            return Row(entry_id, "", f"Could not read file {file}: {error.strerror}")
        if self.is_binary:
            return Row(entry_id, data)
        text = decoded(data, self._encodings)
        if text is None:
            return Row(entry_id, "", f"Could not decode text in file {file}")
        return Row(entry_id, self._shape.text(text))


def _unreadable(folder: str) -> list[OSError]:
    """Return an error for each folder below this one that a pattern passes over in silence."""
    errors: list[OSError] = []
    for _ in os.walk(folder, onerror=errors.append):
        pass
    return errors


# -- opening -----------------------------------------------------------------------


def open_file(
    path: str,
    *,
    stdin: IO[bytes] | None = None,
    format: InputFormat | None = None,
    encodings: Sequence[str] = (),
    shape: Shape = AS_IT_IS,
) -> RecordRows:
    """Read a CSV, TSV, JSON or newline-delimited JSON file.

    Args:
        path: the file; ignored when ``stdin`` is given.
        stdin: read this instead.
        format: None to find out.
        encodings: tried in order, the first that reads all of it wins (default: UTF-8).

    Raises:
        SourceError: it cannot be read, or holds no such records.
    """
    encodings = encodings or ("utf-8",)
    for encoding in encodings:
        check_encoding(encoding)
    name = path if stdin is None else STANDARD_INPUT
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb")) if stdin is None else stdin
            if stdin is not None or not file.seekable():  # a pipe: <(…) of a shell
                file = stack.enter_context(_spooled(file))
            text = open_text(file, name, encodings)
            return RecordRows(read_records(text, name, format), name, name, shape)
        except OSError as error:
            raise SourceError(name, f"cannot be read: {error.strerror or error}") from error


def _spooled(stream: IO[bytes]) -> IO[bytes]:
    """Return the content of a stream, to be read more than once: for encoding and format."""
    file = cast(IO[bytes], SpooledTemporaryFile(max_size=WINDOW_BYTES))
    try:
        shutil.copyfileobj(stream, file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def read_item(path: str, stdin: IO[bytes] | None = None, *, binary: bool = False) -> Item:
    """Return the content of a file: its bytes, or its text, which is UTF-8.

    Args:
        path: the file; only a name when ``stdin`` is given.
        stdin: read this instead.

    Raises:
        SourceError: it cannot be read, or is no UTF-8.
    """
    try:
        data = Path(path).read_bytes() if stdin is None else stdin.read()
    except OSError as error:
        raise SourceError(path, f"cannot be read: {error.strerror or error}") from error
    if binary:
        return data
    text = decoded(data, ("utf-8",))
    if text is None:
        raise SourceError(path, "is not UTF-8 text. To embed its bytes use --binary")
    return text


def open_query(
    sql: str,
    database: str | None,
    attached: Sequence[tuple[str, str]] = (),
    shape: Shape = AS_IT_IS,
) -> RecordRows:
    """Run a query once, on connections that cannot write.

    Args:
        sql: one SELECT; its first column is the id.
        database: the file it is about; None for none.
        attached: (alias, file) of further databases.

    Raises:
        SourceError: a file that is missing or no database; a query that fails or writes.
    """
    with ExitStack() as stack:
        if database is not None:
            conn = stack.enter_context(closing(open_database(database)))
        else:
            # As a URI, or the URIs of attached files would be taken for names.
            conn = sqlite3.connect(
                "file::memory:", uri=True, isolation_level=None, factory=Connection
            )
            stack.enter_context(closing(conn))
        for alias, path in attached:
            # Its messages for a file that is missing, locked or no database.
            open_database(path).close()
            uri = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
            with translated(f"--attach {alias}"):
                conn.execute(f"attach ? as {quoted(alias)}", (uri,))
        conn.text_factory = _text_or_bytes
        conn.execute("pragma query_only = on")
        return RecordRows(_query(conn, sql), "--sql", f"query: {sql}", shape)


def _query(conn: sqlite3.Connection, sql: str) -> Iterator[Record]:
    # Only a query can stand there. People end one with a semicolon or a comment.
    wrapped = f"with _embed_input as ({sql.rstrip().rstrip(';')}\n) select * from _embed_input"
    with translated("--sql"):
        try:
            cursor = conn.execute(wrapped)
        except (sqlite3.ProgrammingError, sqlite3.Warning) as error:
            raise SourceError("--sql", f"give one SELECT: {error}") from error
        names = [column[0] for column in cursor.description]
        for number, values in enumerate(cursor, 1):
            yield Record(f"row {number:,}", dict(zip(names, values, strict=True)))


def _text_or_bytes(data: bytes) -> str | bytes:
    """Return TEXT of a database; bytes where it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield what matches and is no directory."""
    try:
        for path in folder.glob(pattern):
            if not os.path.isdir(path):
                yield path
    except (ValueError, NotImplementedError) as error:
        raise SourceError(f"--files {folder}", f"'{pattern}' is no pattern: {error}") from error
    except OSError as error:
        raise SourceError(str(folder), f"cannot be read: {error.strerror or error}") from error


def _listed(patterns: Iterable[str]) -> str:
    return ", ".join(f"'{pattern}'" for pattern in patterns)
