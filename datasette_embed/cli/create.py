"""``create``: embed the rows of a table.

Layer 10: the words around ``planning`` and ``jobs``. No decision about data is made here.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from ..database import open_database, sqlite3, translated
from ..errors import SourceError
from ..schema import has_collections
from ..sources import Source, SourceSpec
from ..store import Store
from .arguments import not_empty
from .run import run_collection


@click.command()
@click.argument("db", type=click.Path())
@click.argument("table", required=False, callback=not_empty)
@click.option(
    "--columns", callback=not_empty, help="Columns that make up the text, with commas between them"
)
@click.option(
    "--template", callback=not_empty, help="The text, with {{ column }} where a column's value goes"
)
@click.option(
    "--sql", callback=not_empty, help="A query instead of a table: its first column is the id"
)
@click.option("--where", callback=not_empty, help="Only rows for which this SQL condition holds")
@click.option(
    "--id",
    "id_columns",
    callback=not_empty,
    help="Columns that name a row (default: the primary key)",
)
@click.option(
    "--collection", callback=not_empty, help="Name of the collection (default: the table's)"
)
@click.option(
    "--model",
    "model_id",
    callback=not_empty,
    help="Model id or alias (default: the bundled model)",
)
@click.option("--store", is_flag=True, help="Store the text beside its vector")
@click.option(
    "--into", type=click.Path(), callback=not_empty, help="Put the vectors in this file, not in DB"
)
def create(
    db: str,
    table: str | None,
    columns: str | None,
    template: str | None,
    sql: str | None,
    where: str | None,
    id_columns: str | None,
    collection: str | None,
    model_id: str | None,
    store: bool,
    into: str | None,
) -> None:
    """Embed the rows of TABLE, so that DB can be searched by meaning.

    Run it again after an interruption, or when rows were added: only what is missing is
    embedded. Without --columns, the columns that hold prose are taken.
    """
    if columns and template:
        raise click.UsageError("Give --columns or --template, not both")
    if bool(table) == bool(sql):
        raise click.UsageError("Name a TABLE or give --sql, one of them")
    name = collection or table
    if not name:
        raise click.UsageError("Name the collection of the query: --collection NAME")
    spec = SourceSpec(
        table=table,
        sql=sql,
        columns=_names(columns),
        template=template,
        where=where,
        id_columns=_names(id_columns),
        is_elsewhere=bool(into) and Path(str(into)).absolute() != Path(db).absolute(),
    )
    embed_table(db, name, spec, into=into, model_id=model_id, store=store)


def embed_table(
    db: str,
    name: str,
    spec: SourceSpec,
    *,
    into: str | None = None,
    model_id: str | None = None,
    store: bool = False,
) -> None:
    """Embed a table, view or query of ``db`` into the collection ``name``, with words.

    Raises:
        EmbedError: as ``run_collection``.
        click.exceptions.Exit: 1, when the job was paused.
    """
    spec = _completed(spec, into or db, name)
    with closing(open_database(db)) as conn:
        with translated(db):
            _refuse_our_own(conn, db, spec)
        source = _opened(conn, db, spec)
        if not run_collection(into or db, name, source, model_id, store=store):
            raise click.exceptions.Exit(1)


def _completed(spec: SourceSpec, path: str, name: str) -> SourceSpec:
    """Return the spec with the columns the collection was made with, where it names none.

    Otherwise the same command would stop to work when the rows have come to suggest
    other columns.
    """
    if spec.sql or spec.columns or spec.template or not Path(path).exists():
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
    """Refuse to embed the tables that hold the vectors.

    Raises:
        SourceError: the table is one of them.
    """
    table = (spec.table or "").lower()
    is_of_llm = table in ("collections", "embeddings") and has_collections(conn)
    if is_of_llm or table.startswith("_embed_"):
        raise SourceError(
            db, f"'{spec.table}' is where the vectors are kept: name a table with texts of yours"
        )


def _opened(conn: sqlite3.Connection, db: str, spec: SourceSpec) -> Source:
    """Open the source; what is wrong with the condition is said about the option.

    Raises:
        SourceError: as ``Source``.
    """
    try:
        return Source(conn, spec, db)
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


def _names(columns: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in columns.split(",") if name.strip()) if columns else ()
