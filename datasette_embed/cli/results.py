"""What ``search`` and ``similar`` print: the entries found, in each of their formats.

Layer 11: imports what it shows. No vector is compared here.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import click

from .. import model_calls
from ..amounts import rows_text
from ..errors import SourceError
from ..models import EmbeddingModel, Item
from ..records import CollectionRecord
from ..searching.exact import Hits
from ..store import Store
from ..vectors import encode
from .contents import find_contents
from .output import command_text, one_line, print_line, print_table, print_text, say

number_option = click.option(
    "-n", "--number", default=10, show_default=True, type=click.IntRange(min=0), help="How many"
)
prefix_option = click.option(
    "--prefix", default="", help="Only entries whose id begins with exactly this"
)


def embed_query(model: EmbeddingModel, query: Item) -> bytes:
    """Return the vector of what is searched for, as stored; say what the model does not read.

    Raises:
        EmbedError: as ``model_calls.embed_query``.
        SourceError: the model does not take this kind of content.
    """
    refuse_untaken(model, query)
    if isinstance(query, str):
        say_unread(model, query)
    return encode(model_calls.embed_query(model, query))


def refuse_untaken(model: EmbeddingModel, item: Item) -> None:
    """Refuse a content of a type that the model does not take.

    Raises:
        SourceError: saying which it takes.
    """
    try:
        model.check_items([item])
    except ValueError as error:
        raise SourceError(model.model_id, str(error)) from error


def say_unread(model: EmbeddingModel, text: str) -> None:
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


def describe_hits(
    db: str, store: Store, record: CollectionRecord, hits: Hits, *, prefix: str, is_shown: bool
) -> list[dict[str, Any]]:
    """Return ``id``, ``score``, ``content`` and ``metadata`` of each entry, as LLM prints them.

    The content is the stored one, else the text of the entry's row, else None. Metadata
    that is no JSON comes as the text that is stored. What is missing or was left out is
    said on stderr.

    Args:
        prefix: what the ids were restricted to.
        is_shown: whether a person looks at the texts, and wants to know why one is missing
            in a collection that does not say what it was made from.
    """
    if not hits.hits and not store.count(record.id):
        say(f"Collection '{record.name}' has no entries to compare with")
    elif not hits.hits and prefix:
        say(f"No other entry of '{record.name}' has an id that begins with '{prefix}'")
    if hits.unusable:
        say(
            f"{rows_text(hits.unusable)} left out: no usable vector. "
            f"Which: {command_text('check', db)}"
        )
    entry_ids = [hit.entry_id for hit in hits.hits]
    details = store.find_details(record.id, entry_ids)
    contents = {entry_id: content for entry_id, (content, _) in details.items()}
    if record.source is not None or is_shown:
        contents.update(find_contents(db, store, record, entry_ids))
    return [
        {
            "id": hit.entry_id,
            "score": hit.score,
            "content": contents.get(hit.entry_id),
            "metadata": details.get(hit.entry_id, (None, None))[1],
        }
        for hit in hits.hits
    ]


def print_hits_table(found: Sequence[dict[str, Any]]) -> None:
    """Print score, id and the beginning of the text, in columns."""
    if found:
        print_table(
            ("score", "id", "text"),
            [
                (f"{hit['score']:.3f}", hit["id"], one_line(hit["content"] or "", 200))
                for hit in found
            ],
        )


def print_hits_lines(found: Sequence[dict[str, Any]]) -> None:
    """Print one JSON object a line, as LLM does."""
    for hit in found:
        click.echo(json.dumps(hit))


def print_hits_plain(found: Sequence[dict[str, Any]]) -> None:
    """Print ids, scores, contents and metadata for reading, as LLM does."""
    for hit in found:
        print_line(f"{hit['id']} ({hit['score']})")
        click.echo("")
        if hit["content"]:
            print_text(textwrap.indent(hit["content"], "  "))
        if hit["metadata"]:
            print_text(textwrap.indent(json.dumps(hit["metadata"]), "  "))
        click.echo("")
