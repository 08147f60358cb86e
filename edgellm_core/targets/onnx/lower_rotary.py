"""Rotary position embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.surgery.rule import Editor, Expected, Rule, semantic

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions


class RotaryToRotaryEmbedding(Rule):
    """``edgellm::Rotary(x, cos, sin)`` → ``RotaryEmbedding(x, cos, sin)`` (opset 23)."""

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every query and key that the model rotated."""
        return Expected.exactly(dimensions.ropes)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator."""
        del graph
        return semantic(node, "Rotary")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operator; ``rotary_embedding_dim`` 0 means all channels."""
        x = node.inputs[0]
        rotary_dim = int(node.attrs["rotary_dim"])
        partial = x.shape is None or x.shape[-1] != rotary_dim
        attributes: dict[str, Any] = {"rotary_embedding_dim": rotary_dim} if partial else {}
        if node.attrs["interleaved"]:
            attributes["interleaved"] = 1
        edit.node("RotaryEmbedding", node.inputs, node.outputs[0], name=node.name, **attributes)
