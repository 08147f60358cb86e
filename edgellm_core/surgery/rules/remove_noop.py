"""Arithmetic and shape operators that change nothing."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.rule import Editor, NearMiss, Rule, Stage, graph_output

_NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}


class RemoveNoOp(Rule):
    """``x · 1``, ``x / 1``, ``x + 0``, ``x - 0``, ``Transpose(x, identity)`` → ``x``."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match nodes with a scalar neutral operand, or a shape operator without effect."""
        if node.domain or _passing_input(node) is None:
            return False
        return graph_output(node, graph) or True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Let the consumers take the input that passes."""
        passing = _passing_input(node)
        assert passing is not None
        edit.replace(node.outputs[0], passing)


def _passing_input(node: gs.Node) -> gs.Tensor | None:
    if node.op in _NEUTRAL:
        operands = range(2) if node.op in {"Mul", "Add"} else (1,)
        for index in operands:
            operand = node.inputs[index]
            if _is_scalar(operand, _NEUTRAL[node.op]) and not isinstance(node.inputs[1 - index], gs.Constant):
                return node.inputs[1 - index]
    if node.op == "Transpose" and list(node.attrs.get("perm", [])) == list(range(len(node.attrs.get("perm", [])))):
        return node.inputs[0] if node.attrs.get("perm") else None
    return None


def _is_scalar(tensor: gs.Tensor, number: float) -> bool:
    return isinstance(tensor, gs.Constant) and tensor.values.ndim == 0 and bool(np.all(tensor.values == number))
