"""Token counts: how long texts are in the tokens of a model's own tokenizer.

Layer 3: imports ``models``. A prompt that is put before each text takes room in the model too,
and counts as the tokens that every text has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..models import Reading

#: Lengths from here on are what libraries write for "no limit".
NO_LIMIT = 10**9

TokenIds = Callable[[list[str]], list[list[int]]]


def token_ids_of(tokenizer: Any) -> TokenIds | None:
    """Return what gives the ids of whole texts, special tokens included; None if nothing does.

    Args:
        tokenizer: of transformers, or of tokenizers.
    """
    if hasattr(tokenizer, "num_special_tokens_to_add") and callable(tokenizer):
        return lambda texts: tokenizer(texts, truncation=False, padding=False, verbose=False)[
            "input_ids"
        ]
    if hasattr(tokenizer, "encode_batch"):
        return lambda texts: [
            encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)
        ]
    return None


def read_tokens(
    tokenizer: Any, token_ids: TokenIds, texts: Sequence[str], prompt: str
) -> list[Reading]:
    """Return how long each text is after a prompt, and how much of the text itself is unknown."""
    if not texts:
        return []
    unknown_id = getattr(tokenizer, "unk_token_id", None)
    # What every text has. The token for "unknown" may be one of them: CLIP ends texts with it.
    common, *rows = token_ids([prompt, *(prompt + text for text in texts)])
    return [
        Reading(
            len(row),
            0 if unknown_id is None else max(0, row.count(unknown_id) - common.count(unknown_id)),
            min(len(common), len(row)),
        )
        for row in rows
    ]


def as_limit(length: Any) -> int | None:
    """Return the longest text a model reads, None where a library means that there is no limit."""
    return int(length) if length is not None and 0 < length < NO_LIMIT else None
