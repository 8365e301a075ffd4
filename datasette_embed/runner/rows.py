"""Rows: the files of a job, opened: its vectors, and the rows it embeds.

Part of layer 10. A collection may come from a stranger, and so may what it says of where
its rows are: another database is read only when a person asked this site for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from ..database import open_database, sqlite3, translated, write_transaction
from ..errors import SourceError
from ..job_records import JobRecords
from ..opened_sources import opened_source, synced_source
from ..records import CollectionRecord, RowSource
from ..schema import ensure_schema, has_our_tables, refuse_foreign
from ..sources import Source, SourceSpec
from .site import Site


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """Open a file with collections for reading.

    Raises:
        SourceError: it cannot be read, or its tables of these names are somebody else's.
    """
    with closing(open_database(path)) as conn, translated(path):
        refuse_foreign(conn, path)
        yield conn


@contextmanager
def writing(path: str) -> Iterator[sqlite3.Connection]:
    """Open a file with collections, and write what the block writes or nothing.

    Raises:
        SourceError: it cannot be written, or its tables of these names are somebody else's.
    """
    with closing(open_database(path, writable=True)) as conn, translated(path):
        refuse_foreign(conn, path)
        with write_transaction(conn):
            if has_our_tables(conn):
                ensure_schema(conn, path)  # an earlier version's lack some columns
            yield conn


@contextmanager
def new_source(
    site: Site,
    path: str,
    name: str,
    spec: SourceSpec,
    rows_database: str | None,
    seconds: float | None = None,
) -> Iterator[Source]:
    """Open the rows of a collection that a person asks for.

    Args:
        path: the file for the vectors.
        rows_database: the database with the rows, if it is another one.
        seconds: how long all that is asked of the rows may take; None for any time.

    Raises:
        EmbedError: there is no such database, table or column.
        DeadlineError: it takes longer.
    """
    spec = replace(spec, is_elsewhere=rows_database is not None)
    rows_path = site.get_file(rows_database, writable=False) if rows_database else path
    with opened_source(rows_path, spec, path, name, seconds) as source:
        yield source


@contextmanager
def opened_rows(
    site: Site, path: str, record: CollectionRecord, options: Mapping[str, Any]
) -> Iterator[Source]:
    """Open what a collection was made from.

    Args:
        options: those of a job that a person asked this site for.

    Raises:
        SourceError: it does not say, or its rows are in a database that nobody named.
    """
    rows_path = None
    if record.source and SourceSpec.from_json(record.source).is_elsewhere:
        rows_database = options.get("rows_database")
        if not isinstance(rows_database, str):
            raise rows_unknown(record)
        rows_path = site.get_file(rows_database, writable=False)
    with synced_source(path, record, rows_path, None) as source:
        yield source


def rows_options(
    site: Site, conn: sqlite3.Connection, path: str, record: CollectionRecord
) -> dict[str, Any]:
    """Return where the rows of a collection are, as a person once told this site.

    Raises:
        SourceError: they are in another database, and nobody has said in which.
    """
    if record.source is None or not SourceSpec.from_json(record.source).is_elsewhere:
        return {}
    for job in JobRecords(conn).list_jobs(record.id):
        if job.options.get("rows_database") and site.is_ours(path, job, record):
            return {"rows_database": job.options["rows_database"]}
    raise rows_unknown(record)


def told_rows_database(
    site: Site, conn: sqlite3.Connection, database: str, record: CollectionRecord
) -> str | None:
    """Return the database with the rows of a collection, as a person once told this site.

    None where nobody did: what a file says of itself may be a stranger's.
    """
    try:
        options = rows_options(site, conn, site.get_file(database, writable=False), record)
    except SourceError:
        return None
    return str(options["rows_database"]) if options else None


def rows_unknown(record: CollectionRecord) -> SourceError:
    """Return the error of a collection whose rows are in a database that nobody named."""
    return SourceError(
        f"collection '{record.name}'",
        "its rows are in another database, and nobody told this site in which: create it "
        "once more under the same name, naming that database",
    )


def refuse_empty(source: RowSource) -> None:
    """Refuse to make a collection of nothing.

    Raises:
        SourceError: the source has no rows.
    """
    if next(iter(source.iter_windows(1)), None) is None:
        raise SourceError(source.path, f"{source.name} has no rows to embed")
