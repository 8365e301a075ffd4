"""Visibility: what of a served database somebody may not see, because of where it is from.

Layer 7: imports ``compat``, ``database``, ``holdings`` and ``settings``. It puts the rules of
``holdings`` to Datasette for one actor. Nothing is kept here but what was read of a file that
has not changed since; how long an answer counts is for ``access`` to say.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Set
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import compat
from .compat import Actor
from .database import sqlite3
from .holdings import UNREADABLE, Holdings, Need, Rule, folded, mentioned, read_holdings
from .settings import get_settings

if TYPE_CHECKING:
    from datasette.app import Datasette
    from datasette.database import Database

logger = logging.getLogger(__name__)

#: From so many tables on one question about all is quicker than one about each.
_MANY_TABLES = 20
#: A file that changed less than this ago may change again within one tick of its clock.
_SETTLED_SECONDS = 2.0
#: What was read of a file is read again after this, whatever its times say.
_KEPT_SECONDS = 10.0
#: That there was no time to read it counts so long, unless the file changes.
_LATE_SECONDS = 60.0

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
# Sources that are nowhere, of which the log has been told.
_told: WeakKeyDictionary[Database, set[Rule]] = WeakKeyDictionary()


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
        public = _public_collections(datasette, database)
        holdings: Holdings = await db.execute_fn(lambda conn: read_holdings(conn, public))
    except sqlite3.Error as error:
        logger.warning("database %s cannot be read, its collections are hidden: %s", db.name, error)
        return _worst(_known.get(db))
    if holdings.is_late:
        logger.warning("database %s takes too long to be looked at: it is hidden", db.name)
    is_settled = stamp is not None and now - changed_at >= _SETTLED_SECONDS
    _known[db] = _Known(holdings, stamp, is_settled, time.monotonic())
    return holdings


async def judge(datasette: Datasette, actor: Actor, database: str) -> Verdict:
    """Return what an actor may not see of a database."""
    holdings = await holdings_of(datasette, database)
    left = holdings.rules - await met_at_once(datasette, actor, database, holdings.rules)
    # Those first that decide about SQL too.
    for rule in sorted(left, key=lambda rule: (not rule.is_elsewhere, rule.name)):
        if not await meets(datasette, actor, database, rule):
            hidden = {folded(name): name for name in holdings.hidden}
            return Verdict(hidden, rule.is_elsewhere)
    return Verdict({})


async def met_at_once(
    datasette: Datasette, actor: Actor, database: str, rules: Set[Rule]
) -> set[Rule]:
    """Return rules that an actor meets, found by one question; ``meets`` answers for the others.

    Of few rules, and on Datasette 0.65, there are none.
    """
    tables = {rule for rule in rules if rule.need is Need.TABLE}
    if len(tables) < _MANY_TABLES:
        return set()
    token = _is_asking.set(True)
    try:
        names = await compat.viewable_tables(datasette, actor, database)
    finally:
        _is_asking.reset(token)
    return {rule for rule in tables if rule.name in names}


async def meets(datasette: Datasette, actor: Actor, database: str, rule: Rule) -> bool:
    """Return whether an actor may see what a rule of this database asks for."""
    token = _is_asking.set(True)
    try:
        return await _Question(datasette, actor).meets(database, rule)
    finally:
        _is_asking.reset(token)


class _Question:
    """One question about one actor: all that it leads to must be answered with yes."""

    def __init__(self, datasette: Datasette, actor: Actor) -> None:
        self._datasette = datasette
        self._actor = actor
        # Databases whose SQL has been asked about: a no would have ended the question.
        self._asked: set[str] = set()

    async def meets(self, database: str, rule: Rule) -> bool:
        """Return whether the actor may see what a rule of a database asks for."""
        if rule.need is Need.TABLE:
            return await self._may_view_table(database, rule.name)
        if rule.need is Need.EMBEDDINGS:
            return await self._may_view_table(database, "embeddings")
        if rule.need is Need.SQL:
            return await self._may_execute_sql(database)
        if rule.need is Need.NOBODY:
            return False
        return await self._meets_elsewhere(database, rule)

    async def _may_view_table(self, database: str, table: str) -> bool:
        return await compat.may_view_table(self._datasette, self._actor, database, table)

    async def _may_execute_sql(self, database: str) -> bool:
        """Return whether the actor may run SQL on a database, our own denial of it included."""
        if database in self._asked:
            return True
        self._asked.add(database)
        if not await compat.may_execute_sql(self._datasette, self._actor, database):
            return False
        for rule in (await holdings_of(self._datasette, database)).rules:
            if rule.is_elsewhere and not await self.meets(database, rule):
                return False
        return True

    async def _meets_elsewhere(self, database: str, rule: Rule) -> bool:
        if not await compat.may_view_database(self._datasette, self._actor, database):
            return False
        is_served = False
        for other in served_databases(self._datasette):
            if other == database:
                continue
            holdings = await holdings_of(self._datasette, other)
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
                await self._may_execute_sql(other)
                if is_sql or table is None
                else await self._may_view_table(other, table)
            ):
                return False
        if not is_served and not rule.is_public:
            _tell(self._datasette, database, rule)
        return is_served or rule.is_public or compat.is_root(self._datasette, self._actor)


def _tell(datasette: Datasette, database: str, rule: Rule) -> None:
    """Log once why something is hidden from all but root, and what to do."""
    told = _told.setdefault(datasette.get_database(database), set())
    if rule not in told:
        told.add(rule)
        source = f"table {rule.name!r}" if rule.need is Need.TABLE_ELSEWHERE else "query"
        logger.warning(
            "database %s: collections of a %s that is in no other database served here are "
            "hidden from everybody but root. Serve the database with the rows too, or name the "
            "collections in the setting public_collections",
            database,
            source,
        )


def _public_collections(datasette: Datasette, database: str) -> frozenset[str]:
    """Return the names of a database's collections that the site says are public."""
    begins = f"{database}/"
    names = get_settings(datasette).public_collections
    return frozenset(name.removeprefix(begins) for name in names if name.startswith(begins))


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
    age = time.monotonic() - known.read_at
    if known.holdings.is_late:
        is_fresh = age < _LATE_SECONDS
    else:
        is_fresh = known.is_settled and age < _KEPT_SECONDS
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
