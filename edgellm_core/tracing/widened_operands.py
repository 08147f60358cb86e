"""Operators that widen what they take, such as ``softmax(x, dtype=float32)``: the cast becomes a node of its own.

``torch.onnx`` 2.13 writes that softmax in the type of ``x`` and casts its result, which rounds what the model asked to
be computed in float32: the routers of most mixtures of experts.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import fx

WIDENING: Final = frozenset({"softmax", "log_softmax", "cumsum", "cumprod", "sum", "mean", "prod"})
"""Operators whose ``dtype`` is that of the computation, by torch's documentation ("the input is cast before")."""


def cast_operands(graph: fx.Graph) -> int:
    """Write, before each operator that widens its operand, the cast; return how many there were.

    Args:
        graph: the graph of an exported program; changed in place.
    """
    found = [node for node in graph.nodes if node.op == "call_function" and _widens(node)]
    for node in found:
        operand: Any = node.args[0]
        dtype: torch.dtype = node.meta["val"].dtype
        with graph.inserting_before(node):
            to_copy: Any = torch.ops.aten._to_copy.default  # noqa: SLF001  # the operator's name
            cast = graph.call_function(to_copy, (operand,), {"dtype": dtype})
        cast.meta = {**node.meta, "val": operand.meta["val"].to(dtype)}
        node.update_arg(0, cast)
    return len(found)


def _widens(node: fx.Node) -> bool:
    packet = getattr(node.target, "overloadpacket", None)
    if getattr(packet, "__name__", "") not in WIDENING:
        return False
    operand, result = node.args[0], node.meta["val"]
    if not isinstance(operand, fx.Node):
        return False
    given = operand.meta["val"]
    return bool(given.is_floating_point() and given.dtype != result.dtype)
