"""``check``: what is wrong in a file.

Layer 10: the words around ``health``.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict

import click

from ..database import open_database, translated
from ..health import find_problems
from ..registry import get_registry
from ..store import Store
from .output import print_json, rows_text, say


@click.command()
@click.argument("db", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def check(db: str, as_json: bool) -> None:
    """Look for vectors that cannot be used, missing models, lost sources and orphans.

    Exit code 1 when there is a problem.
    """
    with closing(open_database(db)) as conn, closing(open_database(db)) as source_conn:
        with translated(db):
            names = [record.name for record in Store(conn).list_collections()]
            problems = list(find_problems(conn, db, get_registry(), source_conn))
    if as_json:
        print_json([asdict(problem) for problem in problems])
    for problem in problems if not as_json else []:
        where = f"{problem.collection}: " if problem.collection else ""
        count = f"{rows_text(problem.entries)}: " if problem.entries is not None else ""
        which = f" ({', '.join(problem.examples)})" if problem.examples else ""
        click.echo(f"{where}{count}{problem.message}{which}")
    if problems:
        raise click.exceptions.Exit(1)
    say(f"{db}: {len(names)} collection(s), no problems" if names else f"{db} has no collections")
