"""``check``: what is wrong in a file, and what to run against it.

Layer 11: the words around ``health``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict

import click

from ..amounts import rows_text
from ..database import open_database, sqlite3, write_transaction
from ..health import (
    FILES_GONE,
    NOT_NOTED,
    ORPHANED,
    WATCHED,
    Problem,
    find_problems,
    mark_for_repair,
)
from ..model_entries import PROVIDERS
from ..presets import PRESETS
from ..records import CollectionRecord
from ..registry import get_registry
from ..store import Store
from ..watches import Watches
from .arguments import as_json, database_and, reading, writing
from .output import command_text, print_json, print_line, say

_DELETE_ORPHANS = (
    "delete from embeddings where collection_id is null"
    " or collection_id not in (select id from collections)"
)


@click.command()
@database_and()
@click.option(
    "--repair",
    is_flag=True,
    help="Let the next sync embed unusable vectors again, and remove what is left of watches",
)
@as_json
def check(db: str, repair: bool, as_json: bool) -> None:
    """Look for vectors that cannot be used, missing models, lost sources and orphans.

    Exit code 1 when there is a problem that --repair was not asked to mend, or cannot.
    """
    with reading(db) as conn, closing(open_database(db)) as source_conn:
        records = {record.name: record for record in Store(conn).list_collections()}
        problems = list(find_problems(conn, db, get_registry(), source_conn))
    if as_json:
        print_json([asdict(problem) for problem in problems])
    for problem in problems if not as_json else []:
        where = f"{problem.collection}: " if problem.collection else ""
        count = f"{rows_text(problem.entries)}: " if problem.entries is not None else ""
        which = f" ({', '.join(problem.examples)})" if problem.examples else ""
        print_line(f"{where}{count}{problem.message}{which}")
    if repair:
        with writing(db) as conn:
            mended = _mark(conn, db, [records[name] for name in _damaged(problems)])
            orphans = _delete_orphans(conn, problems)
        problems = [p for p in problems if p.entries is None or p.collection not in mended]
        problems = [p for p in problems if p not in orphans]
    for remedy in dict.fromkeys(text for p in problems for text in _remedies(db, p, records)):
        say(remedy)
    if problems:
        raise click.exceptions.Exit(1)
    if not repair or not (mended or orphans):
        say(
            f"{db}: {len(records)} collection(s), no problems"
            if records
            else f"{db} has no collections"
        )


def _damaged(problems: list[Problem]) -> list[str]:
    """Return the names of the collections that hold unusable vectors."""
    found = [p.collection for p in problems if p.collection and p.entries is not None]
    return list(dict.fromkeys(found))


def _mark(conn: sqlite3.Connection, db: str, records: list[CollectionRecord]) -> list[str]:
    """Mark what is unusable; return the names of the collections a sync can mend."""
    mended = []
    for record in records:
        # Without a source there is nothing it could be embedded from.
        if record.source is not None:
            with write_transaction(conn):
                count = mark_for_repair(conn, record)
            mended.append(record.name)
            say(
                f"{record.name}: {rows_text(count)} marked. To embed them again: "
                f"{command_text('sync', db, record.name)}"
            )
    return mended


def _delete_orphans(conn: sqlite3.Connection, problems: list[Problem]) -> list[Problem]:
    """Delete what is left of watches that serve no collection; return those problems."""
    orphans = [p for p in problems if p.collection is None and p.message.endswith(ORPHANED)]
    if orphans:
        with write_transaction(conn):
            Watches(conn).delete_orphans()
        for problem in orphans:
            say(f"Removed: {problem.message}")
    return orphans


def _remedies(db: str, problem: Problem, records: dict[str, CollectionRecord]) -> Iterator[str]:
    """Yield what to run against a problem, one line each."""
    name = problem.collection
    if name is None:
        # The other problems of the file say it themselves.
        if problem.message.endswith(ORPHANED):
            yield f"To remove what is left of watches: {command_text('check', db, repair=True)}"
        elif problem.entries is not None:
            yield f"To delete them: {shlex.join(['sqlite3', db, _DELETE_ORPHANS])}"
    elif problem.entries is not None:
        if records[name].source is None:
            yield f"{name}: embed these again with the tool that made them"
        else:
            yield f"To mend vectors: {command_text('check', db, repair=True)}"
    elif problem.message.startswith((WATCHED, NOT_NOTED)):
        yield f"To watch it from here: {command_text('watch', db, name)}"
        yield f"To end its watch: {command_text('unwatch', db, name)}"
    elif problem.message.startswith(FILES_GONE):
        yield f"{name}: bring them back, or register the model from where they are now"
    elif problem.message.startswith("its model"):
        yield f"To add its model: {_registering(records[name].model_id)}"
    elif problem.message.startswith("its rows"):
        again = command_text("collections delete", db, name)
        yield f"{name}: bring its rows back, or delete its vectors: {again}"
    else:
        yield f"To embed it again: {command_text('sync', db, name)}"


def _registering(model_id: str) -> str:
    """Return the command that registers a model of this id, as far as an id tells.

    Of a folder and of an import path it tells the last part only, and of a model with an id
    of its own nothing.
    """
    provider, _, name = model_id.partition("/")
    if provider == "openai" and name:
        # Without its address the texts would go to OpenAI's own service.
        return f"{command_text('models register', provider, name)} -o base_url URL"
    if provider in PRESETS or (provider in PROVIDERS and "/" in name):
        return command_text("models register", provider, name)
    is_told = name and provider in PROVIDERS
    command = command_text(
        "models register", provider if is_told else "PROVIDER", "NAME", id=model_id
    )
    return command if is_told else f"{command}, or install the plugin that has it"
