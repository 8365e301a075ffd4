"""``search``: the entries of a collection nearest to a text.

Layer 11: the words around ``searching.exact``.
"""

from __future__ import annotations

import click

from ..errors import SourceError
from ..models import is_blank
from ..registry import get_registry
from ..searching.exact import Hits, nearest
from ..store import Store
from .arguments import as_json, database_and, reading
from .output import print_json
from .results import describe_hits, embed_query, number_option, prefix_option, print_hits_table


@click.command()
@database_and("collection", "text")
@number_option
@prefix_option
@as_json
def search(db: str, collection: str, text: str, number: int, prefix: str, as_json: bool) -> None:
    """Find the entries of COLLECTION nearest in meaning to TEXT."""
    with reading(db) as conn:
        store = Store(conn)
        record = store.get_collection(collection)
        model = get_registry().get(record.model_id)
        if is_blank(text):
            raise SourceError("the text to search for", "is empty")
        record.check_current(model)
        hits = Hits([])
        if number:
            hits = nearest(store, record, embed_query(model, text), number, prefix=prefix)
        found = describe_hits(
            db, store, record, hits, prefix=prefix if number else "", is_shown=not as_json
        )
    print_json(found) if as_json else print_hits_table(found)
