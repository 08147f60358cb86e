"""Shape operators whose result has the shape of their input."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from edgellm_core.surgery.patterns.values import dimension, rank, same_known
from edgellm_core.surgery.rule import Editor, NearMiss, Rule, graph_output

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Stage

_SHAPING: Final = frozenset({"Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze"})


class RemoveNoOpShape(Rule):
    """``Reshape(x)``, ``Expand(x)`` to the shape that ``x`` has, ``Concat`` of ``x`` alone → ``x``."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match where every dimension is known and stays: a number, or the same symbol."""
        joins_one = node.op == "Concat" and len(node.inputs) == 1
        shapes = node.op in _SHAPING and _same_shape(node.inputs[0], node.outputs[0])
        if node.domain or not (joins_one or shapes):
            return False
        return graph_output(node, graph) or True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Let the consumers take the input."""
        edit.replace(node.outputs[0], node.inputs[0])


def _same_shape(before: gs.Tensor, after: gs.Tensor) -> bool:
    depth = rank(before)
    if depth is None or depth != rank(after):
        return False
    return all(same_known(dimension(before, axis), dimension(after, axis)) for axis in range(depth))
