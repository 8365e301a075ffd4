"""Batch sizes: both limits hold, nothing is lost, and no batch could take one more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasette_embed.batch_sizes import cut_by_tokens


@pytest.mark.parametrize(
    ("lengths", "most_items", "most_tokens", "expected"),
    [
        ([], 2, 10, []),
        ([1, 1, 1], 2, None, [(0, 2), (2, 3)]),
        ([5, 5, 1], 9, 10, [(0, 2), (2, 3)]),
        ([4, 99, 4], 9, 10, [(0, 1), (1, 2), (2, 3)]),
        ([0, 0, 0], 3, 0, [(0, 3)]),
        ([7], 1, 1, [(0, 1)]),
    ],
)
def test_cut_by_tokens_both_limits(lengths, most_items, most_tokens, expected):
    """Items and tokens are both limited; what is too long alone is sent alone."""
    cut = list(cut_by_tokens(lengths, most_items, most_tokens))
    assert cut == [range(*pair) for pair in expected]


@given(
    st.lists(st.integers(0, 30), max_size=40),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 60)),
)
def test_cut_by_tokens_any_lengths_full_batches_in_order(lengths, most_items, most_tokens):
    """Every position comes once and in order, within the limits, and no batch has room left."""
    cut = list(cut_by_tokens(iter(lengths), most_items, most_tokens))
    assert [position for batch in cut for position in batch] == list(range(len(lengths)))
    for batch in cut:
        total = sum(lengths[position] for position in batch)
        assert len(batch) <= most_items
        assert most_tokens is None or total <= most_tokens or len(batch) == 1
        following = lengths[batch.stop : batch.stop + 1]
        assert (
            not following
            or len(batch) == most_items
            or (most_tokens is not None and total + following[0] > most_tokens)
        )
