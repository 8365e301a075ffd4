"""Preview: the columns of a source, and the very text of its first rows.

Layer 11: imports ``database``, ``errors``, ``models``, ``opened_sources``, ``runner`` and
``sources``. The text comes from the code that embeds it. Everything is read within a time
limit, and in a thread.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...amounts import size_text
from ...database import DeadlineError, open_database, translated
from ...errors import EmbedError, SourceError
from ...models import is_blank
from ...opened_sources import opened_source
from ...records import Row
from ...runner.site import Site
from ...sources import SourceSpec
from ..fields import FieldError
from ..http import without_paths
from ..wishes import about_fields

if TYPE_CHECKING:
    from datasette.app import Datasette

#: Rows that are shown, and characters of each.
ROWS, CHARACTERS = 3, 300


@dataclass(frozen=True)
class Column:
    """A column that may be chosen; ``characters`` is the average of its texts in a sample."""

    name: str
    characters: float | None
    is_chosen: bool


@dataclass(frozen=True)
class PreviewRow:
    """A row as it would be embedded.

    Attributes:
        text: its beginning.
        characters: how long all of it is.
        problem: why it is left out, if it is.
    """

    id: str | None
    text: str
    characters: int
    problem: str | None

    @classmethod
    def of(cls, row: Row) -> PreviewRow:
        problem = row.problem
        if isinstance(row.content, bytes):
            if row.is_blank:
                problem = "it has no image"
            return cls(row.entry_id, f"An image of {size_text(len(row.content))}", 0, problem)
        text = row.content
        if problem is None and is_blank(text):
            problem = "it has no text"
        return cls(row.entry_id, text[:CHARACTERS], len(text), problem)


@dataclass(frozen=True)
class Preview:
    """What there is to see of a source.

    Attributes:
        images: the columns that may hold images.
        note: why no column is chosen for whoever asks.
        errors: field -> what is wrong with it.
        problem: why the rows cannot be shown, if it is not a field's fault.
    """

    columns: tuple[Column, ...] = ()
    rows: tuple[PreviewRow, ...] = ()
    images: tuple[str, ...] = ()
    note: str = ""
    errors: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def look(
    datasette: Datasette,
    database: str,
    spec: SourceSpec,
    known_columns: list[str],
    *,
    chooses: bool,
) -> Preview:
    """Return the columns of a source and its first rows.

    Args:
        database: the one with the rows.
        known_columns: those of the table; none for a query.
        chooses: whether the columns are to be chosen here.
    """
    preview, chosen = Preview(), spec.columns
    try:
        path = Site(datasette).get_file(database, writable=False)
        seconds = datasette.setting("sql_time_limit_ms") / 1000
        base = replace(spec, columns=tuple(known_columns[:1]), template=None, image=None)
        lengths = _lengths(path, base, seconds)
        note = ""
        if chooses and not (spec.template or spec.image):
            chosen, note = _choose(path, replace(base, columns=()), seconds)
        columns = [Column(name, lengths[name], name in chosen) for name in lengths]
        preview = Preview(tuple(columns), images=_images(path, spec), note=note)
        if not (chosen or spec.template or spec.image):
            return preview
        spec = replace(spec, columns=() if spec.template or spec.image else chosen)
        with about_fields(spec, ""), opened_source(path, spec, path, "", seconds) as source:
            return replace(preview, rows=tuple(map(PreviewRow.of, source.peek(ROWS))))
    except FieldError as error:
        return replace(preview, errors=((error.field, error.reason),))
    except DeadlineError as error:
        return replace(preview, problem=f"to read them {error}")
    except EmbedError as error:
        return replace(preview, problem=without_paths(datasette, str(error)))


def _images(path: str, spec: SourceSpec) -> tuple[str, ...]:
    """Return the columns of a table that were made for bytes."""
    with closing(open_database(path)) as conn, translated(path):
        rows = conn.execute(
            "select name from pragma_table_xinfo(?) where upper(type) like '%BLOB%'", (spec.table,)
        )
        return tuple(str(name) for (name,) in rows)


def _lengths(path: str, spec: SourceSpec, seconds: float) -> dict[str, float | None]:
    """Return the columns with the average length of their texts, where there is time for it."""
    with about_fields(spec, ""), opened_source(path, spec, path, "", seconds) as source:
        names = source.column_names()
    try:
        with opened_source(path, spec, path, "", seconds) as source:
            return source.text_lengths()
    except DeadlineError:
        return dict.fromkeys(names)


def _choose(path: str, spec: SourceSpec, seconds: float) -> tuple[tuple[str, ...], str]:
    """Return the columns that are embedded where nobody names any, or why there are none."""
    try:
        with opened_source(path, spec, path, "", seconds) as source:
            return tuple(source.columns), ""
    except SourceError as error:
        return (), error.reason.partition(": name some with")[0]
