"""BundledModel: all-MiniLM-L6-v2, inside the package, run by onnxruntime.

Layer 3: imports ``errors`` and ``models``. onnxruntime, tokenizers and numpy are imported
when the model is first used. The graph in ``minilm/model.onnx`` is built by
``scripts/build_bundled_model.py``; it takes token ids of texts of one length and returns
normalised vectors. Models from other files do not belong here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError, ProviderError
from ..models import Batch, EmbeddingModel, Item, Kind, Reading

FOLDER = Path(__file__).with_name("minilm")
ALIASES = ("minilm", "default")
#: Texts of one length go through the graph together up to this many tokens. More does not
#: help: the matrices of one layer would no longer stay in a core's cache.
TOKENS_PER_RUN = 512
#: Below this many tokens in all, starting threads costs more than it saves.
TOKENS_WORTH_THREADS = 128
MAX_THREADS = 8
#: A text is first read up to about here, which is nearly always more than enough tokens.
HEAD_CHARACTERS = 2048
#: Texts are counted in pieces and groups of about this many characters: the tokenizer
#: takes some 50 bytes of memory for each.
PIECE_CHARACTERS = 100_000
GROUP_CHARACTERS = 1_000_000


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
        tokens = sum(map(len, ids))

        def run(positions: list[int]) -> None:
            batch = np.array([ids[position] for position in positions], dtype=np.int64)
            vectors[positions] = self._translated(
                lambda: self._session.run(None, {"input_ids": batch})[0]
            )

        runs = list(_runs(ids))
        threads = min(_cores(), MAX_THREADS, len(runs))
        if threads < 2 or tokens < TOKENS_WORTH_THREADS:
            for positions in runs:
                run(positions)
        else:
            # One session serves all threads and gives each run the one it is called on.
            with ThreadPoolExecutor(threads, "datasette-embed-bundled") as executor:
                list(executor.map(run, runs))
        return Batch(vectors, tokens)

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
        for group in _groups(texts):
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
        limit = self.max_tokens
        ids = self._tokenize([_head(text) for text in texts])
        # A head of few tokens (long runs of spaces) is not the whole story.
        short = [
            position
            for position, text in enumerate(texts)
            if len(text) > HEAD_CHARACTERS and len(ids[position]) < limit
        ]
        for position, whole in zip(short, self._tokenize([texts[p] for p in short]), strict=True):
            ids[position] = whole
        return [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in ids]

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of the whole texts."""
        # Lone surrogates, which SQLite can hand out, are no text for the tokenizer.
        readable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        encoded = self._translated(lambda: self._tokenizer.encode_batch_fast(readable))
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
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _new_session(self) -> Any:
        """Return a session that computes on the thread it is called on."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The script that built the graph has already fused what can be fused.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(
            str(self._folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def _translated(self, call: Callable[[], Any]) -> Any:
        """Return what the call returns, foreign exceptions as ProviderError."""
        try:
            return call()
        except Exception as error:
            raise ProviderError.from_exception(self.model_id, error) from error


def bundled_model() -> BundledModel:
    """Return the bundled model, not yet loaded."""
    return BundledModel()


def _head(text: str) -> str:
    """Return the beginning of a long text, cut at a space so that no word is broken."""
    if len(text) <= HEAD_CHARACTERS:
        return text
    space = text.rfind(" ", 0, HEAD_CHARACTERS)
    return text[:space] if space > 0 else text


def _runs(ids: list[list[int]]) -> Iterator[list[int]]:
    """Yield positions of texts of one length, longest first so that threads end together."""
    by_length: dict[int, list[int]] = {}
    for position, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(position)
    for length in sorted(by_length, reverse=True):
        positions = by_length[length]
        size = max(1, TOKENS_PER_RUN // length)
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of (position of the text, piece of it), in order.

    Texts are cut at white space, where the tokenizer cuts too, so the pieces' tokens add
    up to the text's.
    """
    group: list[tuple[int, str]] = []
    characters = 0
    for position, text in enumerate(texts):
        for piece in _pieces(text):
            if group and characters + len(piece) > GROUP_CHARACTERS:
                yield group
                group, characters = [], 0
            group.append((position, piece))
            characters += len(piece)
    if group:
        yield group


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        space = text.rfind(" ", start + 1, start + PIECE_CHARACTERS)
        end = space if space > 0 else start + PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]
