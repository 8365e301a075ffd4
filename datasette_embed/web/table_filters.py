"""Table filters: ``?_similar=`` and ``?_similar_to=`` on the page of a table.

Layer 11: imports ``access``, ``database``, ``errors``, ``models``, ``records``, ``runner``,
``server``, ``sources`` and ``store``. The rows found reach SQL as a list of keys, so that
facets, counts and pages of one request run the filter again without a search. How a row is
named by the key of its entry is the concern of ``row_keys``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from datasette.filters import FilterArguments
from datasette.views.base import DatasetteError
from markupsafe import escape

from .. import access, server
from ..database import sqlite3
from ..errors import EmbedError, SourceError
from ..models import Kind, is_blank
from ..records import CollectionRecord
from ..runner.rows import told_rows_database
from ..runner.site import Site
from ..sources import SourceSpec
from .http import RequestError, describe_error
from .lookup import find_model, read
from .row_keys import RowKey
from .searching import find_entry, nearest_in

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

    from ..compat import Actor

logger = logging.getLogger(__name__)

#: How many rows are found when nobody says, and at most.
NUMBER, LARGEST_NUMBER = 100, 1_000
#: No name that another filter of Datasette would choose.
PARAMETER = "embed_similar_ids"
#: Longer texts are cut in the sentence that describes the page.
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Asked:
    """What the parameters of a page ask for; exactly one of text and entry_id is given."""

    text: str | None
    entry_id: str | None
    collection: str | None
    number: int


@dataclass(frozen=True)
class Choice:
    """A collection of the table, and the database that holds it."""

    database: str
    record: CollectionRecord
    spec: SourceSpec

    @property
    def full_name(self) -> str:
        """What to call it where several files have collections of one name."""
        return f"{self.database}/{self.record.name}"


def similar_filter(
    datasette: Datasette, request: Request, database: str, table: str
) -> Awaitable[Any] | None:
    """Return the condition that leaves the rows most similar to a text or a row."""
    text, entry_id = request.args.get("_similar"), request.args.get("_similar_to")
    # A form sends the fields that nobody filled in.
    if is_blank(text or "") and not entry_id:
        others = {"_similar_number", "_similar_collection"} & set(request.args)
        if not others or text is not None or entry_id is not None:
            return None
    return _condition_or_page(datasette, request, database, table)


async def _condition_or_page(
    datasette: Datasette, request: Request, database: str, table: str
) -> Any:
    """Return the condition, or raise what Datasette shows as a page with the message."""
    try:
        return await _condition(datasette, request, database, table)
    except EmbedError as error:
        status, message, _ = describe_error(request, datasette, error)
        is_page = not request.url_vars.get("format")
        if is_page:
            url = datasette.urls.table(database, table)
            back = f'<a href="{escape(url)}">All rows of {escape(table)}</a>'
            message = f"{escape(message)}<br>{back}"
        raise DatasetteError(
            message, status=status, title="Rows by meaning", message_is_html=is_page
        ) from error


async def _condition(datasette: Datasette, request: Request, database: str, table: str) -> Any:
    asked = read_arguments(request)
    if asked.text is None and asked.entry_id is None:
        raise RequestError("Say which rows: _similar (a text) or _similar_to (a row's id)")
    choices = await list_choices(datasette, request.actor, database, table, asked.collection)
    chosen = choose(choices, database, table, asked.collection)
    if asked.text is not None:
        model = await find_model(datasette, chosen.record.model_id)
        chosen.record.check_current(model)
        [blob] = await server.embed_for(datasette, request, model, [asked.text], kind=Kind.QUERY)
    else:
        holder = datasette.get_database(chosen.database)
        entry_id, blob = await find_entry(
            holder, chosen.record, str(asked.entry_id), is_of_url=True
        )
        asked = replace(asked, entry_id=entry_id)
    found = await nearest_in(
        datasette, chosen.database, chosen.record, blob, asked.number, without=asked.entry_id
    )
    key = await read(
        datasette.get_database(database),
        partial(RowKey.of, table=table, id_columns=chosen.spec.id_columns),
    )
    values = key.values([hit.entry_id for hit in found.hits])
    return FilterArguments(
        [key.condition(PARAMETER)],
        {PARAMETER: json.dumps(values)},
        [_described(asked, chosen, len(found.hits))],
    )


def _described(asked: Asked, chosen: Choice, number: int) -> str:
    """Return what the page says it shows, behind the word "where"."""
    if asked.text is None:
        what = f"row {asked.entry_id}"
    elif len(asked.text) > _SHOWN_CHARACTERS:
        what = f'"{asked.text[:_SHOWN_CHARACTERS]}…"'
    else:
        what = f'"{asked.text}"'
    return f"one of the {number} most similar to {what} (collection {chosen.record.name})"


def read_arguments(request: Request) -> Asked:
    """Return what a request asks for.

    Raises:
        RequestError: a parameter twice, both kinds of question, a number out of range.
    """
    given: dict[str, str | None] = {}
    for name in ("_similar", "_similar_to", "_similar_collection", "_similar_number"):
        values = request.args.getlist(name)
        if len(values) > 1:
            raise RequestError(f"{name} is given {len(values)} times: give it once")
        given[name] = (values[0] if values else None) or None
    text = given["_similar"]
    if text is not None and is_blank(text):
        text = None
    if text is not None and given["_similar_to"] is not None:
        raise RequestError("Give _similar (a text) or _similar_to (a row's id), not both")
    number = given["_similar_number"] or str(NUMBER)
    is_number = number.isascii() and number.isdecimal() and len(number) < 9
    if not is_number or not 1 <= int(number) <= LARGEST_NUMBER:
        raise RequestError(f"_similar_number must be a whole number from 1 to {LARGEST_NUMBER:,}")
    return Asked(text, given["_similar_to"], given["_similar_collection"], int(number))


async def list_choices(
    datasette: Datasette, actor: Actor, database: str, table: str, named: str | None = None
) -> list[Choice]:
    """Return the collections made from a table that an actor may see, those of its file first.

    Of another file only one that this site was asked to make of this database's rows, or that
    the visitor names with its database: any file can say that it is made of such a table.
    """
    others = [name for name in datasette.databases if name not in (database, "_internal")]
    choices = []
    for holder in (database, *others):
        try:
            records = await access.visible_collections(datasette, actor, holder)
        except (SourceError, sqlite3.Error) as error:
            if holder == database:
                raise
            # What is wrong with another file is no reason to refuse this page.
            logger.warning("the collections of %s cannot be read: %s", holder, error)
            continue
        for record in records:
            spec = _find_spec(record)
            if spec is None or (spec.table or "").lower() != table.lower():
                continue
            choice = Choice(holder, record, spec)
            if spec.is_elsewhere != (holder != database):
                continue
            if (
                holder == database
                or (named or "").lower() == choice.full_name.lower()
                or await _told_rows_database(datasette, choice) == database
            ):
                choices.append(choice)
    return choices


async def _told_rows_database(datasette: Datasette, choice: Choice) -> str | None:
    site = Site(datasette)
    return await read(
        datasette.get_database(choice.database),
        lambda conn: told_rows_database(site, conn, choice.database, choice.record),
    )


def _find_spec(record: CollectionRecord) -> SourceSpec | None:
    """Return the table a collection says it is made from; None where it names none."""
    try:
        spec = SourceSpec.from_json(record.source or {})
    except SourceError:
        return None
    return spec if spec.table else None


def choose(choices: list[Choice], database: str, table: str, name: str | None) -> Choice:
    """Return the collection that is named, or named like the table, or the only one.

    Raises:
        RequestError: there is none, or several that could be meant; it lists them.
    """
    if not choices:
        raise RequestError(
            f"The rows of '{table}' cannot be searched by meaning: no collection that you may "
            "see is made from this table"
        )
    wanted = (name or table).lower()
    named = [c for c in choices if wanted in (c.record.name.lower(), c.full_name.lower())]
    # Names differ in more than case inside one file; an exact one is meant.
    exact = [c for c in named if (name or table) in (c.record.name, c.full_name)]
    named = exact or named
    here = [choice for choice in named if choice.database == database]
    for meant in (here, named, [] if name else choices):
        if len(meant) == 1:
            return meant[0]
    several = len({choice.database for choice in choices}) > 1
    names = ", ".join(sorted(c.full_name if several else c.record.name for c in choices))
    if name and not named:
        raise RequestError(
            f"No collection '{name}' is made from '{table}'. There are: {names}", 404
        )
    raise RequestError(
        f"Several collections are made from '{table}': name one with _similar_collection. "
        f"There are: {names}"
    )
