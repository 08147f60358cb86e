"""Computations on constants that only foreign graphs hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

import onnx_graphsurgeon as gs

from edgellm_core.surgery.patterns.pattern import name_of
from edgellm_core.surgery.patterns.values import integers, number
from edgellm_core.surgery.rule import Editor, NearMiss, Rule, graph_output
from edgellm_core.surgery.rules.fold_constants import FOLDABLE, LARGEST, elements, evaluate

if TYPE_CHECKING:
    from edgellm_core.surgery.rule import Stage

_POINTWISE: Final = frozenset({"Cast", "Sqrt", "Reciprocal", "Pow", "Not", "Equal", "Where", "Abs", "Floor", "Ceil"})
_GROWING: Final = frozenset({"Expand", "ConstantOfShape", "Range"})


class FoldMoreConstants(Rule):
    """A deterministic operator on small constants → its value."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match operators all of whose inputs are constants, and whose result is small too."""
        if node.domain or node.op not in FOLDABLE | _POINTWISE | _GROWING or not node.inputs:
            return False
        if not all(isinstance(tensor, gs.Constant) for tensor in node.inputs) or len(node.outputs) != 1:
            return False
        if max(elements(node), _result_elements(node)) > LARGEST:
            return NearMiss(name_of(node), f"its inputs or its result have more than {LARGEST} elements")
        return graph_output(node, graph) or True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Compute the value with the ONNX reference implementation."""
        edit.replace(node.outputs[0], gs.Constant(f"{node.outputs[0].name}.folded", evaluate(node)))


def _result_elements(node: gs.Node) -> int:
    """Return the number of elements of the result of an operator that can make much of little."""
    if node.op == "Range":
        start, limit, step = (number(tensor) for tensor in node.inputs)
        if start is None or limit is None or not step:
            return LARGEST + 1
        return max(0, math.ceil((limit - start) / step))
    if node.op in _GROWING:
        shape = integers(node.inputs[-1]) or []
        return math.prod(shape) * (elements(node) if node.op == "Expand" else 1)
    return 0
