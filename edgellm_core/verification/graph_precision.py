"""Which delicate operators a graph computes in float16 or bfloat16, read from its types; no weights are read.

``Attention`` is not among them: by the standard its softmax has the type of the queries unless ``softmax_precision``
says otherwise, but TensorRT refuses that attribute (its fused kernels keep scores and softmax in float32), and ONNX
Runtime's CPU kernel computes the same with and without it. A narrow ``softmax_precision`` is counted; scores that must
not be rounded are what ``--attention-scores fp32`` is for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set

    from edgellm_core.verification.original_precision import Kind

NARROW: Final = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
FLOATS: Final = (*NARROW, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)

STASHING: Final = frozenset(
    {"RMSNormalization", "LayerNormalization", "GroupNormalization", "SimplifiedLayerNormalization"}
)
"""Norms that compute in the type of ``stash_type``, by default float32 (ONNX operators, opset 17 and 23)."""

KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("ReduceMean", "ReduceL2", "ReduceSumSquare", "Sqrt", "LpNormalization"), "norm"),
    "InstanceNormalization": "norm", "MeanVarianceNormalization": "norm",
    "Cos": "angle", "Sin": "angle",
    **dict.fromkeys(("Exp", "Log", "Softplus", "Softmax", "LogSoftmax", "ReduceLogSumExp"), "exponential"),
    **dict.fromkeys(("Sigmoid", "Tanh", "Erf", "Gelu", "Swish", "HardSwish", "HardSigmoid", "Mish"), "gate"),
    "CumSum": "sum",
}  # fmt: skip
"""Operator of ONNX → kind."""

LAYER: Final = re.compile(r"^layers\.(\d+)/")


@dataclass(frozen=True, kw_only=True, slots=True)
class NarrowNode:
    """A node that computes in a narrow type.

    Attributes:
        layer: decoder layer; None outside of all.
        kind: what it computes.
        node: its name.
        operator: its operator.
        element_type: the type, for example ``float16``.
    """

    layer: int | None
    kind: Kind
    node: str
    operator: str
    element_type: str


def narrow_nodes(model: onnx.ModelProto) -> list[NarrowNode]:
    """Return the nodes of a graph that compute something delicate in a narrow type, in order.

    Args:
        model: the graph; its external data is not read.
    """
    types = _types(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    squares = _powers_of_two(model)
    found = []
    for node in model.graph.node:
        for kind, element_type in _narrow(node, types, makers, squares):
            layer = LAYER.match(node.name)
            found.append(
                NarrowNode(
                    layer=int(layer[1]) if layer else None,
                    kind=kind,
                    node=node.name,
                    operator=node.op_type,
                    element_type=onnx.TensorProto.DataType.Name(element_type).lower(),
                )
            )
    return found


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _powers_of_two(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes ``Pow(x, 2)``."""
    exponents = {node.input[1] for node in model.graph.node if node.op_type == "Pow"}
    twos = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name in exponents and not tensor.external_data and (onnx.numpy_helper.to_array(tensor) == 2).all()
    }
    return {node.name for node in model.graph.node if node.op_type == "Pow" and node.input[1] in twos}


def _narrow(
    node: onnx.NodeProto, types: Mapping[str, int], makers: Mapping[str, onnx.NodeProto], squares: Set[str]
) -> Iterator[tuple[Kind, int]]:
    given = types.get(node.input[0], 0) if node.input else 0
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type in STASHING and attributes.get("stash_type", onnx.TensorProto.FLOAT) in NARROW:
        yield "norm", attributes["stash_type"]
    elif node.op_type == "Attention" and attributes.get("softmax_precision", 0) in NARROW:
        yield "exponential", attributes["softmax_precision"]
    elif node.op_type in ("Cos", "Sin"):
        rounded = _rounded_before(node, types, makers)
        if rounded:
            yield "angle", rounded
    elif given in NARROW and (node.name in squares or (node.op_type == "Mul" and node.input[0] == node.input[1])):
        yield "square", given
    elif given in NARROW and node.op_type in KINDS:
        yield KINDS[node.op_type], given


def _rounded_before(node: onnx.NodeProto, types: Mapping[str, int], makers: Mapping[str, onnx.NodeProto]) -> int:
    """Return the narrow type that an angle, or anything it is computed from, has; 0 where all of it is wide."""
    waiting, seen = list(node.input), set()
    while waiting:
        name = waiting.pop()
        if name in seen or types.get(name, 0) not in FLOATS:
            continue
        if types[name] in NARROW:
            return types[name]
        seen.add(name)
        waiting += makers[name].input if name in makers else ()
    return 0
