"""Rotary position embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.surgery.rule import Editor, Expected, Rule, semantic

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions


class RotaryToRotaryEmbedding(Rule):
    """``edgellm::Rotary(x, cos, sin)`` → ``RotaryEmbedding(x, cos, sin)`` (opset 23).

    Neighbouring channels are gathered into halves first and put back after it: TensorRT-RTX 1.7.1 takes a graph with
    one interleaved RotaryEmbedding, but fails on those of a decoder (``MyelinCheckException: ssa.cpp:698``).
    """

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every query and key that the model rotated."""
        return Expected.exactly(dimensions.ropes)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator."""
        del graph
        return semantic(node, "Rotary")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operator; ``rotary_embedding_dim`` 0 means all channels."""
        x, cos, sin = node.inputs
        rotary_dim, head_dim = int(node.attrs["rotary_dim"]), int(x.shape[-1])
        attributes: dict[str, Any] = {"rotary_embedding_dim": rotary_dim} if rotary_dim != head_dim else {}
        if not node.attrs["interleaved"]:
            edit.node("RotaryEmbedding", node.inputs, node.outputs[0], name=node.name, **attributes)
            return
        halves = [*range(0, rotary_dim, 2), *range(1, rotary_dim, 2), *range(rotary_dim, head_dim)]
        name, order, back = node.name, edit.constant(halves), edit.constant(np.argsort(halves))
        regrouped = edit.node("Gather", [x, order], f"{name}.halves", name=f"{name}/halves", like=x, axis=3)
        turned = edit.node("RotaryEmbedding", [regrouped, cos, sin], f"{name}.turned", name=name, like=x, **attributes)
        edit.node("Gather", [turned, back], node.outputs[0], name=f"{name}/back", axis=3)
