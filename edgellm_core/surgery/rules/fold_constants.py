"""Small computations on constants, done once at export."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.rule import Editor, NearMiss, Rule, Stage, graph_output

LARGEST: Final = 1 << 16
"""Most elements of inputs or result that are folded; parameters are never constants here, so weights stay untouched."""
_ARITHMETIC: Final = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})
FOLDABLE: Final = _ARITHMETIC | {"Unsqueeze", "Squeeze", "Reshape", "Concat", "Gather", "Transpose", "Slice"}
"""Operators that are computed where all of their inputs are constants."""


class FoldConstants(Rule):
    """An operator on small constants → its value."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match operators all of whose inputs are constants."""
        if node.op not in FOLDABLE or node.domain or not node.inputs:
            return False
        if not all(isinstance(tensor, gs.Constant) for tensor in node.inputs):
            return False
        if elements(node) > LARGEST:
            return NearMiss(node.name, f"its inputs or its result have more than {LARGEST} elements")
        return graph_output(node, graph) or True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Compute the value with the ONNX reference implementation."""
        edit.replace(node.outputs[0], gs.Constant(f"{node.outputs[0].name}.folded", evaluate(node)))


def elements(node: gs.Node) -> int:
    """Return the number of elements of a node's inputs, or of the result of arithmetic where that is larger."""
    given = sum(tensor.values.size for tensor in node.inputs)
    if node.op not in _ARITHMETIC:
        return int(given)
    return max(int(given), math.prod(np.broadcast_shapes(*(tensor.values.shape for tensor in node.inputs))))


def evaluate(node: gs.Node) -> Any:
    """Return the result of a node on constants, as the ONNX reference implementation computes it."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [f"input_{index}" for index in range(len(node.inputs))]
    attributes = {
        key: onnx.numpy_helper.from_array(value.values) if isinstance(value, gs.Constant) else value
        for key, value in node.attrs.items()
    }
    proto = onnx.helper.make_node(node.op, names, ["result"], **attributes)
    types = [onnx.helper.np_dtype_to_tensor_dtype(tensor.values.dtype) for tensor in node.inputs]
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [onnx.helper.make_tensor_value_info(n, t, None) for n, t in zip(names, types, strict=True)],
        [onnx.helper.make_tensor_value_info("result", onnx.TensorProto.UNDEFINED, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])
    feeds = {name: tensor.values for name, tensor in zip(names, node.inputs, strict=True)}
    results: Any = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(results[0])
