"""TextReader: the tokens that an ONNX model makes of a text.

Layer 3: imports ``models`` and, of this folder, ``onnx_files`` and ``token_runs``. tokenizers
is imported when a reader is made. Nothing is computed from tokens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..models import Reading
from .onnx_files import OnnxFiles, OnnxFilesError
from .token_runs import beginnings, groups, new_tokenizer, readable

#: Where a long text is cut so many tokens before the cut may be others than in the whole.
MARGIN = 32


class TextReader:
    """A model's own tokenizer, with its longest text. It keeps no state of a call."""

    def __init__(self, files: OnnxFiles, max_tokens: int | None) -> None:
        """Load the tokenizer.

        Raises:
            OnnxFilesError: its file is damaged.
        """
        try:
            self._tokenizer = new_tokenizer(files.tokenizer)
            if files.lower_case:
                _write_small(self._tokenizer)
            mask = self._tokenizer.encode("a").special_tokens_mask
        except Exception as error:  # tokenizers raises nothing but Exception
            raise OnnxFilesError(files.tokenizer.name, "is damaged", detail=str(error)) from error
        self._max_tokens = max_tokens
        self._special = sum(mask)
        self._last = (mask[::-1] + [0]).index(0)
        self._unknown = _unknown_token(self._tokenizer)
        one, two, both = map(len, self._tokenize(["a", " b", "a b"]))
        #: Whether the tokens of a text's parts, cut at a space, are those of the whole.
        self._is_cut_by_spaces = one + two - self._special == both
        self._of_prompt = lru_cache(maxsize=8)(self._read_prompt)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's token ids, at most ``max_tokens``, special ones included."""
        return beginnings(self._tokenize, texts, self._max_tokens, last=self._last, margin=MARGIN)

    def prompt_length(self, prompt: str) -> int:
        """Return how many tokens of a text are its prompt, what begins every text included.

        As sentence-transformers 6.2 counts them (``Transformer._get_prompt_length``).
        """
        return len(self._tokenize([prompt])[0]) - self._last if prompt else 0

    def read(self, texts: Sequence[str], prompt: str) -> list[Reading]:
        """Return how long each whole text is, with its prompt, and how much is unknown."""
        special, unknown_of_prompt = self._of_prompt(prompt)
        tokens, unknowns = [self._special] * len(texts), [-unknown_of_prompt] * len(texts)
        whole = [f"{prompt}{text}" for text in texts]
        for group in groups(whole, in_pieces=self._is_cut_by_spaces):
            encoded = self._tokenize([piece for _, piece in group])
            for (position, _), ids in zip(group, encoded, strict=True):
                tokens[position] += len(ids) - self._special
                unknowns[position] += ids.count(self._unknown)
        return [
            Reading(count, max(0, unknown), special)
            for count, unknown in zip(tokens, unknowns, strict=True)
        ]

    def _read_prompt(self, prompt: str) -> tuple[int, int]:
        """Return how many tokens are in every text, and how many of them are unknown.

        Before a word, since the last space of a prompt is often one with the word.
        """
        alone, after = self._tokenize(["a", f"{prompt}a"])
        unknown = after.count(self._unknown) - alone.count(self._unknown)
        return len(after) - len(alone) + self._special, unknown

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        clean = [readable(text) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(clean)]


def _write_small(tokenizer: Any) -> None:
    """Let the tokenizer write texts small first, whatever it does after."""
    from tokenizers import normalizers

    own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def _unknown_token(tokenizer: Any) -> int:
    """Return the id of what stands for what the model does not know; -1 where there is none."""
    named = getattr(tokenizer.model, "unk_token", None)
    for token in (named, "<unk>", "[UNK]"):
        found = tokenizer.token_to_id(token) if token else None
        if found is not None:
            return int(found)
    return -1
