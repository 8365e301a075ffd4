"""New state: a draft with everything that its form shows, and what it would take.

Layer 11: imports ``compat`` and ``errors``. Made for the page and for its JSON twin alike, from
what ``wishes`` lets the actor ask for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ... import compat
from ...errors import EmbedError, HiddenCollectionError, ModelNotAllowedError, UnknownModelError
from ...sources import SourceSpec
from ..fields import FieldError
from ..http import RequestError, describe_error
from ..wishes import Wish, columns_of, filtered, require_rows, wish_of
from .estimates import UNASKED, Estimate, estimated, glimpsed
from .new_choices import Models, free_name, list_models, list_targets, made_of, why_no_key
from .new_form import Draft
from .preview import Preview, look

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database


@dataclass(frozen=True)
class State:
    """What the form shows.

    Attributes:
        draft: with the choices that were left to us.
        targets: the databases that may take the vectors.
        relatives: name and address of the collections of the same table.
        errors: field -> what is wrong with it; ``""`` for what is no field's fault.
        wish: what would be made; None while something is wrong.
        is_table: whether the rows are those of a table, not of a view or a query.
        status: that of the answer, if something is wrong.
        is_start: whether somebody has pressed the button that starts.
    """

    draft: Draft
    targets: list[str]
    models: Models
    preview: Preview
    relatives: list[dict[str, str]]
    errors: dict[str, str] = field(default_factory=dict)
    wish: Wish | None = None
    estimate: Estimate = UNASKED
    is_table: bool = False
    status: int = 200
    is_start: bool = False

    def wrong(self, name: str, reason: str, status: int = 400) -> State:
        """Return it with one more error."""
        return replace(self, errors={**self.errors, name: reason}, status=status)


async def resolved(
    request: Request, datasette: Datasette, database: Database, draft: Draft
) -> Draft:
    """Return the draft with the SQL of its saved query, and all its conditions as one.

    Raises:
        FieldError: a filter cannot be carried.
        RequestError: there is no such query.
        Forbidden: the actor may not see it.
    """
    if draft.query:
        sql = await compat.find_query(datasette, request.actor, database.name, draft.query)
        if sql is None:
            raise RequestError(f"There is no query '{draft.query}' that you may view", 404)
        named = replace(draft, collection=draft.collection or draft.query)
        return named.with_sql(sql, {key: request.args[key] for key in request.args})
    if draft.where and draft.filters:
        chosen = SourceSpec(table=draft.table, where=draft.where)
        await require_rows(request, datasette, database, chosen)
        spec = await filtered(database, SourceSpec(table=draft.table, filters=draft.filters))
        return replace(draft, filters="", where=f"{spec.where} and ({draft.where}\n)")
    return draft


async def state_of(
    request: Request, datasette: Datasette, database: Database, draft: Draft
) -> State:
    """Return all that the form of a draft shows, but for what it takes.

    Raises:
        Forbidden: the actor may not see the rows, or may make no collection of them.
        RequestError: there are no such rows, or nowhere to put the vectors.
    """
    targets = await list_targets(request, datasette, database)
    into = draft.into if draft.into in targets else targets[0]
    spec = SourceSpec(
        table=draft.table or None,
        sql=draft.sql or None,
        columns=() if draft.image else draft.columns,
        template=draft.template if draft.template.strip() and not draft.image else None,
        image=draft.image or None,
        where=draft.where or None,
        filters=draft.filters or None,
        id_columns=draft.columns_of_id,
    )
    await require_rows(request, datasette, database, spec)
    models = await list_models(request, datasette)
    name = draft.collection.strip() or draft.table.strip() or "query"
    if not draft.is_typed:
        name = await free_name(request, datasette, into, name)
    relatives = await made_of(request, datasette, into, draft.table) if draft.table else []
    draft = replace(draft, into=into, collection=name, model=draft.model or models.default)
    state = State(draft, targets, models, Preview(), relatives)
    is_table = bool(draft.table) and await database.table_exists(draft.table)
    state = replace(state, is_table=is_table)
    if not draft.has_source:
        return state.wrong("sql", "Write a query: its first column names a row")
    if draft.parameters:
        names = ", ".join(f":{name}" for name in draft.parameters)
        return state.wrong("sql", f"Write the values of its parameters into it: {names}")
    try:
        spec = await filtered(database, spec)
    except FieldError as error:
        return state.wrong(error.field, error.reason)
    return await _previewed(request, datasette, database, state, spec)


async def _previewed(
    request: Request, datasette: Datasette, database: Database, state: State, spec: SourceSpec
) -> State:
    """Return it with the rows and, if nothing is wrong, with the wish."""
    draft = state.draft
    known = await columns_of(database, draft.table) if draft.table else []
    preview = await asyncio.to_thread(
        look, datasette, database.name, spec, known, chooses=not draft.is_typed
    )
    chosen = tuple(column.name for column in preview.columns if column.is_chosen)
    if not draft.is_typed:
        draft = replace(draft, columns=chosen)
    state = replace(state, draft=draft, preview=preview)
    for name, reason in preview.errors:
        state = state.wrong(name, reason)
    is_complete = bool(draft.columns or draft.template.strip() or draft.image)
    if not is_complete and draft.is_typed and not state.errors:
        return state.wrong("columns", "Tick at least one column, or write a template")
    if state.errors or not is_complete:
        return state
    return await _wished(request, datasette, database, state)


async def _wished(
    request: Request, datasette: Datasette, database: Database, state: State
) -> State:
    if not state.models.usable:
        return state.wrong("model", "There is no model that you can use", 200)
    try:
        wish = await wish_of(request, datasette, database, state.draft.fields())
    except HiddenCollectionError:
        return state.wrong("collection", "This name cannot be used, choose another")
    except (UnknownModelError, ModelNotAllowedError) as error:
        return state.wrong("model", *reason_of(request, datasette, error))
    except FieldError as error:
        hint = _image_models(state) if error.field == "model" and state.draft.image else ""
        return state.wrong(error.field, f"{error.reason}{hint}")
    except RequestError as error:
        return state.wrong("", str(error), error.status)
    reason = await asyncio.to_thread(why_no_key, datasette, wish.model)
    if reason:
        return state.wrong("model", reason)
    other = wish.existing.model_id if wish.existing else wish.model.model_id
    if other != wish.model.model_id:
        return state.wrong(
            "collection",
            f"'{wish.name}' is there already, made with the model {other}. Choose another name, "
            "or that model",
            409,
        )
    return replace(state, wish=wish)


def _image_models(state: State) -> str:
    """Return which models read images, for the end of a sentence."""
    found = [choice.id for choice in state.models.usable if choice.reads_images]
    return f" ({', '.join(found)})" if found else ", which is not among the models here"


async def with_estimate(
    datasette: Datasette, state: State, patience: float, *, is_glimpse: bool = False
) -> State:
    """Return it with what it takes, as far as that is known within so many seconds.

    Args:
        is_glimpse: whether the rows are not read any longer than that.
    """
    if state.wish is None:
        return state
    try:
        ask = glimpsed if is_glimpse else estimated
        found = await ask(datasette, state.wish, patience)
    except FieldError as error:
        return replace(state.wrong(error.field, error.reason), wish=None)
    return replace(state, estimate=found)


def reason_of(request: Request, datasette: Datasette, error: EmbedError) -> tuple[str, int]:
    """Return the message of an error as it may be shown, and its status."""
    status, message, _ = describe_error(request, datasette, error)
    return message, status
