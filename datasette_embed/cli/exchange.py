"""``collections export`` and ``collections import``.

Layer 11: the words around ``exchange``. No decision about data is made here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from ..amounts import rows_text
from ..database import open_database, translated
from ..errors import SourceError
from ..exchange import (
    ExportCounts,
    FileFormat,
    ImportCounts,
    Rows,
    TableRows,
    TableSpec,
    export_collection,
    format_of,
    import_rows,
    open_rows,
)
from ..registry import get_registry
from ..store import Store
from .arguments import database_and, names, not_empty, reading
from .output import command_text, one_line, say
from .targets import folder_for

#: Rows that are named before only their number is said.
NAMED_PROBLEMS = 20
#: Characters of what is quoted from a file.
LONGEST_LINE = 300
STANDARD_STREAM = "-"

_format = click.option(
    "--format",
    "format_name",
    type=click.Choice([file_format.value for file_format in FileFormat]),
    help="Format of FILE (default: what its name ends in)",
)


@click.command()
@database_and("collection", "file")
@_format
@click.option("--overwrite", is_flag=True, help="Replace a file that is there")
def export(db: str, collection: str, file: str, format_name: str | None, overwrite: bool) -> None:
    """Write COLLECTION to FILE, with its vectors and all that is stored with them.

    FILE ends in .jsonl, .csv, .npy or .parquet; - is standard output.
    """
    is_stream = file == STANDARD_STREAM
    file_format = _chosen_format(file, format_name)
    target: Path | BinaryIO = sys.stdout.buffer if is_stream else Path(file)
    with reading(db) as conn, _progress("Exporting", None if is_stream else 1) as show:
        counts = export_collection(
            conn,
            db,
            collection,
            target,
            file_format,
            overwrite=overwrite,
            report=lambda done, total: show(done, total),
            on_removed=lambda path: say(f"Removed {path}, which an export that was killed left"),
        )
    _say_exported(counts, collection, file, file_format)


def _say_exported(
    counts: ExportCounts, collection: str, file: str, file_format: FileFormat
) -> None:
    where = "" if file == STANDARD_STREAM else f" to {file}"
    say(f"Exported {rows_text(counts.entries)} of '{collection}'{where}")
    if counts.without_vector:
        what = "left out" if file_format is FileFormat.NPY else "written without one"
        say(f"{rows_text(counts.without_vector)} without a vector that can be used: {what}")
    if counts.without_metadata:
        say(f"{rows_text(counts.without_metadata)} written without metadata, which is no JSON")
    if counts.without_id:
        say(f"{rows_text(counts.without_id)} without an id that is text: left out")


@click.command("import")
@database_and("collection", "[file]")
@_format
@click.option("--table", callback=not_empty, help="A table that holds vectors, instead of FILE")
@click.option(
    "--from",
    "from_db",
    type=click.Path(),
    callback=not_empty,
    help="The file that holds the table, when it is not DB",
)
@click.option(
    "--id",
    "id_columns",
    callback=names,
    help="Columns of the table that name a row (default: the primary key)",
)
@click.option(
    "--vector",
    callback=not_empty,
    help="Column of the table that holds the vectors (default: what looks like it)",
)
@click.option("--content", callback=not_empty, help="Column of the table to store as the text")
@click.option(
    "--model",
    "model_id",
    callback=not_empty,
    help="Model that made the vectors (default: the one the file names)",
)
def import_(
    db: str,
    collection: str,
    file: str | None,
    format_name: str | None,
    table: str | None,
    from_db: str | None,
    id_columns: tuple[str, ...],
    vector: str | None,
    content: str | None,
    model_id: str | None,
) -> None:
    """Put the vectors of FILE, or of a table, into COLLECTION.

    An entry of the same id is replaced, the others are kept. Run it again after an
    interruption: what is there already is passed over.
    """
    if bool(file) == bool(table):
        raise click.UsageError("Name a FILE or give --table, one of them")
    for option, value in (
        ("--from", from_db),
        ("--id", id_columns),
        ("--vector", vector),
        ("--content", content),
    ):
        if value and not table:
            raise click.UsageError(f"{option} goes with --table")
    if format_name and table:
        raise click.UsageError("--format goes with FILE")
    with ExitStack() as stack:
        if table:
            spec = TableSpec(table, id_columns, vector, content)
            rows = _table_rows(stack, from_db or db, spec)
        else:
            rows = _file_rows(stack, str(file), format_name)
        stack.enter_context(folder_for(db))
        _import(db, collection, rows, model_id)


def _table_rows(stack: ExitStack, db: str, spec: TableSpec) -> Rows:
    conn = stack.enter_context(closing(open_database(db)))
    return TableRows(conn, db, spec)


def _file_rows(stack: ExitStack, file: str, format_name: str | None) -> Rows:
    file_format = _chosen_format(file, format_name)
    if file == STANDARD_STREAM:
        return open_rows(sys.stdin.buffer, file_format, "stdin")
    return stack.enter_context(closing(open_rows(Path(file), file_format)))


def _chosen_format(file: str, format_name: str | None) -> FileFormat:
    """Return the format, JSON Lines for a stream of which nothing is said.

    Raises:
        SourceError: neither the option nor the name says it.
    """
    if format_name:
        return FileFormat(format_name)
    return FileFormat.JSONL if file == STANDARD_STREAM else format_of(Path(file))


def _import(db: str, collection: str, rows: Rows, model_id: str | None) -> None:
    for note in rows.notes:
        say(one_line(note, LONGEST_LINE))
    named = 0

    def name_problem(problem: SourceError) -> None:
        nonlocal named
        named += 1
        if named <= NAMED_PROBLEMS:
            say(one_line(f"Left out: {problem}", LONGEST_LINE))
        elif named == NAMED_PROBLEMS + 1:
            say("… and more, counted at the end")

    try:
        with _progress("Importing", rows.size) as show:
            counts = import_rows(
                db,
                collection,
                rows,
                model_id,
                report=lambda counts: show(rows.position, rows.size or 0),
                on_problem=name_problem,
            )
    except KeyboardInterrupt:
        say("\nStopped: what was imported is kept. Run the same command to go on.")
        raise
    _say_imported(db, collection, counts)


def _say_imported(db: str, collection: str, counts: ImportCounts) -> None:
    parts = [f"Imported {rows_text(counts.written)} into '{collection}'"]
    parts += [f"{counts.unchanged:,} were there already"] if counts.unchanged else []
    if counts.repeated:
        parts.append(f"{counts.repeated:,} had an id that came before: the last one counts")
    parts += [f"{counts.bad:,} left out"] if counts.bad else []
    say("; ".join(parts))
    with closing(open_database(db)) as conn, translated(db):
        record = Store(conn).find_collection(collection)
    if record is not None and record.source:
        say(f"'{collection}' has a source: the next sync removes what is no row of it")
    if get_registry().find(counts.model_id) is None:
        model_id = one_line(counts.model_id, LONGEST_LINE)
        say(f"The model {model_id} is not registered here: similar works, search by text needs it")
    else:
        say(f"Search it: {command_text('search', db, collection, 'some words')}")


@contextmanager
def _progress(label: str, size: int | None) -> Iterator[Callable[[int, int], None]]:
    """Show how far it has come, on a terminal; ``size`` None shows nothing.

    Yields:
        A function of (done, in all).
    """
    if size is None:
        yield lambda done, total: None
        return
    with click.progressbar(length=size, label=label, show_eta=True, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield show
