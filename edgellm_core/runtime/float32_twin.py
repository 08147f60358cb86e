"""The float32 twin of a bfloat16 graph, for ONNX Runtime on the CPU.

ONNX Runtime has no bfloat16 kernels on the CPU for most operators (Mul, Sigmoid, RMSNormalization: NOT_IMPLEMENTED).
The twin is the same graph with every BFLOAT16 raised to FLOAT. Its weights stay the bfloat16 ones, where they lie, each
behind a Cast that ONNX Runtime folds while it loads. Every bfloat16 number is a float32 number, so no weight changes;
only activations keep more bits. For 105 MiB of weights the whole load peaked at 625 MiB, against 834 MiB with values
widened here and handed over by ``SessionOptions.add_external_initializers`` (ONNX Runtime 1.32).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import onnx

ELEMENT_TYPE_ATTRIBUTES: Final = frozenset({"to", "dtype", "output_dtype", "softmax_precision", "stash_type"})
"""Integer attributes of standard operators whose value is an element type (Cast, RandomNormal, QuantizeLinear, …)."""

BFLOAT16: Final = 16
"""``onnx.TensorProto.BFLOAT16``."""
FLOAT: Final = 1
"""``onnx.TensorProto.FLOAT``."""


def has_bfloat16(model: onnx.ModelProto) -> bool:
    """Return whether an input, output or initializer of the graph is BFLOAT16."""
    graph = model.graph
    values = (*graph.input, *graph.output)
    return any(tensor.data_type == BFLOAT16 for tensor in graph.initializer) or any(
        value.type.tensor_type.elem_type == BFLOAT16 for value in values
    )


def raise_to_float32(model: onnx.ModelProto) -> None:
    """Turn ``model`` into its float32 twin, in place; the tensors keep their names."""
    _raise_graph(model.graph)
    for function in model.functions:
        for value in function.value_info:
            _raise_value(value)
        for node in function.node:
            _raise_node(node)


def _raise_graph(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        _raise_value(value)
    for node in graph.node:
        _raise_node(node)
    _cast_initializers(graph)


def _cast_initializers(graph: onnx.GraphProto) -> None:
    """Rename each bfloat16 initializer and let a Cast write its old name."""
    from onnx import helper

    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == BFLOAT16:
            stored, tensor.name = tensor.name, f"{tensor.name}/bfloat16"
            casts.append(helper.make_node("Cast", [tensor.name], [stored], name=f"{stored}/raise", to=FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _raise_value(value: onnx.ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type == BFLOAT16:
        value.type.tensor_type.elem_type = FLOAT


def _raise_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _raise_constant(attribute.t)
        elif attribute.HasField("g"):
            _raise_graph(attribute.g)
        elif attribute.name in ELEMENT_TYPE_ATTRIBUTES and attribute.i == BFLOAT16:
            attribute.i = FLOAT
        for graph in attribute.graphs:
            _raise_graph(graph)


def _raise_constant(tensor: onnx.TensorProto) -> None:
    """Widen a value that is stored in a node; those are small and never external."""
    if tensor.data_type != BFLOAT16:
        return
    # bfloat16 lies in raw_data or, as bit patterns, in int32_data (onnx.proto, TensorProto)
    bits = np.frombuffer(tensor.raw_data, "<u2") if tensor.raw_data else np.array(tensor.int32_data, np.uint16)
    tensor.ClearField("int32_data")
    tensor.data_type = FLOAT
    # a bfloat16 is the upper half of a float32
    tensor.raw_data = (bits.astype("<u4") << 16).tobytes()
