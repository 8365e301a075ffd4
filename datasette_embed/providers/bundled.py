"""BundledModel: all-MiniLM-L6-v2, inside the package, run by onnxruntime.

Layer 3: imports ``errors``, ``models`` and ``token_runs``. onnxruntime, tokenizers
and numpy are imported when the model is first used. The graph in ``minilm/model.onnx`` is built by
``scripts/build_bundled_model.py``; it takes token ids of texts of one length and returns
normalised vectors. Models from other files do not belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError, ProviderError
from ..models import Batch, EmbeddingModel, Item, Kind, Reading
from .token_runs import (
    beginnings,
    groups,
    new_session,
    new_tokenizer,
    readable,
    run_by_length,
)

FOLDER = Path(__file__).with_name("minilm")
ALIASES = ("minilm", "default")


class BundledModel(EmbeddingModel):
    """The model that is always there: English, 384 dimensions, no key and no download.

    A text has the same vector whatever else is in its batch: only texts of exactly the
    same number of tokens share a run, so nothing is padded, and the graph's quantisation
    looks at one token at a time.
    """

    model_id = "sentence-transformers/all-MiniLM-L6-v2"
    dimensions = 384
    max_tokens = 256
    # Changed with every build of the graph that changes vectors.
    revision = "onnx-1"
    licence = "Apache-2.0"
    is_local = True
    counts_exactly = True

    def __init__(self, folder: Path = FOLDER) -> None:
        """Describe the model without loading it; ``folder`` holds the graph and tokenizer."""
        self._folder = folder
        self._tokenizer: Any = None
        self._session: Any = None
        self._lock = threading.Lock()

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch:
        """Return the texts' vectors, float32 (n, 384) of length 1, and the tokens read.

        Of a text longer than ``max_tokens`` the beginning is read, as the original does.

        Raises:
            ValueError: an item is not text.
            MissingDependencyError: onnxruntime, tokenizers or numpy is not installed.
            ProviderError: the model cannot be loaded, or failed.
        """
        self.check_items(items)
        self._load()
        import numpy as np

        ids = self._ids([str(item) for item in items])
        vectors = np.zeros((len(items), self.dimensions), dtype=np.float32)

        def run(positions: list[int]) -> None:
            batch = np.array([ids[position] for position in positions], dtype=np.int64)
            vectors[positions] = self._translated(
                lambda: self._session.run(None, {"input_ids": batch})[0]
            )

        run_by_length(ids, run)
        return Batch(vectors, sum(map(len, ids)))

    def warm(self) -> None:
        """Load tokenizer and graph and run them once."""
        self.embed_batch(["warm"])

    def count_tokens(self, text: str) -> int:
        """Return the exact length of the whole text in tokens, [CLS] and [SEP] included."""
        return self.read([text])[0].tokens

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Return how long each whole text is and how many of its tokens are [UNK].

        Raises:
            MissingDependencyError: tokenizers is not installed.
            ProviderError: the tokenizer cannot be loaded.
        """
        self._load()
        unknown = self._tokenizer.token_to_id("[UNK]")
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        tokens, unknowns = [special] * len(texts), [0] * len(texts)
        for group in groups(texts):
            encoded = self._tokenize([piece for _, piece in group])
            for (position, _), ids in zip(group, encoded, strict=True):
                tokens[position] += len(ids) - special
                unknowns[position] += ids.count(unknown)
        return [
            Reading(count, unknown_count, special)
            for count, unknown_count in zip(tokens, unknowns, strict=True)
        ]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Return each text's token ids, at most ``max_tokens``, [CLS] and [SEP] included."""
        return beginnings(self._tokenize, texts, self.max_tokens)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of the whole texts."""
        clean = [readable(text) for text in texts]
        encoded = self._translated(lambda: self._tokenizer.encode_batch_fast(clean))
        return [encoding.ids for encoding in encoded]

    def _load(self) -> None:
        """Load tokenizer and session once, whichever thread comes first."""
        if self._session is not None:
            return
        with self._lock:
            if self._session is not None:
                return
            try:
                import numpy  # noqa: F401

                self._tokenizer = self._new_tokenizer()
                # Last, as the other threads take it for the sign that all is loaded.
                self._session = self._new_session()
            except ImportError as error:
                raise MissingDependencyError(error.name or "onnxruntime", "") from error
            except Exception as error:
                raise ProviderError(
                    self.model_id,
                    "its files cannot be loaded. The log says why",
                    detail=f"its files in {self._folder} cannot be loaded: {error}",
                ) from error

    def _new_tokenizer(self) -> Any:
        """Return the upstream tokenizer without its padding to 128 and its truncation."""
        return new_tokenizer(self._folder / "tokenizer.json")

    def _new_session(self) -> Any:
        """Return a session; the script that built the graph has fused what can be fused."""
        return new_session(self._folder / "model.onnx", is_optimised=True)

    def _translated(self, call: Callable[[], Any]) -> Any:
        """Return what the call returns, foreign exceptions as ProviderError."""
        try:
            return call()
        except Exception as error:
            raise ProviderError.from_exception(self.model_id, error) from error


def bundled_model() -> BundledModel:
    """Return the bundled model, not yet loaded."""
    return BundledModel()
