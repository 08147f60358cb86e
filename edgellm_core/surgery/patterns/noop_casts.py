"""Casts that change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from edgellm_core.surgery.patterns.values import producer
from edgellm_core.surgery.rule import Editor, NearMiss, Rule, graph_output

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Stage

_WIDER: Final = {"float16": {"float32", "float64"}, "bfloat16": {"float32", "float64"}, "float32": {"float64"}}
"""Type → types that hold all of its numbers."""


class RemoveRoundTripCast(Rule):
    """``Cast(Cast(x, wider type), type of x)`` → ``x``."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match the second cast where the type in between holds every number of the first."""
        if _source(node) is None:
            return False
        return graph_output(node, graph) or True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Let the consumers take what both casts start from."""
        source = _source(node)
        assert source is not None
        edit.replace(node.outputs[0], source)


def _source(node: gs.Node) -> gs.Tensor | None:
    first = producer(node.inputs[0], "Cast") if node.op == "Cast" and not node.domain else None
    if first is None:
        return None
    source, between, result = (_type(tensor) for tensor in (first.inputs[0], first.outputs[0], node.outputs[0]))
    return first.inputs[0] if source == result and between in _WIDER.get(source, ()) else None


def _type(tensor: gs.Tensor) -> str:
    return "" if tensor.dtype is None else np.dtype(tensor.dtype).name
