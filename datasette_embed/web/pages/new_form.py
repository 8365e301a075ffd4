"""New form: what somebody has chosen and typed so far, from an address or from the form itself.

Layer 11: imports nothing but its neighbours. What was typed is kept as it was typed; whether it
can be done is asked in ``wishes``.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from ..fields import Fields
from ..filter_conditions import NOT_CARRIED, is_filter
from ..sql_literals import parameters_of, with_values
from ..wishes import Wish

if TYPE_CHECKING:
    from datasette import Request

_TEXTS = ("table", "sql", "filters", "where", "template", "image", "collection", "model", "into")
#: Those that people type, and end with a space by mistake.
_TYPED = ("sql", "where", "collection", "model")
#: What the form sends beside what is chosen.
_ACTS = ("start", "check", "preview", "checked", "is_unchecked", "anyway")


@dataclass(frozen=True)
class Draft:
    """A collection that somebody is about to make; every field as it stands in the form.

    Attributes:
        query: the name of a saved query, in an address only.
        filters: those of a table page, as its query string.
        image: the column of the images that are embedded, in place of texts.
        id_columns: names with commas between them.
        dropped: parameters of the table page that are not carried over.
        is_typed: whether it comes from the form, so that no choice is left to us.
    """

    table: str = ""
    sql: str = ""
    query: str = ""
    filters: str = ""
    where: str = ""
    columns: tuple[str, ...] = ()
    template: str = ""
    image: str = ""
    id_columns: str = ""
    collection: str = ""
    model: str = ""
    store: bool = False
    into: str = ""
    dropped: tuple[str, ...] = ()
    is_typed: bool = False

    @classmethod
    def of_address(cls, request: Request) -> Draft:
        """Return what the address names: a table with the filters of its page, or a query."""
        pairs = parse_qsl(request.query_string, keep_blank_values=True)
        given = dict(reversed(pairs))  # the first of a name: columns may be called "table"
        if not given.get("table"):
            sql, query = given.get("sql", ""), given.get("query", "")
            draft = cls(query=query, store=True)
            return draft.with_sql(sql, given) if not query else draft
        pairs.remove(("table", given["table"]))
        return cls(
            table=given["table"],
            filters=urlencode([pair for pair in pairs if is_filter(pair[0])]),
            where=_all_of([text for name, text in pairs if name == "_where" and text]),
            dropped=tuple(
                dict.fromkeys(n for n, value in pairs if value and n.startswith(NOT_CARRIED))
            ),
        )

    @classmethod
    def of_form(cls, fields: Fields) -> Draft:
        """Return what the form has sent.

        Raises:
            RequestError: it is none of ours.
        """
        fields.refuse_others(*_TEXTS, "columns", "id_columns", "store", *_ACTS)
        texts: dict[str, Any] = {name: fields.text(name) or "" for name in _TEXTS}
        return cls(
            **texts,
            columns=fields.names("columns"),
            id_columns=fields.text("id_columns") or "",
            store=fields.flag("store"),
            is_typed=True,
        )

    def with_sql(self, sql: str, values: dict[str, str]) -> Draft:
        """Return the draft with a query, whose parameters are replaced by their values.

        One that has no value, or none that can be written down, stays.
        """
        with suppress(ValueError):
            sql = with_values(sql, values)
        return replace(self, sql=sql)

    @property
    def parameters(self) -> list[str]:
        """The parameters of the query that have no value."""
        return parameters_of(self.sql)

    @property
    def has_source(self) -> bool:
        """Whether it says which rows."""
        return bool(self.table or self.sql)

    @property
    def columns_of_id(self) -> tuple[str, ...]:
        """The columns that name a row, where that is not the primary key."""
        return tuple(name.strip() for name in self.id_columns.split(",") if name.strip())

    def fields(self) -> Fields:
        """Return it as the API reads it."""
        values: dict[str, Any] = {name: getattr(self, name) or None for name in _TEXTS}
        # Names of tables and databases may begin and end with a space.
        values |= {name: getattr(self, name).strip() or None for name in _TYPED}
        # A template is kept as it was typed, and says by itself which columns there are.
        is_template = bool(self.template.strip()) and not self.image
        values["template"] = self.template if is_template else None
        # An image is all there is of a row, whatever is ticked.
        has_columns = not (is_template or self.image)
        values["columns"] = list(self.columns) or None if has_columns else None
        values["id_columns"] = list(self.columns_of_id) or None
        return Fields({**values, "store": self.store})


def _all_of(conditions: list[str]) -> str:
    # Each may end in a comment.
    return conditions[0] if len(conditions) == 1 else " and ".join(f"({c}\n)" for c in conditions)


def digest(wish: Wish) -> str:
    """Return what tells whether something else is wished than what was checked."""
    said = (wish.database, wish.name, wish.model.model_id, wish.store, wish.rows_database)
    text = repr((said, sorted(asdict(wish.spec).items())))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
