"""Transpositions that follow one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgellm_core.surgery.patterns.pattern import name_of
from edgellm_core.surgery.patterns.values import producer
from edgellm_core.surgery.rule import Editor, NearMiss, Rule, graph_output

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Stage


class MergeTransposes(Rule):
    """``Transpose(Transpose(x))`` → ``Transpose(x)``, or ``x`` where the second undoes the first."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match the second of two; the first stays for its other consumers."""
        order = _merged(node)
        if order is None:
            return False
        return (graph_output(node, graph) if order == sorted(order) else None) or True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write one transposition, or none."""
        order, source = _merged(node), node.inputs[0].inputs[0].inputs[0]
        assert order is not None
        if order == sorted(order):
            edit.replace(node.outputs[0], source)
        else:
            edit.node("Transpose", [source], node.outputs[0], name=name_of(node), perm=order)


def _merged(node: gs.Node) -> list[int] | None:
    """Return the permutation of both together."""
    if node.op != "Transpose" or node.domain or not node.inputs:
        return None
    first = producer(node.inputs[0], "Transpose")
    if first is None or "perm" not in first.attrs or "perm" not in node.attrs:
        return None
    return [int(first.attrs["perm"][axis]) for axis in node.attrs["perm"]]
