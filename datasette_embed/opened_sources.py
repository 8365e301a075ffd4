"""Sources opened by what a caller or a collection says, and refused where that is unsafe.

Layer 8: imports ``database``, ``errors``, ``image_values``, ``records``, ``schema``,
``sources`` and ``store``. Whose rows may be read is decided here, how they are read in ``sources``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from .database import deadline, open_database, sqlite3, translated
from .errors import SourceError
from .image_values import NO_ACCESS, ImageAccess, ImageFrom, ReadImage
from .records import CollectionRecord
from .schema import has_collections, refuse_foreign
from .sources import Source, SourceSpec
from .store import Store

#: Asked before what costs money or cannot be taken back; True goes on.
Confirm = Callable[[str], bool]


def syncable(db: str, names: tuple[str, ...]) -> list[CollectionRecord]:
    """Return the collections of these names; without names, all that have a source.

    Raises:
        SourceError: there is none; the file cannot be used.
        CollectionNotFoundError: there is none of this name.
    """
    with closing(open_database(db)) as conn, translated(db):
        refuse_foreign(conn, db)
        store = Store(conn)
        chosen = [store.get_collection(name) for name in names] or [
            record for record in store.list_collections() if record.source
        ]
    if not chosen:
        raise SourceError(db, "has no collection made from a table or a query: create one first")
    return chosen


@contextmanager
def synced_source(
    db: str,
    record: CollectionRecord,
    rows_from: str | None,
    confirm: Confirm | None,
    images: ImageAccess = NO_ACCESS,
) -> Iterator[Source]:
    """Open what a collection says it was made from.

    Args:
        rows_from: the file that holds its rows, if they are not in ``db``.
        confirm: asked before another file is read; None does not ask.
        images: what paths and addresses of images may lead to.

    Raises:
        SourceError: it does not say, or the answer was no; its images are where none may be read.
    """
    subject = f"collection '{record.name}'"
    if record.source is None:
        words = ["datasette", "embed", "create", "--collection", record.name, db, "TABLE"]
        again = shlex.join(words)
        raise SourceError(subject, f"does not say what it was made from. Run this once: {again}")
    spec = SourceSpec.from_json(record.source)
    if not spec.is_elsewhere:
        rows_from = db  # the other file is that of the collections whose rows are elsewhere
    elif rows_from is None:
        raise SourceError(subject, "its rows are in another file: name it with --from")
    elif confirm:
        # Whoever made this file decides what is read, and may not have meant well.
        question = f"'{record.name}' asks to read this from {rows_from}: {spec}. Read it?"
        require(confirm, subject, question)
    read_image = images.reader(spec.image_from, subject)
    with closing(open_database(rows_from)) as conn:
        yield Source(conn, spec, rows_from, read_image)


@contextmanager
def opened_source(
    db: str,
    spec: SourceSpec,
    path: str,
    name: str,
    seconds: float | None = None,
    images: ImageAccess = NO_ACCESS,
) -> Iterator[Source]:
    """Open what a collection is to be made from.

    Args:
        db: the file with the rows.
        path: the file with the collection, if it is there; where the spec names no columns,
            those the collection was made with are taken. The same call would otherwise stop
            to work when the rows have come to suggest other columns.
        seconds: how long all that is asked of the rows may take; None for any time.
        images: what paths and addresses of images may lead to.

    Raises:
        SourceError: as ``Source`` and ``ImageAccess.reader``; the table is where vectors are kept.
        DeadlineError: it takes longer.
    """
    spec = _completed(spec, path, name)
    with (
        closing(open_database(db)) as conn,
        deadline(conn, seconds) if seconds is not None else nullcontext(),
    ):
        with translated(db):
            _refuse_our_own(conn, db, spec)
        yield _opened(conn, db, spec, images.reader(spec.image_from, db))


def chosen_source(
    *,
    table: str | None,
    sql: str | None,
    columns: tuple[str, ...],
    template: str | None,
    where: str | None,
    id_columns: tuple[str, ...],
    collection: str | None,
    is_elsewhere: bool,
    image: str | None = None,
    images: ImageAccess = NO_ACCESS,
    option: str = "{}=",
) -> tuple[str, SourceSpec]:
    """Return the name of a new collection, and what it is to be made from.

    Args:
        collection: its name; None for the table's.
        image: the column of the images that are embedded, instead of texts.
        images: where those are that are not in the column itself.
        option: how the caller's options are spelled, for messages: ``--{}`` in a shell.

    Raises:
        ValueError: the choices exclude each other, or one is missing.
    """
    if columns and template:
        raise ValueError(
            f"give {option.format('columns')} or {option.format('template')}, not both"
        )
    if image and (columns or template):
        chosen = option.format("columns" if columns else "template")
        raise ValueError(f"give {option.format('image')} or {chosen}, not both")
    image_from = _image_from(image, images, option)
    if bool(table) == bool(sql):
        raise ValueError(f"name a table or give {option.format('sql')}, one of them")
    name = collection or table
    if not name:
        raise ValueError(f"name the collection of the query: {option.format('collection')}")
    return name, SourceSpec(
        table=table,
        sql=sql,
        columns=columns,
        template=template,
        where=where,
        id_columns=id_columns,
        is_elsewhere=is_elsewhere,
        image=image,
        image_from=image_from,
    )


def _image_from(image: str | None, images: ImageAccess, option: str) -> ImageFrom | None:
    """Return what the texts in a column of images are, if it is to hold any.

    Raises:
        ValueError: both are chosen, or there is no such column.
    """
    dash = "-" if option.startswith("--") else "_"
    files, urls = (option.format(f"image{dash}{kind}") for kind in ("files", "urls"))
    if images == NO_ACCESS:
        return None
    if images.folder is not None and images.urls:
        raise ValueError(f"give {files} or {urls}, not both")
    if not image:
        given = urls if images.urls else files
        raise ValueError(f"{given} goes with {option.format('image')}, which names the column")
    return ImageFrom.URLS if images.urls else ImageFrom.FILES


def is_elsewhere(db: str | Path, into: str | Path | None) -> bool:
    """Say whether vectors put into a file are in another one than their rows."""
    return into is not None and Path(into).resolve() != Path(db).resolve()


def require(confirm: Confirm | None, subject: str, question: str) -> None:
    """Go on only if the answer to a question is yes, or nobody is to be asked.

    Raises:
        SourceError: about ``subject``.
    """
    if confirm and not confirm(question):
        raise SourceError(subject, f"nothing was changed, for the answer was no: {question}")


def _completed(spec: SourceSpec, path: str, name: str) -> SourceSpec:
    if spec.sql or spec.columns or spec.template or spec.image or not Path(path).exists():
        return spec
    with closing(open_database(path)) as conn, translated(path):
        record = Store(conn).find_collection(name)
    if record is None or record.source is None:
        return spec
    made_from = SourceSpec.from_json(record.source)
    if made_from.table != spec.table:
        return spec
    return replace(spec, columns=made_from.columns, template=made_from.template)


def _refuse_our_own(conn: sqlite3.Connection, db: str, spec: SourceSpec) -> None:
    """Refuse to embed the tables that hold the vectors."""
    table = (spec.table or "").lower()
    is_of_llm = table in ("collections", "embeddings") and has_collections(conn)
    if is_of_llm or table.startswith("_embed_"):
        raise SourceError(
            db, f"'{spec.table}' is where the vectors are kept: name a table with texts of yours"
        )


def _opened(
    conn: sqlite3.Connection, db: str, spec: SourceSpec, read_image: ReadImage | None
) -> Source:
    """Open the source; what is wrong with the condition is said about the option."""
    try:
        return Source(conn, spec, db, read_image)
    except SourceError as error:
        if spec.where and _can_be_opened(conn, db, replace(spec, where=None)):
            raise SourceError("--where", error.reason) from error
        raise


def _can_be_opened(conn: sqlite3.Connection, db: str, spec: SourceSpec) -> bool:
    try:
        Source(conn, spec, db)
    except SourceError:
        return False
    return True
