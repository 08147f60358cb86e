"""A small random decoder as an ONNX file of the ``onnx`` target, written out by hand and independent of the exporter.

Tests of the runtime, the engine builder and verification use it where a whole export would only slow them down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx

EPSILON: Final = 1e-5
ROPE_THETA: Final = 10000.0
POSITIONS: Final = 4096
"""Rows of the rotary tables, so the longest sequence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderShape:
    """Sizes of the decoder.

    Attributes:
        layers: attention layers.
        hidden: width of the residual stream.
        heads: query heads; ``hidden`` is a multiple of it.
        kv_heads: key and value heads; divides ``heads``.
        vocab: tokens of the vocabulary.
    """

    layers: int = 2
    hidden: int = 32
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 48

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim


def random_weights(shape: DecoderShape, seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return float32 weights, ``[out, in]`` for matrices, that give logits of order one."""
    random = np.random.default_rng(seed)
    table = (shape.vocab, shape.hidden)
    sizes: dict[str, tuple[int, ...]] = {"embed.weight": table, "head.weight": table, "norm.weight": (shape.hidden,)}
    for layer in range(shape.layers):
        sizes[f"layers.{layer}.norm.weight"] = (shape.hidden,)
        sizes[f"layers.{layer}.q.weight"] = (shape.hidden, shape.hidden)
        sizes[f"layers.{layer}.k.weight"] = (shape.kv_width, shape.hidden)
        sizes[f"layers.{layer}.v.weight"] = (shape.kv_width, shape.hidden)
        sizes[f"layers.{layer}.o.weight"] = (shape.hidden, shape.hidden)
    weights = {}
    for name, size in sizes.items():
        noise = random.standard_normal(size, dtype=np.float32)
        weights[name] = 1 + np.float32(0.2) * noise if len(size) == 1 else noise * np.float32(1.5 / size[-1] ** 0.5)
    frequencies = ROPE_THETA ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)
    angles = np.arange(POSITIONS)[:, None] * frequencies
    weights["rope.cos"], weights["rope.sin"] = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return weights


def write_decoder_graph(
    path: Path, shape: DecoderShape | None = None, *, element_type: str = "FLOAT", seed: int = 0
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Write ``path`` and ``<path>.data``.

    Args:
        path: the ONNX file.
        shape: sizes; small ones by default.
        element_type: ONNX's name of the type of weights, states and logits: FLOAT, FLOAT16 or BFLOAT16.
        seed: seed of the weights.

    Returns:
        The weights as float32 *after* rounding to ``element_type``: what the graph really computes with.
    """
    import onnx
    from onnx import helper

    shape = shape or DecoderShape()
    dtype = helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, element_type))
    rounded = {name: value.astype(dtype) for name, value in random_weights(shape, seed).items()}
    model = decoder_model(shape, rounded, getattr(onnx.TensorProto, element_type))
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=256,
        convert_attribute=False,
    )
    return {name: value.astype(np.float32) for name, value in rounded.items()}


def decoder_model(shape: DecoderShape, weights: Mapping[str, Any], element_type: int) -> onnx.ModelProto:
    """Return the decoder as a model with inline weights."""
    import onnx
    from onnx import helper, numpy_helper

    builder = _GraphBuilder()
    _add_mask(builder)
    hidden = builder.add("Gather", ["embed.weight", "input_ids"], "hidden_states.input")
    for layer in range(shape.layers):
        hidden = _add_layer(builder, shape, layer, hidden)
    normed = builder.add("RMSNormalization", [hidden, "norm.weight"], epsilon=EPSILON)
    table = builder.add("Transpose", ["head.weight"], perm=[1, 0])
    builder.add("MatMul", [normed, table], "logits")

    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    inputs = [
        helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, ["batch", "past + seq"]),
        helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, ["batch", "seq"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", element_type, ["batch", "seq", shape.vocab])]
    for layer in range(shape.layers):
        for part in ("key", "value"):
            sizes: list[str | int | None] = ["batch", shape.kv_heads, "past", shape.head_dim]
            inputs.append(helper.make_tensor_value_info(f"past_key_values.{layer}.{part}", element_type, sizes))
            grown: list[str | int | None] = ["batch", shape.kv_heads, "past + seq", shape.head_dim]
            outputs.append(helper.make_tensor_value_info(f"present.{layer}.{part}", element_type, grown))
    graph = helper.make_graph(builder.nodes, "decoder", inputs, outputs, [*builder.constants, *initializers])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


class _GraphBuilder:
    """Nodes and small constants, with names made up where none is given."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Append one node of one output and return that output's name."""
        from onnx import helper

        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"/{output}", **attributes))
        return output

    def constant(self, *values: int, scalar: bool = False) -> str:
        """Return the name of an int64 constant, a vector unless ``scalar``."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        array = np.array(values[0] if scalar else values, np.int64)
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def _add_mask(builder: _GraphBuilder) -> None:
    """Write ``mask`` [batch, 1, seq, past + seq]: causal and valid, or the position itself."""
    seq = builder.add("Squeeze", [builder.add("Shape", ["input_ids"], start=1, end=2)])
    total = builder.add("Squeeze", [builder.add("Shape", ["attention_mask"], start=1, end=2)])
    zero, one = builder.constant(0, scalar=True), builder.constant(1, scalar=True)
    keys = builder.add("Range", [zero, total, one])
    queries = builder.add("Range", [builder.add("Sub", [total, seq]), total, one])
    column = builder.add("Unsqueeze", [queries, builder.constant(1)])
    causal = builder.add("LessOrEqual", [keys, column])
    valid = builder.add("Cast", ["attention_mask"], to=9)
    valid = builder.add("Unsqueeze", [valid, builder.constant(1, 2)])
    itself = builder.add("Equal", [keys, column])
    builder.add("Or", [builder.add("And", [causal, valid]), itself], "mask")


def _add_layer(builder: _GraphBuilder, shape: DecoderShape, layer: int, hidden: str) -> str:
    """Add norm, attention over the grown cache, and the residual; return the new hidden state's name."""
    normed = builder.add("RMSNormalization", [hidden, f"layers.{layer}.norm.weight"], epsilon=EPSILON)

    def project(part: str, source: str) -> str:
        weight = builder.add("Transpose", [f"layers.{layer}.{part}.weight"], perm=[1, 0])
        return builder.add("MatMul", [source, weight])

    def split(part: str, heads: int) -> str:
        sizes = builder.constant(0, 0, heads, shape.head_dim)
        return builder.add("Transpose", [builder.add("Reshape", [project(part, normed), sizes])], perm=[0, 2, 1, 3])

    def rotate(source: str) -> str:
        return builder.add("RotaryEmbedding", [source, "rope.cos", "rope.sin", "position_ids"])

    query = rotate(split("q", shape.heads))
    for part, new in (("key", rotate(split("k", shape.kv_heads))), ("value", split("v", shape.kv_heads))):
        builder.add("Concat", [f"past_key_values.{layer}.{part}", new], f"present.{layer}.{part}", axis=2)
    attended = builder.add("Attention", [query, f"present.{layer}.key", f"present.{layer}.value", "mask"])
    rows = builder.add("Transpose", [attended], perm=[0, 2, 1, 3])
    flat = builder.add("Reshape", [rows, builder.constant(0, 0, shape.hidden)])
    return builder.add("Add", [hidden, project("o", flat)], f"hidden_states.{layer}")
