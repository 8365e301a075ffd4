"""Tokens of OpenAI's models: counted exactly where tiktoken is, else estimated; texts cut.

Layer 3: imports ``threads``. All of OpenAI's embedding models read the tokens of one
vocabulary, ``cl100k_base``. tiktoken downloads it once and keeps it.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import Any

from ..threads import start_thread

logger = logging.getLogger(__name__)

ENCODING = "cl100k_base"
#: Longest wait for the vocabulary, whose download has no limit of its own.
LOAD_SECONDS = 20.0
#: Bytes of a text that are counted at once: the time of one long word grows with its square.
PIECE = 50_000
#: Bytes of a token where the vocabulary is not there, as ``EmbeddingModel.count_tokens`` has it;
#: and so few that nearly any text fits, where nobody tries again with less.
BYTES_PER_TOKEN, SAFE_BYTES_PER_TOKEN = 4, 2

_lock = threading.Lock()
_loaded: list[Any] = []


def find_encoding() -> Any | None:
    """Return the vocabulary, loaded once a process; None where it cannot be had."""
    with _lock:
        if not _loaded:
            _loaded.append(_load())
        return _loaded[0]


def _load() -> Any | None:
    try:
        import tiktoken
    except ImportError:
        return None
    future: Future[Any] = Future()

    def load() -> None:
        try:
            future.set_result(tiktoken.get_encoding(ENCODING))
        except BaseException as error:
            future.set_exception(error)

    try:
        start_thread(load, name="embed-tokens")
        return future.result(LOAD_SECONDS)
    except Exception as error:  # of requests, of the file system, of tiktoken itself
        logger.warning(
            "tokens of OpenAI's models are estimated: tiktoken cannot load %s (%s)",
            ENCODING,
            type(error).__name__,
        )
        return None


def count(text: str, encoding: Any) -> int:
    """Return the number of tokens; of a very long text the sum over pieces of it."""
    pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
    return sum(len(encoding.encode_ordinary(piece)) for piece in pieces)


def cut_bytes(text: str, most_bytes: int) -> str:
    """Return the beginning of a text of no more bytes, and no half character."""
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")


def cut(text: str, most_tokens: int, encoding: Any) -> str:
    """Return the beginning of a text, which has more than this many tokens: exactly so many."""
    # No token of this vocabulary is longer than 128 bytes.
    tokens = encoding.encode_ordinary(text[: most_tokens * 128])[:most_tokens]
    while True:
        # Half a character at the end is left out; what is left may be other tokens, and more.
        found: str = encoding.decode_bytes(tokens).decode("utf-8", "ignore")
        if len(encoding.encode_ordinary(found)) <= most_tokens:
            return found
        tokens = tokens[:-1]
