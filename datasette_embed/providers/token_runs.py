"""Token runs: texts become token ids, and ids of one length go through a graph together.

Layer 3: imports nothing of ours. What the bundled model and every other ONNX model do alike:
a text has the same vector whatever else is in its batch, because only texts of exactly the
same number of tokens share a run, so nothing is padded. What the graph is given besides
token ids, and what becomes of its output, is said by the providers.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Texts of one length go through the graph together up to this many tokens. More does not
#: help: the matrices of one layer would no longer stay in a core's cache.
TOKENS_PER_RUN = 512
#: Below this many tokens in all, starting threads costs more than it saves.
TOKENS_WORTH_THREADS = 128
MAX_THREADS = 8
#: Attention takes memory by the square of the length: texts longer than this go one by one.
TOKENS_WORTH_THEIR_OWN_MEMORY = 2048
#: A text is first read up to about here for each token of the model's limit, which is nearly
#: always more than enough tokens.
HEAD_CHARACTERS_PER_TOKEN = 8
#: What onnxruntime would make of a sum and a LayerNormalization is six times slower on CPUs:
#: a whole transformer takes twice as long with it.
_SLOW_FUSIONS = ("SkipLayerNormFusion",)
#: Texts are counted in pieces and groups of about this many characters: the tokenizer
#: takes some 50 bytes of memory for each.
PIECE_CHARACTERS = 100_000
GROUP_CHARACTERS = 1_000_000


def import_onnxruntime() -> Any:
    """Return onnxruntime, which then reports nothing to its makers.

    1.32 looks up a server of theirs and keeps events in the user's folder, unless the variable
    is set before it is imported; whoever wants that sets it to 0.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def new_session(graph: Path, *, is_optimised: bool) -> Any:
    """Return an onnxruntime session that computes on the thread it is called on.

    Args:
        graph: path of the graph.
        is_optimised: what can be fused in it has been fused already.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if is_optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
    )


def new_tokenizer(file: Path) -> Any:
    """Return the tokenizer of a ``tokenizer.json`` without its own padding and truncation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def readable(text: str) -> str:
    """Return the text without lone surrogates, which SQLite hands out and tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def beginnings(
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    texts: Sequence[str],
    limit: int | None,
    *,
    last: int = 1,
    margin: int = 0,
) -> list[list[int]]:
    """Return each text's token ids, at most ``limit``, the special ones included.

    Args:
        tokenize: returns the ids of whole texts, special tokens included.
        texts: they may be much longer than what is read of them.
        limit: most ids of a text; None for all.
        last: how many special tokens end every text, which are kept.
        margin: how many ids before the cut of a head may differ from the whole text's.
    """
    if limit is None:
        return tokenize(texts)
    characters = limit * HEAD_CHARACTERS_PER_TOKEN
    ids = tokenize([_head(text, characters) for text in texts])
    # A head of few tokens (long runs of spaces) is not the whole story.
    short = [
        position
        for position, text in enumerate(texts)
        if len(text) > characters and len(ids[position]) < limit + margin
    ]
    for position, whole in zip(short, tokenize([texts[p] for p in short]), strict=True):
        ids[position] = whole
    return [
        row if len(row) <= limit else [*row[: limit - last], *row[len(row) - last :]] for row in ids
    ]


def run_by_length(
    ids: Sequence[Sequence[int]],
    run: Callable[[list[int]], None],
    *,
    tokens_per_run: int | None = None,
) -> None:
    """Call ``run`` with positions of texts of one length, until all have been in one call.

    Long batches are run on several threads at once. A text without a token is left out.

    Args:
        ids: token ids of each text.
        run: does the work; it is called on any thread.
        tokens_per_run: most tokens of one call; None for ``TOKENS_PER_RUN``.
    """
    calls = list(_runs(ids, TOKENS_PER_RUN if tokens_per_run is None else tokens_per_run))
    threads = min(_cores(), MAX_THREADS, len(calls))
    while calls and len(ids[calls[0][0]]) > TOKENS_WORTH_THEIR_OWN_MEMORY:
        run(calls.pop(0))  # the longest come first
    if threads < 2 or sum(map(len, ids)) < TOKENS_WORTH_THREADS:
        for positions in calls:
            run(positions)
        return
    # One session serves all threads and gives each run the one it is called on.
    with ThreadPoolExecutor(threads, "datasette-embed-tokens") as executor:
        list(executor.map(run, calls))


def groups(texts: Sequence[str], *, in_pieces: bool = True) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of (position of the text, piece of it), in order, that fit into memory.

    Texts are cut at white space. Where the tokenizer cuts there too, the pieces' tokens add
    up to the text's.
    """
    group: list[tuple[int, str]] = []
    characters = 0
    for position, text in enumerate(texts):
        for piece in _pieces(text) if in_pieces else (text,):
            if group and characters + len(piece) > GROUP_CHARACTERS:
                yield group
                group, characters = [], 0
            group.append((position, piece))
            characters += len(piece)
    if group:
        yield group


def _head(text: str, characters: int) -> str:
    """Return the beginning of a long text, cut at a space so that no word is broken."""
    if len(text) <= characters:
        return text
    space = text.rfind(" ", 0, characters)
    return text[:space] if space > 0 else text


def _runs(ids: Sequence[Sequence[int]], tokens_per_run: int) -> Iterator[list[int]]:
    """Yield positions of texts of one length, longest first so that threads end together."""
    by_length: dict[int, list[int]] = {}
    for position, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(position)
    by_length.pop(0, None)
    for length in sorted(by_length, reverse=True):
        positions = by_length[length]
        size = max(1, tokens_per_run // length)
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        space = text.rfind(" ", start + 1, start + PIECE_CHARACTERS)
        end = space if space > 0 else start + PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]
