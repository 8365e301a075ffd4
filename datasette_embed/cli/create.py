"""``create``: embed the rows of a table.

Layer 11: the words around ``opened_sources``; the run itself is in ``run``. No decision about
data is made here.
"""

from __future__ import annotations

import click

from ..image_values import NO_ACCESS, ImageAccess
from ..opened_sources import chosen_source, is_elsewhere, opened_source
from ..sources import SourceSpec
from ..store import Store, existing
from .arguments import image_access, names, not_empty, yes
from .output import say
from .run import run_collection


@click.command()
@click.argument("db", type=click.Path())
@click.argument("table", required=False, callback=not_empty)
@click.option(
    "--columns", callback=names, help="Columns that make up the text, with commas between them"
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
    callback=names,
    help="Columns that name a row, with commas between them (default: the primary key)",
)
@click.option(
    "--collection", callback=not_empty, help="Name of the collection (default: the table's)"
)
@click.option(
    "-m",
    "--model",
    "model_id",
    callback=not_empty,
    help="Model id or alias (default: the bundled model)",
)
@click.option("--image", callback=not_empty, help="Embed the images in this column instead of text")
@image_access
@click.option("--store", is_flag=True, help="Store the text or image beside its vector")
@click.option(
    "--into", type=click.Path(), callback=not_empty, help="Put the vectors in this file, not in DB"
)
@yes
def create(
    db: str,
    table: str | None,
    columns: tuple[str, ...],
    template: str | None,
    sql: str | None,
    where: str | None,
    id_columns: tuple[str, ...],
    collection: str | None,
    model_id: str | None,
    image: str | None,
    images: ImageAccess,
    store: bool,
    into: str | None,
    yes: bool,
) -> None:
    """Embed the rows of TABLE, so that DB can be searched by meaning.

    Run it again after an interruption, or when rows were added: only what is missing is
    embedded. Without --columns, the columns that hold prose are taken. It asks before it
    costs money.
    """
    try:
        name, spec = chosen_source(
            table=table,
            sql=sql,
            columns=columns,
            template=template,
            where=where,
            id_columns=id_columns,
            collection=collection,
            is_elsewhere=is_elsewhere(db, into),
            image=image,
            images=images,
            option="--{}",
        )
    except ValueError as error:
        message = str(error)
        raise click.UsageError(message[0].upper() + message[1:]) from error
    embed_table(
        db, name, spec, into=into, model_id=model_id, store=store, images=images, asks=not yes
    )


def embed_table(
    db: str,
    name: str,
    spec: SourceSpec,
    *,
    into: str | None = None,
    model_id: str | None = None,
    store: bool = False,
    images: ImageAccess = NO_ACCESS,
    asks: bool = False,
) -> None:
    """Embed a table, view or query of ``db`` into the collection ``name``, with words.

    Args:
        asks: ask before it costs money.

    Raises:
        EmbedError: as ``run_collection``.
        click.exceptions.Exit: 1, when the job was paused.
        click.Abort: the answer was no; nothing was changed.
    """
    path = into or db
    if spec.image and (spec.sql or spec.image_from) and not store and _is_new(path, name):
        say(
            "The pages of a site will not show these images, which they do not find in a table. "
            "To keep the images beside their vectors, and show them: --store"
        )
    with opened_source(db, spec, path, name, images=images) as source:
        if not run_collection(path, name, source, model_id, asks=asks, store=store):
            raise click.exceptions.Exit(1)


def _is_new(path: str, name: str) -> bool:
    with existing(path) as conn:
        return conn is None or Store(conn).find_collection(name) is None
