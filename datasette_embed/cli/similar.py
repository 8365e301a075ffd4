"""``similar``: LLM's command, option for option, and a table for people.

Layer 11: the words around ``searching.exact``.
"""

from __future__ import annotations

import click

from ..errors import InvalidVectorError, SourceError
from ..models import Item, is_blank
from ..records import CollectionRecord
from ..registry import get_registry
from ..searching.exact import Hits, nearest
from ..store import Store
from ..vectors import blob_is_usable
from .arguments import database_and, read_input, reading
from .results import (
    describe_hits,
    embed_query,
    number_option,
    prefix_option,
    print_hits_lines,
    print_hits_plain,
    print_hits_table,
)


@click.command()
@database_and("collection", "[entry_id]")
@click.option(
    "-i", "--input", "input_path", type=click.Path(), help="File to compare with; - for stdin"
)
@click.option("-c", "--content", help="Text to compare with")
@click.option("--binary", is_flag=True, help="Treat the input as binary, not as text")
@number_option
@click.option("-p", "--plain", is_flag=True, help="Print plain text")
@click.option("-t", "--table", "as_table", is_flag=True, help="Print a table")
@prefix_option
def similar(
    db: str,
    collection: str,
    entry_id: str | None,
    input_path: str | None,
    content: str | None,
    binary: bool,
    number: int,
    plain: bool,
    as_table: bool,
    prefix: str,
) -> None:
    """Find the entries of COLLECTION nearest to the one with this ID, or to a content.

    \b
        datasette embed similar articles 1234
        datasette embed similar articles -c "I like cats"

    Prints a JSON object a line. No model is called for an entry that is stored.
    """
    if plain and as_table:
        raise click.UsageError("--plain and --table exclude each other")
    given = [entry_id is not None, bool(content), bool(input_path)]
    if not any(given):
        raise click.ClickException("Must provide content or an ID for the comparison")
    if sum(given) > 1:
        raise click.UsageError("Provide an ID, --content or --input: one of them")
    if binary and not input_path:
        raise click.UsageError("--binary must be used with --input")
    with reading(db) as conn:
        store = Store(conn)
        record = store.get_collection(collection)
        if entry_id is not None:
            hits = _similar_by_id(store, record, entry_id, number, prefix)
        else:
            query = content or read_input(str(input_path), binary)
            hits = _similar(store, record, query, number, prefix)
        found = describe_hits(
            db, store, record, hits, prefix=prefix if number else "", is_shown=as_table
        )
    print_hits = print_hits_table if as_table else print_hits_plain if plain else print_hits_lines
    print_hits(found)


def _similar_by_id(
    store: Store, record: CollectionRecord, entry_id: str, number: int, prefix: str
) -> Hits:
    """Return the entries nearest to a stored one, itself left out.

    Raises:
        EntryNotFoundError: there is none of this id.
        InvalidVectorError: its stored vector cannot be used (the words are ``Collection``'s).
        DimensionMismatchError: it is one of another length than the collection's.
    """
    blob = store.get_embedding(record, entry_id)
    if not blob_is_usable(blob):
        raise InvalidVectorError(f"the stored vector of entry '{entry_id}' cannot be used")
    # At least one, so that a vector that cannot be used is refused whatever is wanted.
    hits = nearest(store, record, blob, max(number, 1), without=entry_id, prefix=prefix)
    return hits if number else Hits([])


def _similar(store: Store, record: CollectionRecord, query: Item, number: int, prefix: str) -> Hits:
    """Return the entries nearest to a content; the model is called.

    Raises:
        SourceError: the content is empty.
        UnknownModelError: the collection's model is not registered.
        OutdatedCollectionError: its vectors are of another version of it.
    """
    if is_blank(query) if isinstance(query, str) else not query:
        raise SourceError("No content provided", "what to compare with is empty")
    model = get_registry().get(record.model_id)
    record.check_current(model)
    if not number:
        return Hits([])
    return nearest(store, record, embed_query(model, query), number, prefix=prefix)
