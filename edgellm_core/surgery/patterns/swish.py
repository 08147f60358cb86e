"""Sigmoid linear units in plain operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.surgery.patterns.pattern import Found, PatternRule, miss, name_of
from edgellm_core.surgery.patterns.values import either_order, producer, product

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Editor

SWISH_OPSET: Final = 24
"""The opset that brought ``Swish``; ONNX Runtime 1.32 has no kernel for it in opsets 25 and 26."""


@dataclass(frozen=True, kw_only=True)
class FoundSwish(Found):
    """``x · sigmoid(alpha · x)``.

    Attributes:
        x: its input.
        alpha: 1 for SiLU.
    """

    x: gs.Tensor
    alpha: float


class PlainSwish(PatternRule[FoundSwish]):
    """``x · sigmoid(α · x)`` → ``Swish(x)`` (opset 24)."""

    def __init__(self, opset: int) -> None:
        self._opset = opset

    def find(self, node: gs.Node) -> FoundSwish | None:
        """Return a product of a value and its own sigmoid."""
        if node.op != "Mul":
            return None
        for x, gate in either_order(node):
            sigmoid = producer(gate, "Sigmoid")
            if sigmoid is None:
                continue
            argument = product(sigmoid.inputs[0]) if sigmoid.inputs[0] is not x else None
            if argument is not None and argument.factors != (x,):
                continue
            if self._opset != SWISH_OPSET:
                miss(f"Swish needs opset {SWISH_OPSET}, the graph has {self._opset}")
            inner = argument.inner if argument is not None else ()
            return FoundSwish(inner=(sigmoid, *inner), x=x, alpha=argument.scalar if argument is not None else 1.0)
        return None

    def write(self, node: gs.Node, found: FoundSwish, edit: Editor) -> None:
        """Write the standard operator."""
        edit.node("Swish", [found.x], node.outputs[0], name=name_of(node), alpha=found.alpha)
