"""Batch sizes: how many items go into one call of a model.

Layer 1: imports nothing of ours. A call may be limited in items and in tokens; who calls a
model knows both limits and the lengths. The lengths themselves are the model's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def cut_by_tokens(
    lengths: Iterable[int], most_items: int, most_tokens: int | None
) -> Iterator[range]:
    """Yield the positions of each batch in turn, as many in each as both limits let in.

    An item that is longer than a whole batch may be is a batch by itself.

    Args:
        lengths: of each item, in tokens; taken one at a time.
        most_items: most items of a batch, 1 or more.
        most_tokens: most tokens of a batch; None for no limit.
    """
    start = end = tokens = 0
    for length in lengths:
        is_full = end - start >= most_items
        is_long = most_tokens is not None and tokens + length > most_tokens
        if end > start and (is_full or is_long):
            yield range(start, end)
            start, tokens = end, 0
        end += 1
        tokens += length
    if end > start:
        yield range(start, end)
