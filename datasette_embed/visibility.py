"""Visibility: what of a served database somebody may not see, because of where it is from.

Layer 7: imports ``compat``, ``database`` and ``holdings``. It puts the rules of ``holdings``
to Datasette for one actor. Nothing is kept here but what was read of a file that has not
changed since; how long an answer counts is for ``access`` to say.
"""

from __future__ import annotations

import logging
import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import compat
from .compat import Actor
from .database import sqlite3
from .holdings import UNREADABLE, Holdings, Need, Rule, folded, mentioned, read_holdings

if TYPE_CHECKING:
    from datasette.app import Datasette
    from datasette.database import Database

logger = logging.getLogger(__name__)

#: A file that changed less than this ago may change again within one tick of its clock.
_SETTLED_SECONDS = 2.0
#: What was read of a file is read again after this, whatever its times say.
_KEPT_SECONDS = 10.0

# Set while Datasette is asked about a source: our own answers must not count then.
_is_asking: ContextVar[bool] = ContextVar("embed_is_asking", default=False)


@dataclass(frozen=True)
class Verdict:
    """What one actor may not see of a database.

    Attributes:
        hidden: folded names of tables and views -> as they are spelled.
        denies_sql: whether the whole of the database, by SQL or as a file, would show what
            its own SQL permission does not speak for.
    """

    hidden: dict[str, str]
    denies_sql: bool = False

    def is_hidden(self, table: str) -> bool:
        """Say whether a table or view is among ``hidden``, as SQLite compares names."""
        return folded(table) in self.hidden


@dataclass(frozen=True)
class _Known:
    """What was read of a file, and when it had which size and times."""

    holdings: Holdings
    stamp: Any
    is_settled: bool
    read_at: float


_known: WeakKeyDictionary[Database, _Known] = WeakKeyDictionary()


def is_asking() -> bool:
    """Say whether this is a question of ours, which our rules must not answer."""
    return _is_asking.get()


def served_databases(datasette: Datasette) -> list[str]:
    """Return the names of the databases that can hold collections."""
    return [
        name
        for name, db in datasette.databases.items()
        # A nameless one in memory is another, empty one for each connection.
        if name != "_internal" and not (db.is_memory and not db.memory_name)
    ]


def databases_behind(datasette: Datasette, database: str) -> list[str]:
    """Return the databases that SQL on this one reads: itself, or those joined for --crossdb."""
    served = served_databases(datasette)
    if database == "_memory" and datasette.crossdb:
        return served
    return [database] if database in served else []


def is_nothing_held(datasette: Datasette) -> bool:
    """Say at once whether no served database is known to hold collections now.

    False also where that is not known.
    """
    for name in served_databases(datasette):
        holdings = _current(datasette.databases[name])
        if holdings is None or holdings.rules:
            return False
    return True


async def holdings_of(datasette: Datasette, database: str) -> Holdings:
    """Return what a database keeps; of one that cannot be read, the worst."""
    db = datasette.get_database(database)
    current = _current(db)
    if current is not None:
        return current
    # Before reading: a change in between must not go unseen.
    stamp, changed_at = _stamp(db)
    now = time.time()
    try:
        holdings: Holdings = await db.execute_fn(read_holdings)
    except sqlite3.Error as error:
        logger.warning("database %s cannot be read, its collections are hidden: %s", db.name, error)
        return _worst(_known.get(db))
    is_settled = stamp is not None and now - changed_at >= _SETTLED_SECONDS
    _known[db] = _Known(holdings, stamp, is_settled, time.monotonic())
    return holdings


async def judge(datasette: Datasette, actor: Actor, database: str) -> Verdict:
    """Return what an actor may not see of a database."""
    holdings = await holdings_of(datasette, database)
    # Those first that decide about SQL too.
    for rule in sorted(holdings.rules, key=lambda rule: (not rule.is_elsewhere, rule.name)):
        if not await meets(datasette, actor, database, rule):
            hidden = {folded(name): name for name in holdings.hidden}
            return Verdict(hidden, rule.is_elsewhere)
    return Verdict({})


async def meets(datasette: Datasette, actor: Actor, database: str, rule: Rule) -> bool:
    """Return whether an actor may see what a rule of this database asks for."""
    token = _is_asking.set(True)
    try:
        if rule.need is Need.TABLE:
            return await compat.may_view_table(datasette, actor, database, rule.name)
        if rule.need is Need.EMBEDDINGS:
            return await compat.may_view_table(datasette, actor, database, "embeddings")
        if rule.need is Need.SQL:
            return await compat.may_execute_sql(datasette, actor, database)
        if rule.need is Need.NOBODY:
            return False
        return await _meets_elsewhere(datasette, actor, database, rule)
    finally:
        _is_asking.reset(token)


async def _meets_elsewhere(datasette: Datasette, actor: Actor, database: str, rule: Rule) -> bool:
    if not await compat.may_view_database(datasette, actor, database):
        return False
    is_served = False
    for other in served_databases(datasette):
        if other == database:
            continue
        holdings = await holdings_of(datasette, other)
        if Rule(Need.NOBODY) in holdings.rules:
            return False
        if rule.need is Need.TABLE_ELSEWHERE:
            table = holdings.names.get(folded(rule.name))
            is_there, is_sql = table is not None, table in holdings.hidden
        else:
            table, is_sql = None, True
            is_there = bool(mentioned(holdings.names, rule.name))
        is_served = is_served or is_there
        if is_there and not (
            await compat.may_execute_sql(datasette, actor, other)
            if is_sql or table is None
            else await compat.may_view_table(datasette, actor, other, table)
        ):
            return False
    return is_served or await compat.may_execute_sql(datasette, actor, database)


def _worst(known: _Known | None) -> Holdings:
    if known is None:
        return UNREADABLE
    return replace(
        known.holdings,
        hidden=known.holdings.hidden | UNREADABLE.hidden,
        rules=UNREADABLE.rules,
    )


def _current(db: Database) -> Holdings | None:
    """Return what was read of a database, if it cannot have changed since."""
    known = _known.get(db)
    if known is None or known.stamp is None:
        return None
    if not db.is_mutable:
        return known.holdings
    is_fresh = known.is_settled and time.monotonic() - known.read_at < _KEPT_SECONDS
    return known.holdings if is_fresh and _stamp(db)[0] == known.stamp else None


def _stamp(db: Database) -> tuple[Any, float]:
    """Return what changes when a file is written, and when that was last, in seconds.

    In WAL mode it is the log that is written. The stamp is None where there is no file.
    """
    if not db.is_mutable and not db.is_memory:
        return "immutable", 0.0
    if db.is_memory or not db.path:
        return None, 0.0
    try:
        stats = [os.stat(db.path)]
        if os.path.exists(f"{db.path}-wal"):
            stats.append(os.stat(f"{db.path}-wal"))
    except OSError:
        return None, 0.0
    stamp = tuple((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats)
    return stamp, max(max(s.st_mtime, s.st_ctime) for s in stats)
