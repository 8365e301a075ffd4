"""``search`` and ``similar``: the nearest entries of a collection.

Layer 10: the words around ``search.exact``.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from ..batches import embed_items, is_unreadable
from ..database import open_database, translated
from ..errors import EmbedError, SourceError
from ..models import EmbeddingModel, Kind
from ..registry import get_registry
from ..search.exact import Hits, nearest
from ..sources import Source, SourceSpec
from ..store import CollectionRecord, Store
from ..vectors import encode
from .output import one_line, print_json, print_table, rows_text, say

_number = click.option(
    "-n", "--number", default=10, show_default=True, type=click.IntRange(min=1), help="How many"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON")


@click.command()
@click.argument("db", type=click.Path())
@click.argument("collection")
@click.argument("text")
@_number
@_json
def search(db: str, collection: str, text: str, number: int, as_json: bool) -> None:
    """Find the entries of COLLECTION nearest in meaning to TEXT."""
    with closing(open_database(db)) as conn, translated(db):
        store = Store(conn)
        record = store.get_collection(collection)
        model = get_registry().get(record.model_id)
        if not text.strip():
            raise SourceError("the text to search for", "is empty")
        _warn_of(model, text)
        vector = embed_items(model, [text], Kind.QUERY).vectors[0]
        _print(db, store, record, nearest(store, record, encode(vector), number), as_json)


@click.command()
@click.argument("db", type=click.Path())
@click.argument("collection")
@click.argument("entry_id")
@_number
@_json
def similar(db: str, collection: str, entry_id: str, number: int, as_json: bool) -> None:
    """Find the entries of COLLECTION nearest to the one with ENTRY_ID; no model is called."""
    with closing(open_database(db)) as conn, translated(db):
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


def _warn_of(model: EmbeddingModel, text: str) -> None:
    reading = model.read([text])[0]
    if model.max_tokens is not None and reading.tokens > model.max_tokens:
        say(
            f"Warning: the text is {reading.tokens:,} tokens long and {model.model_id} reads "
            f"{model.max_tokens}: only its beginning counts"
        )
    if is_unreadable(reading):
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
            f"Which: datasette embed check {db}"
        )
    contents = _contents(db, store, record, [hit.entry_id for hit in hits.hits])
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


def _contents(
    db: str, store: Store, record: CollectionRecord, entry_ids: list[str]
) -> dict[str, str]:
    """Return the text of these entries: as stored, else from the table's rows."""
    contents = store.find_contents(record.id, entry_ids)
    try:
        spec = SourceSpec.from_json(record.source) if record.source else None
        if spec is None or spec.is_elsewhere or not spec.table or not Path(db).exists():
            return contents
        with closing(open_database(db)) as conn:
            source = Source(conn, spec, db)
            for entry_id in entry_ids:
                if entry_id not in contents and (text := source.find_content(entry_id)):
                    contents[entry_id] = text
    except SourceError as error:
        say(f"The text of the rows cannot be shown: {error}")
    return contents
