"""Access: who may see a collection and the tables it lives in, and who may make one.

Layer 8: imports ``budgets``, ``compat``, ``database``, ``errors``, ``holdings``, ``records``,
``registry``, ``settings``, ``store`` and ``visibility``. The questions that pages, API and
SQL ask, and the answers that Datasette asks of us. Why somebody may see something is
``visibility``; how a version of Datasette is asked is ``compat``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import budgets, compat, visibility
from .compat import Actor
from .database import translated
from .errors import CollectionNotFoundError, HiddenCollectionError
from .holdings import Rule
from .records import CollectionRecord
from .registry import get_registry
from .settings import get_settings
from .store import Store
from .visibility import Verdict

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

CREATE = "embed-create"
USE_MODEL = "embed-use-model"
#: What shows the whole of a database, whatever its tables are allowed to.
_WHOLE_DATABASE = frozenset({"execute-sql", "execute-write-sql", "view-database-download"})
#: How many names a message lists.
_MOST_NAMES = 100
#: About how many sources a page asks to know whether it links anything.
_MOST_ASKED = 20

# What was found out during a request; it ends with the request.
_answers: WeakKeyDictionary[Request, dict[Any, Any]] = WeakKeyDictionary()


# -- what may be asked for ---------------------------------------------------------


async def may_create(datasette: Datasette, actor: Actor, database: str) -> bool:
    """Return whether the actor may make and change collections in this database."""
    return await compat.may_view_database(datasette, actor, database) and await compat.is_allowed(
        datasette, actor, CREATE, database
    )


async def may_use_model(datasette: Datasette, actor: Actor, model_id: str) -> bool:
    """Return whether the actor may have texts embedded by this model."""
    return await compat.is_allowed(datasette, actor, USE_MODEL, model_id)


async def may_view_table(datasette: Datasette, actor: Actor, database: str, table: str) -> bool:
    """Return whether the actor may see the rows of this table or view."""
    return await compat.may_view_table(datasette, actor, database, table)


async def may_view_collection(
    datasette: Datasette, actor: Actor, database: str, record: CollectionRecord
) -> bool:
    """Return whether the actor may see what this collection was made from."""
    holdings = await visibility.holdings_of(datasette, database)
    return await _may(datasette, actor, database, holdings.rule_of(record.source, record.name))


async def visible_collections(
    datasette: Datasette, actor: Actor, database: str
) -> list[CollectionRecord]:
    """Return the collections of a database that the actor may see, by name.

    Raises:
        SourceError: the database cannot be read.
    """
    with translated(database):
        records = await datasette.get_database(database).execute_fn(
            lambda conn: Store(conn).list_collections()
        )
    holdings = await visibility.holdings_of(datasette, database)
    rules = [holdings.rule_of(record.source, record.name) for record in records]
    wanted = frozenset(rules)
    question = visibility.met_at_once(datasette, actor, database, wanted)
    met = await _answer(datasette, (id(datasette), _key(actor), database, wanted), question)
    left = wanted - met
    allowed = met | {rule for rule in left if await _may(datasette, actor, database, rule)}
    return [record for record, rule in zip(records, rules, strict=True) if rule in allowed]


async def get_visible_collection(
    datasette: Datasette, actor: Actor, database: str, name: str
) -> CollectionRecord:
    """Return the collection of this name.

    Raises:
        CollectionNotFoundError: there is none; it lists those that the actor may see.
        HiddenCollectionError: the actor may not see it.
        SourceError: the database cannot be read.
    """
    with translated(database):
        record: CollectionRecord | None = await datasette.get_database(database).execute_fn(
            lambda conn: Store(conn).find_collection(name)
        )
    if record is None:
        visible = await visible_collections(datasette, actor, database)
        raise CollectionNotFoundError(name, [found.name for found in visible[:_MOST_NAMES]])
    if not await may_view_collection(datasette, actor, database, record):
        raise HiddenCollectionError(name)
    return record


async def hidden_tables_of(datasette: Datasette, actor: Actor, database: str) -> set[str]:
    """Return the tables and views that hold collections the actor may not see."""
    return set((await _verdict(datasette, actor, database)).hidden.values())


async def sees_collections(datasette: Datasette, actor: Actor, database: str) -> bool:
    """Return whether the actor may see what some collection of a database was made from.

    For links on every page: of very many sources only some are asked about.
    """
    rules = (await visibility.holdings_of(datasette, database)).rules
    if _sees_everything(datasette, actor, database):
        return bool(rules)
    for rule in sorted(rules, key=lambda rule: (rule.is_elsewhere, rule.name))[:_MOST_ASKED]:
        if await _may(datasette, actor, database, rule):
            return True
    return False


async def may_create_somewhere(datasette: Datasette, actor: Actor) -> bool:
    """Return whether the actor may make collections in some database that can be written to."""
    if not (
        budgets.is_root(actor)
        or _matches(actor, get_settings(datasette).allow_create)
        or compat.may_others_decide(datasette, CREATE)
    ):
        return False
    for name, db in list(datasette.databases.items()):
        if db.is_mutable and db.path and await may_create(datasette, actor, name):
            return True
    return False


# -- the hooks ---------------------------------------------------------------------


def actions() -> list[Any]:
    """Return the actions of this package, for Datasette 1.0."""
    return [
        compat.database_action(CREATE, "Make, change and delete collections of embeddings"),
        compat.named_action(USE_MODEL, "Have texts embedded by a model", "model", _model_ids),
    ]


def permission_rules(datasette: Datasette, actor: Actor, action: str) -> Awaitable[Any] | None:
    """Return the rules of an action as SQL, for Datasette 1.0."""
    if action in (CREATE, USE_MODEL):
        return _default_rules(datasette, actor, action)
    if visibility.is_asking() or visibility.is_nothing_held(datasette):
        return None
    if action in _WHOLE_DATABASE or compat.is_about_tables(datasette, action):
        return _hiding_rules(datasette, actor, action)
    return None


def default_verdict(
    datasette: Datasette, actor: Actor, action: str, resource: Any
) -> Awaitable[bool | None] | None:
    """Return who may use our actions unless somebody says otherwise, for Datasette 0.65."""
    if action not in (CREATE, USE_MODEL):
        return None
    return _default_verdict(datasette, actor, action, resource)


def hiding_verdict(
    datasette: Datasette, actor: Actor, action: str, resource: Any
) -> Awaitable[bool | None] | None:
    """Return False for what follows a source the actor may not see, for Datasette 0.65."""
    is_table = isinstance(resource, tuple | list) and len(resource) == 2
    if is_table and action != "view-query":
        database, table = resource
    elif action in _WHOLE_DATABASE and isinstance(resource, str):
        database, table = resource, None
    else:
        return None
    if visibility.is_asking() or visibility.is_nothing_held(datasette):
        return None
    return _hiding_verdict(datasette, actor, database, table)


def refuse_hidden_search(
    datasette: Datasette, request: Request, database: str
) -> Awaitable[None] | None:
    """Refuse a search in a table the actor may not see, on Datasette 0.65.

    There ``?_fts_table=`` on the page of any table tells whether a word is in it.
    """
    table = request.args.get("_fts_table")
    if not table or compat.is_version_one(datasette):
        return None
    return _refuse_hidden(datasette, request.actor, database, table)


async def _refuse_hidden(datasette: Datasette, actor: Actor, database: str, table: str) -> None:
    if (await _verdict(datasette, actor, database)).is_hidden(table):
        raise compat.forbidden("You do not have permission to search this table")


def guard_labels(datasette: Datasette) -> None:
    """Show no row of a hidden table as the label of a foreign key, on Datasette 0.65.

    Unlike 1.0 it looks labels up without asking whether the table they are in may be seen,
    and no hook is called in between.
    """
    if compat.is_version_one(datasette):
        return
    expand = datasette.expand_foreign_keys

    async def expand_if_visible(database: str, table: str, column: str, values: Any) -> Any:
        verdict = await _verdict(datasette, _current_actor(), database)
        for key in await datasette.get_database(database).foreign_keys_for_table(table):
            if key["column"] == column and verdict.is_hidden(key["other_table"]):
                return {}
        return await expand(database, table, column, values)

    datasette.expand_foreign_keys = expand_if_visible


# -- answers -----------------------------------------------------------------------


async def _may(datasette: Datasette, actor: Actor, database: str, rule: Rule) -> bool:
    question = visibility.meets(datasette, actor, database, rule)
    return bool(await _answer(datasette, (id(datasette), _key(actor), database, rule), question))


async def _verdict(datasette: Datasette, actor: Actor, database: str) -> Verdict:
    question = visibility.judge(datasette, actor, database)
    verdict: Verdict = await _answer(datasette, (id(datasette), _key(actor), database), question)
    return verdict


def _sees_everything(datasette: Datasette, actor: Actor, database: str) -> bool:
    """Say whether this request has found out already that the actor may see all of a database."""
    request = budgets.current_request()
    answers = {} if request is None else _answers.get(request, {})
    task = answers.get((id(datasette), _key(actor), database))
    if task is None or not task.done() or task.cancelled() or task.exception():
        return False
    return not task.result().hidden


def _key(actor: Actor) -> str:
    return "" if actor is None else json.dumps(actor, sort_keys=True, default=str)


async def _answer(datasette: Datasette, key: Any, question: Coroutine[Any, Any, Any]) -> Any:
    """Return what a question comes to, asked once in a request.

    It is asked apart from the request, in whose context Datasette 1.0 keeps the answers to
    permission checks: those that we get are without our own rules.
    """
    request = budgets.current_request()
    answers = {} if request is None else _answers.setdefault(request, {})
    if key in answers:
        question.close()
    else:
        answers[key] = asyncio.get_running_loop().create_task(
            question, context=compat.context_apart(datasette)
        )
    # Somebody else may wait for it too.
    return await asyncio.shield(answers[key])


async def _hiding_verdict(
    datasette: Datasette, actor: Actor, database: str, table: str | None
) -> bool | None:
    if table is None:
        names = visibility.databases_behind(datasette, database)
        verdicts = [await _verdict(datasette, actor, name) for name in names]
        return False if any(verdict.denies_sql for verdict in verdicts) else None
    if database not in datasette.databases:
        return None
    verdict = await _verdict(datasette, actor, database)
    return False if verdict.is_hidden(table) else None


async def _hiding_rules(datasette: Datasette, actor: Actor, action: str) -> Any:
    denied: list[tuple[str, str | None]] = []
    verdicts = {
        name: await _verdict(datasette, actor, name)
        for name in visibility.served_databases(datasette)
    }
    for database in datasette.databases:
        if action in _WHOLE_DATABASE:
            names = visibility.databases_behind(datasette, database)
            if any(verdicts[name].denies_sql for name in names):
                denied.append((database, None))
        elif database in verdicts:
            denied += [(database, table) for table in verdicts[database].hidden.values()]
    reason = "shows what was made from a source that may not be seen"
    return compat.permission_sql(action, denied, allow=False, reason=reason)


async def _default_verdict(
    datasette: Datasette, actor: Actor, action: str, resource: Any
) -> bool | None:
    if action == USE_MODEL:
        return budgets.is_open(datasette, str(resource), actor)
    if budgets.is_root(actor):
        return True
    return _matches(actor, get_settings(datasette).allow_create)


async def _default_rules(datasette: Datasette, actor: Actor, action: str) -> Any:
    """Return who is allowed what, unless ``permissions:`` of the site says so itself."""
    reason = "plugin config of datasette-embed"
    is_said = compat.has_config_rule(datasette, action)
    if action == CREATE:
        is_open = not is_said and _matches(actor, get_settings(datasette).allow_create)
        everything = [(None, None)] if is_open else []
        return compat.permission_sql(action, everything, allow=True, reason=reason)
    names = _model_ids(datasette)
    if budgets.is_root(actor) and not datasette.root_enabled:
        actor = None  # an id like any other, but not to plugin config
    # What is closed to all is closed to root, whom Datasette lets do everything.
    closed = [name for name in names if not budgets.is_open(datasette, name, {"id": "root"})]
    opened = [name for name in names if not is_said and budgets.is_open(datasette, name, actor)]
    rules = [
        compat.permission_sql(action, [(name, None) for name in chosen], allow=allow, reason=reason)
        for chosen, allow in ((closed, False), (opened, True))
    ]
    return [rule for rule in rules if rule is not None]


def _matches(actor: Actor, allow: Any) -> bool | None:
    if allow is None:
        return None
    from datasette.utils import actor_matches_allow

    return bool(actor_matches_allow(actor, allow))


def _model_ids(datasette: Datasette) -> list[str]:
    return [entry.model.model_id for entry in get_registry(datasette).list_models()]


def _current_actor() -> Actor:
    # Datasette sets it once the hook that keeps the request has returned.
    actor: Actor = getattr(budgets.current_request(), "actor", None)
    return actor
