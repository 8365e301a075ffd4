"""``cluster``: groups of entries, and titles for them.

Layer 11: the words around ``explore.clusters``, with the options and the output of
llm-cluster 0.2. A chat model of LLM's is asked for titles only when that is wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from ..amounts import rows_text
from ..errors import MissingDependencyError, ProviderError, SourceError
from ..explore.clusters import cluster as find_clusters
from ..store import Store
from .arguments import database_and, not_empty, reading
from .contents import find_contents
from .output import command_text, say

#: As in llm-cluster 0.2 (llm_cluster.py).
_PROMPT = "Short, concise title for this cluster of related documents."


@click.command()
@database_and("collection", "number")
@click.option(
    "--truncate",
    default=100,
    show_default=True,
    type=click.IntRange(min=0),
    help="Characters shown of each text; 0 for all",
)
@click.option("--summary", is_flag=True, help="Ask a chat model for a title of each cluster")
@click.option(
    "-m",
    "--model",
    "model_id",
    callback=not_empty,
    help="The chat model, one of LLM's (default: LLM's default)",
)
@click.option(
    "--prompt", default=_PROMPT, show_default=True, callback=not_empty, help="What it is asked"
)
def cluster(
    db: str,
    collection: str,
    number: str,
    truncate: int,
    summary: bool,
    model_id: str | None,
    prompt: str,
) -> None:
    """Group the entries of COLLECTION into NUMBER clusters, as JSON.

    The largest cluster comes first. The same vectors give the same clusters.
    """
    count = _number(number)
    summarize = _summarizer(model_id, prompt) if summary else None
    with reading(db) as conn:
        found = find_clusters(conn, db, collection, count)
        store = Store(conn)
        ids = [entry_id for members in found.clusters for entry_id in members]
        contents = find_contents(db, store, store.get_collection(collection), ids)
    if found.left_out:
        say(
            f"{rows_text(found.left_out)} left out: no usable vector. "
            f"Which: {command_text('check', db)}"
        )
    if len(found.clusters) < count:
        say(f"{len(found.clusters):,} of {count:,} clusters could be told apart")
    printed: list[dict[str, Any]] = []
    for position, members in enumerate(found.clusters):
        items = [
            {"id": entry_id, "content": _cut(contents.get(entry_id), truncate)}
            for entry_id in members
        ]
        printed.append({"id": str(position), "items": items})
        if summarize is not None:
            printed[-1]["summary"] = summarize([item["content"] for item in items])
    click.echo(json.dumps(printed, indent=4))


def _number(text: str) -> int:
    """Return the number of clusters.

    Raises:
        click.UsageError: it is none.
    """
    with suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise click.UsageError(f"NUMBER is how many clusters to make, at least 1, not '{text}'")


def _cut(content: str | None, length: int) -> str | None:
    return content[:length] if content and length else content


def _summarizer(model_id: str | None, prompt: str) -> Callable[[list[str | None]], str | None]:
    """Return what asks a chat model for the title of some texts; None without any.

    Raises:
        MissingDependencyError: LLM is not installed.
        SourceError: it has no such model.
    """
    try:
        import llm
    except ImportError as error:
        raise MissingDependencyError("llm", "") from error
    try:
        model: Any = llm.get_model(model_id)
    except llm.UnknownModelError as error:
        raise SourceError(
            model_id or "LLM's default model",
            "LLM has no such chat model. Which it has: llm models",
        ) from error

    def summarize(contents: list[str | None]) -> str | None:
        texts = [text for text in contents if text]
        if not texts:
            return None
        try:
            title: str = model.prompt("\n".join(texts), system=prompt).text()
        except Exception as error:  # whatever a plugin of LLM's raises
            raise ProviderError.from_exception(str(model.model_id), error) from error
        return title.strip()

    return summarize
