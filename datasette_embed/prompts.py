"""Prompts: what usual models want before the texts they embed.

Layer 1: imports nothing of ours. Many models were trained with some words before each text,
one for texts to search for and one for texts to be searched, and answer worse without them,
in silence. What a model's own files say comes before this table, and what its registration
says before both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """What a model wants before a text; ``""`` is nothing."""

    query: str = ""
    document: str = ""


#: Pattern of a model's name, without its owner -> its prompts. The first that fits counts.
#: Each row names the model card it is from.
_KNOWN: tuple[tuple[str, Prompts], ...] = (
    # https://huggingface.co/intfloat/multilingual-e5-small ("Each input text should start
    # with query: or passage:")
    (r"(multilingual-)?e5-(small|base|large)(-v2)?$", Prompts("query: ", "passage: ")),
)


def known_prompts(model: str) -> Prompts | None:
    """Return the prompts of a model by its usual name, whoever hosts it; None if not known."""
    name = re.split(r"[/\\:@]", model.rstrip("/\\"))
    for part in reversed(name):
        for pattern, prompts in _KNOWN:
            if re.match(pattern, part, re.IGNORECASE):
                return prompts
    return None
