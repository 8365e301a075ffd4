"""Results: what an address asks of a collection, and the rows that a query finds.

Layer 11: imports ``database``, ``errors``, ``models``, ``records``, ``server`` and ``sources``.
What is asked is checked and embedded here, for pages and programs alike; the query is made
in ``result_sql``, and shown by ``results_api`` and the pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from datasette.database import QueryInterrupted
from datasette.utils import tilde_decode, tilde_encode

from .. import server
from ..database import sqlite3, translated
from ..errors import EntryNotFoundError, SourceError
from ..models import EmbeddingModel, Item, Kind, is_blank
from ..records import CollectionRecord, is_storable
from ..sources import SourceSpec, entry_id_of
from ..vectors import decode
from .descriptions import collection_url
from .fields import Fields
from .filter_conditions import Filter
from .http import RequestError
from .lookup import find_model, read
from .result_filters import conditions_of, read_filters
from .result_sql import (
    ResultSql,
    Rows,
    nearest_to_entry,
    nearest_to_text,
    nearest_to_vector,
    newest,
)
from .search_api import row_urls

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

#: How many rows are found when nobody says, and at most.
DEFAULT_NUMBER, MOST_NUMBER = 10, 1_000
_USUAL_LABELS = ("title", "name", "label", "subject")
#: How many of the newest are shown when nobody says.
NEWEST = 5
#: What stands for rows that are in no table here.
_OF_ENTRY = ("id", "content", "metadata")
#: The parameters of a result's address that are no filters.
PARAMETERS = ("q", "n")


@dataclass(frozen=True)
class Question:
    """What an address asks for besides words.

    Attributes:
        number: how many rows.
        filters: what must be true of them.
    """

    number: int = DEFAULT_NUMBER
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Result:
    """The rows of a query.

    Attributes:
        query: the query.
        columns: their names.
        rows: the rows, each as long as ``columns``.
        entry_ids: the entry of each row; None where it cannot be told.
        urls: the page of each row, where it has one that the actor may view.
    """

    query: ResultSql
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    entry_ids: tuple[str | None, ...]
    urls: tuple[str | None, ...]


@dataclass(frozen=True)
class Searched:
    """A collection, asked by one request.

    Attributes:
        rows: the table of its rows; None where it is not in this file.
    """

    request: Request
    datasette: Datasette
    database: Database
    record: CollectionRecord
    rows: Rows | None

    @classmethod
    async def of(
        cls, request: Request, datasette: Datasette, database: Database, record: CollectionRecord
    ) -> Searched:
        """Return a collection that the actor may view, with the table of its rows."""
        try:
            spec = SourceSpec.from_json(record.source or {})
            rows = await read(database, lambda conn: Rows.of(conn, spec))
        except SourceError:
            rows = None  # such as a view of a table that is gone: the vectors are still there
        return cls(request, datasette, database, record, rows)

    # -- what is asked ----------------------------------------------------------------

    def question(self, usual: int = DEFAULT_NUMBER, number: str | None = None) -> Question:
        """Return what the address asks for; no more rows than any query of this site returns.

        Args:
            number: how many rows a form asks for, which counts before the address.

        Raises:
            RequestError: a parameter is not what it should be.
        """
        given = {name: self.request.args.get(name) or None for name in PARAMETERS}
        given["n"] = number or given["n"]
        count = Fields(given, is_text=True).integer("n", usual, most=MOST_NUMBER)
        count = min(count, self.datasette.setting("max_returned_rows") or count)
        filters = read_filters(self.request, *PARAMETERS)
        conditions_of(filters, self.rows)
        return Question(count, tuple(filters))

    def text(self) -> str:
        """Return the words of the address.

        Raises:
            RequestError: there are none, or they hold the character NUL.
        """
        text = self.request.args.get("q") or ""
        if is_blank(text):
            raise RequestError("Write what to search for: 'q' must not be blank")
        return Fields({"q": text}).name("q") or ""

    async def model(self) -> EmbeddingModel:
        """Return the model that makes words comparable with the collection.

        Raises:
            UnknownModelError: it is not installed here.
            OutdatedCollectionError: the collection holds vectors of another version of it.
        """
        model = await find_model(self.datasette, self.record.model_id)
        self.record.check_current(model)
        return model

    # -- answers ----------------------------------------------------------------------

    async def embedded(self, content: Item) -> bytes:
        """Return the vector of a text, which the query then finds without asking the model.

        Or that of an image, which goes into the query itself.

        So what is wrong is said as itself, and the time a model takes is not the query's.

        Raises:
            EmbedError: as ``server.embed_for`` and ``model``.
        """
        model = await self.model()
        (blob,) = await server.embed_for(
            self.datasette, self.request, model, [content], kind=Kind.QUERY
        )
        return blob

    async def nearest_to_text(self, text: str, question: Question) -> Result:
        """Return the rows nearest to a text that has been ``embedded``."""
        conditions = conditions_of(question.filters, self.rows)
        query = nearest_to_text(self.record, self.rows, text, question.number, conditions)
        return await self.run(query)

    async def nearest_to_vector(self, blob: bytes, question: Question) -> Result:
        """Return the rows nearest to a vector."""
        conditions = conditions_of(question.filters, self.rows)
        # Five digits change no score that is shown, and keep the link to the query short.
        vector = f"[{','.join(f'{number:.5g}' for number in decode(blob))}]"
        query = nearest_to_vector(self.record, self.rows, vector, question.number, conditions)
        return await self.run(query)

    async def nearest_to_entry(self, entry_id: str, question: Question) -> Result:
        """Return the rows nearest to one of them."""
        conditions = conditions_of(question.filters, self.rows)
        query = nearest_to_entry(self.record, self.rows, entry_id, question.number, conditions)
        return await self.run(query)

    async def newest(self, question: Question) -> Result:
        """Return the rows that were embedded last."""
        conditions = conditions_of(question.filters, self.rows)
        return await self.run(newest(self.record, self.rows, question.number, conditions))

    async def run(self, query: ResultSql) -> Result:
        """Return the rows of a query.

        Raises:
            RequestError: it takes longer than a query may on this site.
            SourceError: the file cannot be read.
        """
        try:
            with translated(self.database.name):
                found = await self.database.execute(query.sql, query.params, log_sql_errors=False)
        except QueryInterrupted as error:
            raise self._too_slow() from error
        columns = tuple(column[0] for column in found.description)
        rows = tuple(tuple(row) for row in found.rows)
        ids = self._entry_ids(columns, rows)
        known = list(dict.fromkeys(entry_id for entry_id in ids if entry_id is not None))
        urls = await row_urls(self.request, self.datasette, self.database, self.record, known)
        return Result(query, columns, rows, ids, tuple(urls.get(each or "") for each in ids))

    def _too_slow(self) -> RequestError:
        limit = self.datasette.setting("sql_time_limit_ms")
        return RequestError(
            f"Looking through these rows takes longer than a query may on this site ({limit:,} "
            "ms). Whoever runs it can start Datasette with a higher setting sql_time_limit_ms"
        )

    def _entry_ids(
        self, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> tuple[str | None, ...]:
        # By their places: SQLite and the score may have called a column something else.
        shown = list(self.rows.columns) if self.rows else list(_OF_ENTRY)
        first = len(columns) - len(shown)
        keys = self.rows.key_columns if self.rows else _OF_ENTRY[:1]
        places = [first + shown.index(name) for name in keys]
        return tuple(entry_id_of([row[place] for place in places]) for row in rows)

    # -- addresses of entries ---------------------------------------------------------

    @property
    def has_compound_key(self) -> bool:
        """Whether an entry's id is written as in the address of its row already."""
        return self.rows is not None and len(self.rows.key_columns) > 1

    def like_url(self, entry_id: str, end: str = "") -> str:
        """Return the path of the page of the rows like an entry; it ends like its row's."""
        return self._entry_url("like", entry_id, end)

    def image_url(self, entry_id: str) -> str:
        """Return the path of an entry's image."""
        return self._entry_url("image", entry_id)

    def _entry_url(self, page: str, entry_id: str, end: str = "") -> str:
        last = entry_id if self.has_compound_key else tilde_encode(entry_id)
        path = f"/{page}/{last}{end}"
        return collection_url(self.datasette, self.database.name, self.record.name, path)

    def entry_id_in_url(self) -> str:
        """Return the id of the entry that the address names."""
        text = self.request.url_vars["entry"]
        if self.has_compound_key:
            return unquote(text) if "%" in text else str(text)
        return unquote(text) if "%" in text else str(tilde_decode(text))

    async def find_row(self, entry_id: str) -> Result | None:
        """Return the row of an entry's id, embedded or not; None where there is none.

        Raises:
            SourceError: the file cannot be read.
        """
        rows = self.rows
        if rows is None:
            sql = "select id, content, metadata from embeddings where id = :id and collection_id ="
            query = ResultSql(
                f"{sql} (select id from collections where name = :collection)",
                {"id": entry_id, "collection": self.record.name},
            )
        else:
            query = ResultSql(
                f"select {rows.shown()}\nfrom (select cast(:id as text) as id) as entry\n"
                f"join {rows.source} on {rows.join('entry.id')} limit 1",
                {"id": entry_id},
            )
        found = await self.run(query)
        # To SQLite 01 is 1, and so would be one more address of the same row.
        return found if entry_id in found.entry_ids else None

    async def texts_at(self, column: str, places: Sequence[int]) -> list[str]:
        """Return what a column of the rows' table holds of the entries at these places.

        Only texts with a space in them: what else stands there is no words to search for.
        """
        if self.rows is None or column not in self.rows.columns or not places:
            return []
        entries = "\n  union all ".join(
            "select (select id from embeddings where collection_id = :collection_id"
            f" order by id limit 1 offset {int(place)}) as id"
            for place in places
        )
        name = f"{self.rows.called_in_sql}.{self.rows.columns[column]}"
        sql = f"select {name} from (\n  {entries}\n) as entry join {self.rows.source} on "
        sql += self.rows.join("entry.id")
        try:
            with translated(self.database.name):
                found = await self.database.execute(
                    sql, {"collection_id": self.record.id}, log_sql_errors=False
                )
        except QueryInterrupted:
            return []  # a view may take long to compute; the page is there without them
        texts = [row[0] for row in found.rows]
        words = [text for text in texts if isinstance(text, str) and " " in text.strip()]
        return [text for text in words if is_storable(text)]

    async def label_column(self) -> str | None:
        """Return the column that says what a row is, apart from its key; None without one."""
        if self.rows is None:
            return None
        table, columns = self.rows.table, self.rows.columns
        # Datasette 1.0 fails when it looks for the label of a view.
        is_table = await self.database.table_exists(table)
        label = await self.database.label_column_for_table(table) if is_table else None
        # It takes a key that is text for a label, too, even beside a title.
        if label is not None and label not in self.rows.key_columns and label in columns:
            return str(label)
        names = {name.lower(): name for name in reversed(list(columns))}
        return next((names[name] for name in _USUAL_LABELS if name in names), None)

    async def has_entry(self, entry_id: str) -> bool:
        """Say whether a row is in the collection."""

        def find(conn: sqlite3.Connection) -> bool:
            sql = "select 1 from embeddings where collection_id = ? and id = ?"
            return conn.execute(sql, (self.record.id, entry_id)).fetchone() is not None

        return await read(self.database, find)

    def not_found(self, entry_id: str) -> EntryNotFoundError:
        """Return the error of an entry that is neither in the collection nor in its table."""
        return EntryNotFoundError(self.record.name, entry_id)
