"""Result rows: rows of a result as a table of a page, with scores and links.

Layer 11: imports ``compat``. What ``embed_rows.html`` shows; texts are cut
here, and everything is escaped there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasette.utils import is_url, path_with_removed_args

from ... import compat
from ..images import Images
from ..results import Question, Result, Searched

if TYPE_CHECKING:
    from datasette import Request

#: Characters of a text that are shown at once, and with what is behind "more".
SHOWN_CHARACTERS, MOST_CHARACTERS = 200, 2_000
#: How many rows a page offers; another number of the address is kept.
NUMBERS = (10, 25, 50, 100)
#: The width of the bar of the score 1, in pixels.
BAR_WIDTH = 60


@dataclass(frozen=True)
class Cell:
    """One value.

    Attributes:
        column: the name of its column.
        text: what is shown.
        rest: what follows on demand.
        is_cut: whether there is more than that.
        is_missing: whether there is no value.
        is_number: whether it is a number.
        url: what it links to.
        is_outside: whether that is the value itself.
    """

    column: str
    text: str
    rest: str = ""
    is_cut: bool = False
    is_missing: bool = False
    is_number: bool = False
    url: str | None = None
    is_outside: bool = False


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        score: as it is shown; None where the result has none.
        bar_width: in pixels.
        like_url: the page of the rows like it.
        label: what the row is called.
        image_url: its image, where it has one that can be shown.
    """

    score: str | None
    bar_width: int
    cells: tuple[Cell, ...]
    url: str | None
    like_url: str | None
    label: str = ""
    image_url: str | None = None


async def lines_of(searched: Searched, result: Result, *, has_scores: bool) -> list[Line]:
    """Return the rows of a result, each linked by its label or its key.

    Args:
        has_scores: whether the first column is the score.
    """
    linked = await linked_columns(searched)
    images = Images(searched)
    shown = await images.find_shown([each for each in result.entry_ids if each is not None])
    is_of_images = images.is_source or bool(shown)
    first = 1 if has_scores else 0
    best = max((float(row[0]) for row in result.rows), default=0.0) if has_scores else 0.0
    lines = []
    for row, entry_id, url in zip(result.rows, result.entry_ids, result.urls, strict=True):
        score = float(row[0]) if has_scores else None
        cells = _cells(result.columns[first:], row[first:], url, linked)
        lines.append(
            Line(
                None if score is None else _score_text(searched, score, is_of_images),
                _bar_width(searched, score, best),
                cells,
                url,
                None if entry_id is None else searched.like_url(entry_id),
                _label_of(cells, linked) or entry_id or "",
                searched.image_url(entry_id) if entry_id in shown and entry_id else None,
            )
        )
    return lines


async def linked_columns(searched: Searched) -> tuple[str, ...]:
    """Return the columns that link a row, the first that has a value: its label, its key."""
    if searched.rows is None:
        return ("id",)
    label = await searched.label_column()
    keys = searched.rows.key_columns
    return keys if label is None else (label, *keys)


async def rows_context(
    searched: Searched,
    result: Result,
    question: Question,
    *,
    entries: int,
    url: str,
    has_scores: bool = True,
) -> dict[str, Any]:
    """Return what ``embed_rows.html`` shows of rows.

    Args:
        entries: how many rows might have been found.
        url: of the page, without its query string.
        has_scores: whether the first column is the score.
    """
    end = query_end(searched.request)
    if not has_scores and "n" not in searched.request.args:
        # Without any parameter programs are told what the collection is.
        end = f"{end}&n={question.number}" if end else f"?n={question.number}"
    gone = 0 if question.filters else min(question.number, entries) - len(result.rows)
    lines = await lines_of(searched, result, has_scores=has_scores)
    is_of_images = Images(searched).is_source or any(line.image_url for line in lines)
    return {
        **await sql_context(searched, result),
        "lines": lines,
        "is_of_images": is_of_images,
        "score_name": result.columns[0] if has_scores else None,
        "columns": result.columns[1:] if has_scores else result.columns,
        "gone": max(0, gone),
        "json_url": f"{url}.json{end}",
        "csv_url": f"{url}.csv{end}",
    }


async def sql_context(searched: Searched, result: Result) -> dict[str, Any]:
    """Return the query of a result, linked for those who may run SQL."""
    name, query = searched.database.name, result.query
    may_run = await compat.may_execute_sql(searched.datasette, searched.request.actor, name)
    url = compat.sql_url(searched.datasette, name, query.sql, query.params)
    return {"sql": query.sql, "sql_params": query.params, "sql_url": url if may_run else None}


def question_context(searched: Searched, question: Question) -> dict[str, Any]:
    """Return what the form of a page keeps of its address."""
    request = searched.request
    filters = [
        {
            "name": each.name,
            "value": each.value,
            "words": each.words,
            "remove_url": searched.datasette.urls.path(
                path_with_removed_args(request, {each.name: each.value})
            ),
        }
        for each in question.filters
    ]
    numbers = sorted({*NUMBERS, question.number})
    return {"n": question.number, "numbers": numbers, "filters": filters}


def query_end(request: Request) -> str:
    """Return the query string of the address with its question mark, or nothing."""
    return f"?{request.query_string}" if request.query_string else ""


def _cells(
    columns: Sequence[str], row: Sequence[Any], url: str | None, linked: Sequence[str]
) -> tuple[Cell, ...]:
    values = dict(zip(columns, row, strict=True))
    link = next((name for name in linked if str(values.get(name) or "").strip()), None)
    return tuple(
        cell_of(name, value, url if name == link else None) for name, value in values.items()
    )


def cell_of(column: str, value: Any, url: str | None = None) -> Cell:
    """Return how a value is shown."""
    if value is None:
        return Cell(column, "", is_missing=True)
    if isinstance(value, bytes):
        plural = "" if len(value) == 1 else "s"
        return Cell(column, f"Binary: {len(value):,} byte{plural}", url=url)
    if not isinstance(value, str):
        return Cell(column, str(value), is_number=True, url=url)
    is_outside = url is None and len(value) <= MOST_CHARACTERS and bool(is_url(value))
    url = value if is_outside else url
    if len(value) <= SHOWN_CHARACTERS:
        return Cell(column, value, url=url, is_outside=is_outside)
    return Cell(
        column,
        value[:SHOWN_CHARACTERS],
        "" if url else value[SHOWN_CHARACTERS:MOST_CHARACTERS],
        len(value) > MOST_CHARACTERS or bool(url),
        url=url,
        is_outside=is_outside,
    )


def _label_of(cells: Sequence[Cell], linked: Sequence[str]) -> str:
    texts = {cell.column: cell.text.strip() for cell in cells}
    return next((text for name in linked if (text := texts.get(name, ""))), "")


def _score_text(searched: Searched, score: float, is_of_images: bool) -> str:
    """Return a score as it is shown; among images a cosine is a percentage."""
    is_percentage = is_of_images and searched.record.metric == "cosine"
    return f"{score:.1%}" if is_percentage else f"{score:.4f}"


def _bar_width(searched: Searched, score: float | None, best: float) -> int:
    """Return the bar of a score: of cosines 1 is the whole, of others the best."""
    if score is None or score <= 0:
        return 0
    whole = 1.0 if searched.record.metric == "cosine" else best
    return max(1, round(BAR_WIDTH * min(1.0, score / whole)))
