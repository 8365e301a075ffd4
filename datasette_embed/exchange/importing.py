"""Put the rows of a file, or of a table of vectors, into a collection.

Imports ``database``, ``errors``, ``records``, ``registry``, ``schema``, ``store``, ``stored``
and ``values``. Rows are written as they are read, a thousand to a transaction, and what is
stored already is passed over: after a kill the same import goes on where it was.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from ..database import open_database, sqlite3, translated, write_transaction
from ..errors import ModelMismatchError, OutdatedCollectionError, SourceError
from ..records import CollectionRecord, NewEntry
from ..registry import get_registry
from ..schema import ensure_schema
from ..store import Store, existing
from .stored import find_entries
from .values import FileRow, Rows, check_row, length_of

#: Rows of a transaction.
WINDOW = 1_000
_ANOTHER_FILE = (
    "import into another file (vectors in a table of this one are copied there with --from "
    "and --table)"
)


@dataclass
class ImportCounts:
    """What an import has done so far.

    Attributes:
        written: entries that are new or differed from what was stored.
        unchanged: entries that were stored already, just so.
        repeated: rows whose id came before; the last one counts.
        bad: rows that were left out.
        first_problem: why the first of those was.
        model_id: the model that made the vectors.
    """

    written: int = 0
    unchanged: int = 0
    repeated: int = 0
    bad: int = 0
    first_problem: str | None = None
    model_id: str = ""


def import_rows(
    path: str,
    name: str,
    rows: Rows,
    model_id: str | None = None,
    *,
    report: Callable[[ImportCounts], None] = lambda counts: None,
    on_problem: Callable[[SourceError], None] = lambda problem: None,
) -> ImportCounts:
    """Write rows into the collection ``name`` of the file ``path``, making what is missing.

    An entry of the same id is replaced, every other one is kept. A row that cannot be an
    entry is left out, and the rest goes on.

    Args:
        rows: what to import; read once, and left open.
        model_id: the model that made the vectors, where the rows do not say it. It need not
            be one that is registered.
        report: called after each window of rows.
        on_problem: called for each row that is left out.

    Raises:
        ModelMismatchError: the rows, ``model_id`` and the collection do not agree.
        OutdatedCollectionError: the same of versions of one model.
        SourceError: no row can be imported, or nobody says which model made the vectors;
            in these cases nothing is made or changed. The file or the database cannot be
            read or written; then the windows before are kept.
    """
    with ExitStack() as stack:
        return _Import(stack, path, name, rows, model_id, on_problem).run(report)


class _Import:
    """One import. The database is made when there is a first entry to write."""

    def __init__(
        self,
        stack: ExitStack,
        path: str,
        name: str,
        rows: Rows,
        model_id: str | None,
        on_problem: Callable[[SourceError], None],
    ) -> None:
        self.path = path
        self.name = name
        self.rows = rows
        self.counts = ImportCounts()
        self._stack = stack
        self._on_problem = on_problem
        self._conn: sqlite3.Connection | None = None
        existing = _find_existing(path, name)
        self.counts.model_id = self._decided_model(model_id, existing)
        self._dimensions = self._decided_dimensions(existing)

    def _decided_model(self, given: str | None, existing: CollectionRecord | None) -> str:
        """Return the model that made the vectors.

        Raises:
            ModelMismatchError: two different ones are named.
            SourceError: none is.
        """
        said = self.rows.header.model_id
        if given is not None:
            model = get_registry().find(given)
            given = model.model_id if model else given
        if said and given and said != given:
            raise ModelMismatchError(self.name, said, given)
        model_id = said or given
        if not model_id:
            raise SourceError(
                self.rows.path,
                "does not say which model made its vectors: name it with --model "
                "(vectors of 1536 numbers are often of text-embedding-ada-002)",
            )
        if existing is not None and existing.model_id != model_id:
            raise ModelMismatchError(self.name, existing.model_id, model_id)
        return model_id

    def _decided_dimensions(self, existing: CollectionRecord | None) -> int | None:
        """Return how long every vector must be, as far as that is known yet.

        Raises:
            OutdatedCollectionError: two versions of the model would be mixed.
            SourceError: the vectors of the file have another length than the collection's.
        """
        header = self.rows.header
        if existing is None:
            model = get_registry().find(self.counts.model_id)
            expected = model and model.dimensions
            if expected and header.dimensions not in (None, expected):
                raise SourceError(
                    self.rows.path,
                    f"holds vectors of {header.dimensions} numbers, and those of "
                    f"{self.counts.model_id} have {expected}: name their model with --model",
                )
            return expected or header.dimensions
        existing.check_not_rebuilding()
        versions = (existing.fingerprint, header.fingerprint)
        if all(versions) and versions[0] != versions[1]:
            raise OutdatedCollectionError(
                self.name,
                f"was embedded with another version of its model than the file ({versions[0]}, "
                f"the file {versions[1]})",
            )
        if None not in (existing.dimensions, header.dimensions) and (
            existing.dimensions != header.dimensions
        ):
            raise SourceError(
                self.rows.path,
                f"holds vectors of {header.dimensions} dimensions, and collection "
                f"'{self.name}' has {existing.dimensions}",
            )
        return existing.dimensions or header.dimensions

    def run(self, report: Callable[[ImportCounts], None]) -> ImportCounts:
        """Write every row that can be an entry."""
        for window in _windows(self.rows):
            if self._dimensions is None:
                self._dimensions = _most_frequent_length(window)
            if entries := self._checked(window):
                with translated(self.path):
                    self._write(entries)
            report(self.counts)
        if self._conn is None:
            if self.counts.first_problem is None:
                raise SourceError(self.rows.path, "holds no rows")
            raise SourceError(
                self.rows.path, f"no row can be imported: {self.counts.first_problem}"
            )
        return self.counts

    def _checked(self, window: list[FileRow]) -> dict[str, NewEntry]:
        """Return the entries of the rows by id, the last of an id."""
        entries: dict[str, NewEntry] = {}
        for row in window:
            try:
                entry = check_row(row, self._dimensions, self.counts.model_id)
            except SourceError as problem:
                self.counts.bad += 1
                self.counts.first_problem = self.counts.first_problem or str(problem)
                self._on_problem(problem)
                continue
            self.counts.repeated += entry.entry_id in entries
            entries[entry.entry_id] = entry
        return entries

    def _write(self, entries: dict[str, NewEntry]) -> None:
        """Write what differs from what is stored, in one transaction."""
        is_first = self._conn is None
        if self._conn is None:
            conn = open_database(self.path, writable=True, create=True)
            self._conn = self._stack.enter_context(closing(conn))
            ensure_schema(conn, self.path)
            # On disk, so that the ids of any number of rows can be told apart.
            conn.execute("create temp table _embed_imported (id text primary key) without rowid")
        ids = json.dumps(list(entries))
        store = Store(self._conn)
        with write_transaction(self._conn):
            collection = self._collection(store, may_create=is_first)
            new = self._conn.execute(
                "insert or ignore into temp._embed_imported select value from json_each(?)", (ids,)
            ).rowcount
            stored = find_entries(self._conn, collection, list(entries))
            changed = [e for e in entries.values() if stored.get(e.entry_id) != _columns_of(e)]
            store.write_entries(collection.id, changed)
        self.counts.repeated += len(entries) - new
        self.counts.written += len(changed)
        self.counts.unchanged += len(entries) - len(changed)

    def _collection(self, store: Store, *, may_create: bool) -> CollectionRecord:
        """Return the collection as it is now, inside the transaction that writes to it.

        Raises:
            CollectionNotFoundError: somebody deleted it meanwhile.
            ModelMismatchError: somebody made another one of its name.
        """
        model_id, header = self.counts.model_id, self.rows.header
        found = store.find_collection(self.name) if may_create else store.get_collection(self.name)
        if found is not None:
            if found.model_id != model_id:
                raise ModelMismatchError(self.name, found.model_id, model_id)
            return found
        if header.fingerprint is None:
            # As LLM makes one: which version of the model it was, nobody knows.
            store.conn.execute(
                "insert into collections (name, model) values (?, ?)", (self.name, model_id)
            )
            return store.get_collection(self.name)
        return store.create_collection(
            CollectionRecord(
                0,
                self.name,
                model_id,
                dimensions=self._dimensions,
                metric=header.metric or "cosine",
                fingerprint=header.fingerprint,
            )
        )


def _find_existing(path: str, name: str) -> CollectionRecord | None:
    """Return the collection, if there is one, and make sure its file can be written.

    Raises:
        SourceError: it cannot, or its tables are somebody else's.
    """
    with existing(path, _ANOTHER_FILE) as conn:
        return Store(conn).find_collection(name) if conn else None


def _windows(rows: Rows) -> Iterator[list[FileRow]]:
    window: list[FileRow] = []
    for row in rows:
        window.append(row)
        if len(window) == WINDOW:
            yield window
            window = []
    if window:
        yield window


def _most_frequent_length(window: list[FileRow]) -> int | None:
    """Return the length of most vectors, so that one odd first row does not decide."""
    lengths = Counter(
        length for row in window if (length := length_of(row.embedding)) is not None and length
    )
    return lengths.most_common(1)[0][0] if lengths else None


def _columns_of(entry: NewEntry) -> tuple[Any, ...]:
    """Return an entry as ``stored.find_entries`` returns it."""
    is_text = isinstance(entry.content, str)
    return (
        entry.embedding,
        entry.content if is_text else None,
        entry.metadata,
        entry.content_hash,
        None if is_text else entry.content,
    )
