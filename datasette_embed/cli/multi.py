"""``multi``: embed the records of a file, of a query or of folders; LLM's ``embed-multi``.

Layer 11: the words around ``inputs``. What a record means is decided there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import click

from ..amounts import rows_text
from ..errors import SourceError
from ..input_files import InputFormat
from ..input_rows import Shape
from ..inputs import (
    DEFAULT_FILE_ENCODINGS,
    STANDARD_INPUT,
    FolderRows,
    RecordRows,
    open_file,
    open_query,
)
from ..llm_files import default_database
from ..records import Row
from .arguments import names, not_empty
from .output import say
from .run import run_collection
from .targets import database_option, folder_for, key_option, model_for, model_option

#: So many rows that cannot be embedded are named while they are read.
PROBLEMS_SAID = 100


@click.command()
@click.argument("collection", callback=not_empty)
@click.argument(
    "input_path",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, readable=True),
    required=False,
    metavar="[INPUT]",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice([format_.value for format_ in InputFormat]),
    help="Format of INPUT (default: found out)",
)
@click.option(
    "--files",
    type=(click.Path(file_okay=False, allow_dash=False), str),
    multiple=True,
    metavar="DIR GLOB",
    help="Embed the files of a folder that match a pattern; may be repeated",
)
@click.option(
    "--encoding",
    "encodings",
    multiple=True,
    help="Encoding of the text, may be repeated: the first that fits is taken",
)
@click.option("--binary", is_flag=True, help="Treat --files as binary data")
@click.option("--sql", callback=not_empty, help="Embed the rows of a query over the database")
@click.option(
    "--attach",
    type=(str, click.Path(dir_okay=False, allow_dash=False)),
    multiple=True,
    metavar="ALIAS PATH",
    help="Attach another database to --sql; may be repeated",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Texts per call of the model")
@click.option("--prefix", callback=not_empty, help="Put this before each id")
@model_option
@key_option
@click.option(
    "--prepend", callback=not_empty, help="Put this before each text, for models that want it"
)
@click.option(
    "--metadata-columns",
    callback=names,
    help="Columns to keep as metadata, out of the text, with commas between them",
)
@click.option("--store", is_flag=True, help="Store the content beside its vector")
@database_option
@click.pass_context
def multi(
    ctx: click.Context,
    collection: str,
    input_path: str | None,
    format_: str | None,
    files: Sequence[tuple[str, str]],
    encodings: Sequence[str],
    binary: bool,
    sql: str | None,
    attach: Sequence[tuple[str, str]],
    batch_size: int | None,
    prefix: str | None,
    model_id: str | None,
    key: str | None,
    prepend: str | None,
    metadata_columns: tuple[str, ...],
    store: bool,
    database: str | None,
) -> None:
    """Embed many texts into COLLECTION: from INPUT, --sql or --files.

    INPUT is a CSV, TSV, JSON or newline-delimited JSON file, or - for standard input. The
    first column is the id, the others are joined to the text. Run it again after an
    interruption: only what is missing is embedded.
    """
    _check_usage(input_path, format_, files, encodings, binary, sql, attach, metadata_columns)
    db = database or default_database()
    shape = Shape(prefix or "", prepend or "", metadata_columns)
    source: RecordRows | FolderRows
    if files:
        encodings = encodings or DEFAULT_FILE_ENCODINGS
        source = FolderRows(files, encodings=encodings, binary=binary, shape=shape)
    elif sql:
        source = open_query(sql, db if Path(db).exists() else None, attach, shape)
    else:
        source = _open_input(str(input_path), format_, encodings, shape)
    with closing(source), folder_for(db):
        if source.repeated:
            say(f"{rows_text(source.repeated)} replaced by a later one of the same id")
        model = model_for(ctx, db, collection, model_id)
        rows = _SaidRows(source)
        is_done = run_collection(
            db, collection, rows, model.model_id, store=store, key=key, batch_size=batch_size
        )
    if not is_done:
        raise click.exceptions.Exit(1)


def _open_input(
    input_path: str, format_: str | None, encodings: Sequence[str], shape: Shape
) -> RecordRows:
    """Read a file, or standard input for ``-``.

    Raises:
        SourceError: as ``open_file``; there is no standard input.
    """
    if input_path == "-" and (sys.stdin is None or sys.stdin.closed):
        raise SourceError(STANDARD_INPUT, "is closed")
    return open_file(
        input_path,
        stdin=sys.stdin.buffer if input_path == "-" else None,
        format=InputFormat(format_) if format_ else None,
        encodings=encodings,
        shape=shape,
    )


def _check_usage(
    input_path: str | None,
    format_: str | None,
    files: Sequence[tuple[str, str]],
    encodings: Sequence[str],
    binary: bool,
    sql: str | None,
    attach: Sequence[tuple[str, str]],
    metadata_columns: tuple[str, ...],
) -> None:
    """Refuse options that do not go together; the first four messages are LLM's.

    Raises:
        click.UsageError: naming them.
    """
    if binary and not files:
        raise click.UsageError("--binary must be used with --files")
    if binary and encodings:
        raise click.UsageError("--binary cannot be used with --encoding")
    if not input_path and not sql and not files:
        raise click.UsageError("Either --sql or input path or --files is required")
    if files and (input_path or sql or format_):
        raise click.UsageError("Cannot use --files with --sql, input path or --format")
    if sql and (input_path or format_ or encodings):
        raise click.UsageError("Cannot use --sql with input path, --format or --encoding")
    if attach and not sql:
        raise click.UsageError("--attach must be used with --sql")
    if metadata_columns and files:
        raise click.UsageError("--metadata-columns cannot be used with --files")
    for directory, _ in files:
        if not Path(directory).is_dir():
            raise click.UsageError(f"Invalid directory: {directory}")


class _SaidRows:
    """A source whose rows that cannot be embedded are named when it is first read."""

    def __init__(self, source: RecordRows | FolderRows) -> None:
        self._source = source
        self.path = source.path
        self.name = source.name
        self.definition = source.definition
        self.is_binary = source.is_binary
        self._is_read = False

    def __str__(self) -> str:
        return str(self._source)

    def iter_windows(self, size: int = 1_000) -> Iterator[list[Row]]:
        """Yield the rows in lists of at most ``size``."""
        problems = 0
        for window in self._source.iter_windows(size):
            for row in window if not self._is_read else ():
                if row.problem is not None:
                    problems += 1
                    if problems <= PROBLEMS_SAID:
                        say(row.problem)
            yield window
        self._is_read = True
        if problems > PROBLEMS_SAID:
            say(f"… and {problems - PROBLEMS_SAID:,} more that cannot be embedded")
