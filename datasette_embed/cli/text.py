"""``text``: the vector of one text, printed or stored; LLM's ``embed``.

Layer 11: the words around ``one_entry``.
"""

from __future__ import annotations

import base64
import json
import sys
from enum import StrEnum

import click

from ..errors import SourceError
from ..input_rows import id_of
from ..llm_files import default_database
from ..model_calls import embed_items
from ..models import Kind, is_blank
from ..one_entry import embed_entry
from ..records import Row
from ..strict_json import json_value
from ..vectors import decode, encode
from .arguments import not_empty, read_input
from .results import refuse_untaken, say_unread
from .targets import database_option, folder_for, key_option, model_for, model_option


class VectorFormat(StrEnum):
    """How a vector is printed; the values are LLM's ``--format``."""

    JSON = "json"
    BLOB = "blob"
    BASE64 = "base64"
    HEX = "hex"


def json_object(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return a JSON object as it is stored, as a callback of an option.

    Raises:
        click.BadParameter: it is none, in LLM's words.
    """
    if value is None:
        return None
    try:
        parsed = json_value(value)
    except ValueError as error:
        raise click.BadParameter("metadata must be valid JSON", ctx, param) from error
    if not isinstance(parsed, dict):
        raise click.BadParameter("metadata must be a JSON object", ctx, param)
    return json.dumps(parsed) if parsed else None


@click.command()
@click.argument("collection", required=False, callback=not_empty)
@click.argument("entry_id", required=False, metavar="[ID]")
@click.option(
    "-i",
    "--input",
    "input_path",
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True),
    help="File with the content, - for standard input",
)
@model_option
@key_option
@click.option("--store", is_flag=True, help="Store the content beside its vector")
@database_option
@click.option("-c", "--content", help="The text")
@click.option("--binary", is_flag=True, help="Treat the input as binary data")
@click.option("--metadata", callback=json_object, help="JSON object to store with the entry")
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice([format_.value for format_ in VectorFormat]),
    help="How to print the vector (default: json, and nothing when it is stored)",
)
@click.pass_context
def text(
    ctx: click.Context,
    collection: str | None,
    entry_id: str | None,
    input_path: str | None,
    model_id: str | None,
    key: str | None,
    store: bool,
    database: str | None,
    content: str | None,
    binary: bool,
    metadata: str | None,
    format_: str | None,
) -> None:
    """Print the vector of one text, or store it in COLLECTION under ID.

    Without -c and -i the text is read from standard input.
    """
    if collection and not entry_id:
        raise click.ClickException("Must provide both collection and id")
    for option, is_given in (("--store", store), ("--metadata", metadata is not None)):
        if is_given and not collection:
            raise click.ClickException(f"Must provide collection when using {option}")
    if content is not None and (input_path or binary):
        raise click.UsageError("Cannot use --content with --input or --binary")
    db = database or default_database()
    model = model_for(ctx, db, collection, model_id)
    item = content if content is not None else read_input(input_path or "-", binary)
    if is_blank(item) if isinstance(item, str) else not item:
        raise click.ClickException("No content provided")
    refuse_untaken(model, item)
    if isinstance(item, str):
        say_unread(model, item)
    if not collection:
        _print(encode(embed_items(model, [item], Kind.DOCUMENT, key=key).vectors[0]), format_)
        return
    row = Row(_entry_id(str(entry_id)), item, None, metadata)
    with folder_for(db):
        blob = embed_entry(db, collection, row, model, store=store, key=key)
    if format_ is not None:
        _print(blob, format_)


def _entry_id(text: str) -> str:
    """Return an id that can be stored.

    Raises:
        SourceError: it cannot.
    """
    try:
        return id_of(text)
    except ValueError as error:
        raise SourceError("the id", str(error)) from error


def _print(blob: bytes, format_: str | None) -> None:
    """Print a vector on stdout; as ``blob`` its bytes and nothing else."""
    if format_ == VectorFormat.BLOB:
        sys.stdout.buffer.write(blob)
        sys.stdout.buffer.flush()
    elif format_ == VectorFormat.BASE64:
        click.echo(base64.b64encode(blob).decode("ascii"))
    elif format_ == VectorFormat.HEX:
        click.echo(blob.hex())
    else:
        click.echo(json.dumps(decode(blob).tolist()))
