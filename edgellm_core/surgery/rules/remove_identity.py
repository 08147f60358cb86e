"""Nodes that hand their input on unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgellm_core.surgery.rule import Editor, NearMiss, Rule, Stage, semantic

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class RemoveIdentity(Rule):
    """``Identity(x)``, ``FullLength(x)``, ``Cast(x → its own type)`` → ``x``."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match unless it copies a graph input to a graph output, which needs a node between them."""
        if not (semantic(node, "FullLength") or (not node.domain and _changes_nothing(node))):
            return False
        is_output = any(node.outputs[0] is tensor for tensor in graph.outputs)
        source = node.inputs[0]
        if is_output and (not source.inputs or any(source is tensor for tensor in graph.outputs)):
            return NearMiss(node.name, "it gives a graph output a second name")
        return True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Let the consumers take the input."""
        edit.replace(node.outputs[0], node.inputs[0])


def _changes_nothing(node: gs.Node) -> bool:
    import onnx

    dtype = node.inputs[0].dtype
    if node.op != "Cast" or dtype is None:
        return bool(node.op == "Identity")
    return bool(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) == node.attrs["to"])
