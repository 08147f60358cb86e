"""The float32 twin of a bfloat16 or float16 graph, for ONNX Runtime on the CPU.

ONNX Runtime has no bfloat16 kernels on the CPU for most operators (Mul, Sigmoid, RMSNormalization: NOT_IMPLEMENTED).
The twin is the same graph with every BFLOAT16 raised to FLOAT. Its weights stay the bfloat16 ones, where they lie, each
behind a Cast that ONNX Runtime folds while it loads. Every bfloat16 number is a float32 number, so no weight changes;
only activations keep more bits. For 105 MiB of weights the whole load peaked at 625 MiB, against 834 MiB with values
widened here and handed over by ``SessionOptions.add_external_initializers`` (ONNX Runtime 1.32).

The parity gate raises quantized float16 graphs too: an activation that float16 rounds may fall on another low-bit
number, and such jumps would hide errors.
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
FLOAT16: Final = 10
"""``onnx.TensorProto.FLOAT16``."""
FLOAT: Final = 1
"""``onnx.TensorProto.FLOAT``."""

NAMES: Final = {BFLOAT16: "bfloat16", FLOAT16: "float16"}
"""Types that can be raised, as parts of names of stored weights."""


def has_bfloat16(model: onnx.ModelProto) -> bool:
    """Return whether an input, output or initializer of the graph is BFLOAT16."""
    graph = model.graph
    values = (*graph.input, *graph.output)
    return any(tensor.data_type == BFLOAT16 for tensor in graph.initializer) or any(
        value.type.tensor_type.elem_type == BFLOAT16 for value in values
    )


def raise_to_float32(model: onnx.ModelProto, narrow: int = BFLOAT16) -> None:
    """Turn ``model`` into its float32 twin, in place; the tensors keep their names.

    Args:
        model: the graph.
        narrow: the type that is raised: ``BFLOAT16`` or ``FLOAT16``.
    """
    _raise_graph(model.graph, narrow)
    for function in model.functions:
        for value in function.value_info:
            _raise_value(value, narrow)
        for node in function.node:
            _raise_node(node, narrow)


def _raise_graph(graph: onnx.GraphProto, narrow: int) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        _raise_value(value, narrow)
    for node in graph.node:
        _raise_node(node, narrow)
    _cast_initializers(graph, narrow)


def _cast_initializers(graph: onnx.GraphProto, narrow: int) -> None:
    """Rename each narrow initializer and let a Cast write its old name; of a table only the rows that are read."""
    from onnx import helper

    narrowed = {}
    for tensor in graph.initializer:
        if tensor.data_type == narrow:
            stored, tensor.name = tensor.name, f"{tensor.name}/{NAMES[narrow]}"
            narrowed[stored] = tensor.name
    nodes, whole = [], set()
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in narrowed:
            result, node.output[0] = node.output[0], f"{node.output[0]}/{NAMES[narrow]}"
            node.input[0] = narrowed[node.input[0]]
            nodes += [node, helper.make_node("Cast", [node.output[0]], [result], name=f"{result}/raise", to=FLOAT)]
        else:
            whole.update(node.input)
            nodes.append(node)
    casts = [
        helper.make_node("Cast", [name], [stored], name=f"{stored}/raise", to=FLOAT)
        for stored, name in narrowed.items()
        if stored in whole or _is_read_inside(stored, graph)
    ]
    kept = [*casts, *nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _is_read_inside(name: str, graph: onnx.GraphProto) -> bool:
    """Say whether a branch or body of a node reads a tensor of the graph around it, or the graph returns it."""
    inner = [
        part
        for node in graph.node
        for attribute in node.attribute
        for part in ([attribute.g] if attribute.HasField("g") else list(attribute.graphs))
    ]
    if any(output.name == name for output in graph.output):
        return True
    return any(name in node.input for part in inner for node in part.node) or any(
        _is_read_inside(name, part) for part in inner
    )


def _raise_value(value: onnx.ValueInfoProto, narrow: int) -> None:
    if value.type.tensor_type.elem_type == narrow:
        value.type.tensor_type.elem_type = FLOAT


def _raise_node(node: onnx.NodeProto, narrow: int) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _raise_constant(attribute.t, narrow)
        elif attribute.HasField("g"):
            _raise_graph(attribute.g, narrow)
        elif attribute.name in ELEMENT_TYPE_ATTRIBUTES and attribute.i == narrow:
            attribute.i = FLOAT
        for graph in attribute.graphs:
            _raise_graph(graph, narrow)


def _raise_constant(tensor: onnx.TensorProto, narrow: int) -> None:
    """Widen a value that is stored in a node; those are small and never external."""
    if tensor.data_type != narrow:
        return
    # both types lie in raw_data or, as bit patterns, in int32_data (onnx.proto, TensorProto)
    bits = np.frombuffer(tensor.raw_data, "<u2") if tensor.raw_data else np.array(tensor.int32_data, np.uint16)
    tensor.ClearField("int32_data")
    tensor.data_type = FLOAT
    if narrow == FLOAT16:
        tensor.raw_data = bits.astype("<u2").view("<f2").astype("<f4").tobytes()
    else:  # a bfloat16 is the upper half of a float32
        tensor.raw_data = (bits.astype("<u4") << 16).tobytes()
