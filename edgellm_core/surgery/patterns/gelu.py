"""Gaussian error linear units in plain operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edgellm_core.surgery.patterns.pattern import Found, PatternRule, miss, name_of
from edgellm_core.surgery.patterns.values import close, either_order, is_number, producer, product

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Editor

_CUBE: Final = 0.044715
"""Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415: ``0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))``."""


@dataclass(frozen=True, kw_only=True)
class FoundGelu(Found):
    """A GELU.

    Attributes:
        x: its input.
        approximate: as the standard operator has it.
    """

    x: gs.Tensor
    approximate: Literal["none", "tanh"]


class PlainGelu(PatternRule[FoundGelu]):
    """``x · (1 + erf(x / √2)) / 2``, ``x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2`` → ``Gelu(x)``."""

    def find(self, node: gs.Node) -> FoundGelu | None:
        """Return a GELU whose last node multiplies or divides, whatever the order of its factors."""
        if node.op not in {"Mul", "Div"}:
            return None
        whole = product(node.outputs[0], last=node)
        if len(whole.factors) != 2:
            return None
        for x, gate in (whole.factors, whole.factors[::-1]):
            found = _gate(x, gate)
            if found is None:
                continue
            if not close(whole.scalar, 0.5, x.dtype):
                if _continues(node):
                    return None
                miss(f"its factor is {whole.scalar:g}, not 0.5")
            return FoundGelu(inner=(*whole.inner, *found.inner), x=x, approximate=found.approximate)
        return None

    def write(self, node: gs.Node, found: FoundGelu, edit: Editor) -> None:
        """Write the standard operator; every target has it."""
        edit.node("Gelu", [found.x], node.outputs[0], name=name_of(node), approximate=found.approximate)


def _continues(node: gs.Node) -> bool:
    """Say whether a later node multiplies on: the factor 0.5 may come there."""
    return any(consumer.op in {"Mul", "Div"} for consumer in node.outputs[0].outputs)


def _gate(x: gs.Tensor, gate: gs.Tensor) -> FoundGelu | None:
    """Return ``1 + erf(…)`` or ``1 + tanh(…)`` of ``x``."""
    add = producer(gate, "Add")
    if add is None:
        return None
    for curve, one in either_order(add):
        node = producer(curve, "Erf", "Tanh")
        if node is None or not is_number(one, 1.0):
            continue
        argument = product(node.inputs[0])
        if node.op == "Erf":
            nodes = _exact(argument.scalar, argument.factors, x)
        else:
            nodes = _by_tanh(argument.scalar, argument.factors, x)
        if nodes is None:
            miss(f"the argument of its {node.op} is not that of a GELU of the same input")
        inner = (add, node, *argument.inner, *nodes)
        return FoundGelu(inner=inner, x=x, approximate="none" if node.op == "Erf" else "tanh")
    return None


def _exact(scalar: float, factors: tuple[gs.Tensor, ...], x: gs.Tensor) -> tuple[gs.Node, ...] | None:
    return () if factors == (x,) and close(scalar, math.sqrt(0.5), x.dtype) else None


def _by_tanh(scalar: float, factors: tuple[gs.Tensor, ...], x: gs.Tensor) -> tuple[gs.Node, ...] | None:
    """Match ``√(2/π) · (x + c·x³)`` or ``√(2/π) · x · (1 + c·x²)``."""
    if not close(scalar, math.sqrt(2.0 / math.pi), x.dtype):
        return None
    others = [factor for factor in factors if factor is not x]
    powers = 3 - (len(factors) - len(others))
    add = producer(others[0], "Add") if len(others) == 1 and len(factors) <= 2 else None
    if add is None:
        return None
    for first, second in either_order(add):
        starts = first is x if powers == 3 else is_number(first, 1.0)
        nodes = _cubed(second, x, powers) if starts else None
        if nodes is not None:
            return (add, *nodes)
    return None


def _cubed(tensor: gs.Tensor, x: gs.Tensor, power: int) -> tuple[gs.Node, ...] | None:
    """Match ``0.044715 · x^power``."""
    term = product(tensor)
    if not close(term.scalar, _CUBE, x.dtype):
        return None
    if all(factor is x for factor in term.factors):
        return term.inner if len(term.factors) == power else None
    nodes, exponent = [*term.inner], 0
    for factor in term.factors:
        raised = producer(factor, "Pow")
        if factor is x:
            exponent += 1
        elif raised is not None and raised.inputs[0] is x:
            exponent += next((number for number in (2, 3) if is_number(raised.inputs[1], number)), 9)
            nodes.append(raised)
        else:
            return None
    return tuple(nodes) if exponent == power else None
