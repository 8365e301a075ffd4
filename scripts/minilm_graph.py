"""The graph of the bundled model: what its layers are, and how they become ONNX nodes.

``build_bundled_model.py`` fills the layers and calls ``Graph.build``. Nothing here looks at
what the numbers are; how they are rounded is decided there. The nodes are those that every
CPU build of onnxruntime has, and the graph is already as fused as it can be, so a session
need not optimise it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, LAYERS, HEADS, MAX_TOKENS = 384, 6, 12, 256
PARTS = ("query", "key", "value")
EPSILON = 1e-12  # layer_norm_eps in upstream's config.json
MICROSOFT = "com.microsoft"
#: GELU never goes below -0.17, so its zero point can be low and its steps finer.
GELU_ZERO, GELU_MINIMUM = 16, 0.17
ZERO = 128

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


def read_norm(weights: Weights, path: str) -> Norm:
    """Return the weight and the bias of a LayerNorm."""
    return weights[f"{path}.weight"], weights[f"{path}.bias"]


def positions(weights: Weights) -> np.ndarray:
    """Return what is added to each token: its position, and the one token type there is."""
    types = weights["embeddings.token_type_embeddings.weight"]
    table = weights["embeddings.position_embeddings.weight"]
    return np.asarray(table[:MAX_TOKENS].astype(float) + types[0], np.float32)


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
        return self.norm("norm", read_norm(weights, "embeddings.LayerNorm"), x)

    def layer(self, name: str, layer: Layer, x: str) -> str:
        """Append one transformer layer and return its output."""
        qkv, out, ffn1, ffn2 = (layer.linears[key] for key in ("qkv", "out", "ffn1", "ffn2"))
        given = self.quantise(self.smooth(f"{name}.qkv", qkv, x), rest=True)
        parts = []
        for number, part in enumerate(PARTS):
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
        inputs = [
            x,
            self.constant(f"{name}.weight", norm[0]),
            self.constant(f"{name}.bias", norm[1]),
        ]
        return self.node("LayerNormalization", *inputs, axis=-1, epsilon=EPSILON)
