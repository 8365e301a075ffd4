"""Calls of a model: with its errors translated, its texts read, its search texts checked.

Layer 3: imports ``errors`` and ``models``. What stands between a model and everything that
embeds, and is the same for every model; what differs is the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import EmbedError, ProviderError, SourceError
from .models import Batch, EmbeddingModel, Item, Kind, Reading, caller_retries, is_blank

if TYPE_CHECKING:
    import numpy as np

#: What a model is tried with.
SHORT_TEXT = "a short text"


def read_items(model: EmbeddingModel, items: Sequence[Item]) -> list[Reading]:
    """Return how long each item is, and how much of it the model does not know.

    Of bytes nothing is known, and nothing is held against them.
    """
    readings = iter(model.read([item for item in items if isinstance(item, str)]))
    return [next(readings) if isinstance(item, str) else Reading(0) for item in items]


def embed_items(
    model: EmbeddingModel,
    items: Sequence[Item],
    kind: Kind,
    *,
    key: str | None = None,
    retries: bool = False,
) -> Batch:
    """Call a model; whatever it raises is raised as an error of ours.

    Args:
        retries: the caller itself tries again what may succeed later.

    Raises:
        ProviderError: the model failed; what it raised is the cause.
        EmbedError: as ``EmbeddingModel.embed_checked``.
    """
    token = caller_retries.set(retries)
    try:
        return model.embed_checked(list(items), kind=kind, key=key)
    except EmbedError:
        raise
    except Exception as error:  # a plugin's model may raise anything
        raise ProviderError.from_exception(model.model_id, error) from error
    finally:
        caller_retries.reset(token)


def embed_query(model: EmbeddingModel, item: Item, *, key: str | None = None) -> np.ndarray:
    """Return the vector to search for: float32, shape ``(dimensions,)``.

    Raises:
        ValueError: the model does not take items of this type.
        SourceError: there is nothing to search for.
        UnreadableTextError: the model knows no word of the text.
        EmbedError: as ``embed_items``.
    """
    model.check_items([item])
    if is_blank(item) if isinstance(item, str) else not item:
        raise SourceError("the text to search for", "is empty")
    for reading in read_items(model, [item]):
        model.check_known(reading)
    vector: np.ndarray = embed_items(model, [item], Kind.QUERY, key=key).vectors[0]
    return vector
