"""Nodes that hand their input on unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgellm_core.surgery.rule import Editor, NearMiss, Rule, Stage, semantic

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class RemoveIdentity(Rule):
    """``Identity(x)``, ``FullLength(x)``, ``Cast(x → its own type)`` → ``x``."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match unless it copies a graph input to a graph output, which needs a node between them."""
        same_type = node.op == "Cast" and node.inputs[0].dtype is not None and _cast_changes_nothing(node)
        if not (node.op == "Identity" or semantic(node, "FullLength") or same_type):
            return False
        is_output = any(node.outputs[0] is tensor for tensor in graph.outputs)
        source = node.inputs[0]
        if is_output and (not source.inputs or any(source is tensor for tensor in graph.outputs)):
            return NearMiss(node.name, "it gives a graph output a second name")
        return True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Let the consumers take the input."""
        edit.replace(node.outputs[0], node.inputs[0])


def _cast_changes_nothing(node: gs.Node) -> bool:
    import onnx

    from_type = onnx.helper.np_dtype_to_tensor_dtype(node.inputs[0].dtype)
    return bool(from_type == node.attrs["to"])
