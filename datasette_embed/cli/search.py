"""``search`` and ``similar``: the nearest entries of a collection.

Layer 10: the words around ``search.exact``.
"""

from __future__ import annotations

import click

from ..batches import embed_items
from ..errors import EmbedError, SourceError
from ..models import EmbeddingModel, Kind
from ..records import CollectionRecord
from ..registry import get_registry
from ..search.exact import Hits, nearest
from ..store import Store
from ..vectors import encode
from .arguments import as_json, reading
from .contents import find_contents
from .output import command_text, one_line, print_json, print_table, rows_text, say

_number = click.option(
    "-n", "--number", default=10, show_default=True, type=click.IntRange(min=1), help="How many"
)


@click.command()
@click.argument("db", type=click.Path())
@click.argument("collection")
@click.argument("text")
@_number
@as_json
def search(db: str, collection: str, text: str, number: int, as_json: bool) -> None:
    """Find the entries of COLLECTION nearest in meaning to TEXT."""
    with reading(db) as conn:
        store = Store(conn)
        record = store.get_collection(collection)
        model = get_registry().get(record.model_id)
        if not text.strip():
            raise SourceError("the text to search for", "is empty")
        store.check_current(record, model)
        _check(model, text)
        vector = embed_items(model, [text], Kind.QUERY).vectors[0]
        _print(db, store, record, nearest(store, record, encode(vector), number), as_json)


@click.command()
@click.argument("db", type=click.Path())
@click.argument("collection")
@click.argument("entry_id")
@_number
@as_json
def similar(db: str, collection: str, entry_id: str, number: int, as_json: bool) -> None:
    """Find the entries of COLLECTION nearest to the one with ENTRY_ID; no model is called."""
    with reading(db) as conn:
        store = Store(conn)
        record = store.get_collection(collection)
        blob = store.get_embedding(record, entry_id)
        try:
            hits = nearest(store, record, blob, number, without=entry_id)
        except EmbedError as error:
            raise SourceError(
                f"entry '{entry_id}'", f"its stored vector cannot be used: {error}"
            ) from error
        _print(db, store, record, hits, as_json)


def _check(model: EmbeddingModel, text: str) -> None:
    """Say what the model will not read of a text.

    Raises:
        UnreadableTextError: it knows nothing of it.
    """
    read = model.read([text])[0]
    model.check_known(read)
    if model.max_tokens is not None and read.tokens > model.max_tokens:
        say(
            f"Warning: the text is {read.tokens:,} tokens long and {model.model_id} reads "
            f"{model.max_tokens}: only its beginning counts"
        )
    if read.is_unreadable:
        say(
            f"Warning: much of this text is unknown to {model.model_id}, so expect poor results. "
            "For other languages use a multilingual model"
        )


def _print(db: str, store: Store, record: CollectionRecord, hits: Hits, as_json: bool) -> None:
    if not hits.hits:
        say(f"Collection '{record.name}' has no entries to compare with")
    if hits.unusable:
        say(
            f"{rows_text(hits.unusable)} left out: no usable vector. "
            f"Which: {command_text('check', db)}"
        )
    contents = find_contents(db, store, record, [hit.entry_id for hit in hits.hits])
    if as_json:
        print_json(
            [
                {"id": hit.entry_id, "score": hit.score, "content": contents.get(hit.entry_id)}
                for hit in hits.hits
            ]
        )
        return
    if hits.hits:
        print_table(
            ("score", "id", "text"),
            [
                (f"{hit.score:.3f}", hit.entry_id, one_line(contents.get(hit.entry_id, ""), 200))
                for hit in hits.hits
            ],
        )
