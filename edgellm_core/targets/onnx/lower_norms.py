"""Norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.surgery.rule import Editor, Expected, Rule, semantic

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions


class RMSNormToRMSNormalization(Rule):
    """``edgellm::RMSNorm(x, w)`` → ``RMSNormalization(x, w)`` (opset 23, computed in float32)."""

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every norm that the model called."""
        return Expected.exactly(dimensions.norms.get("rms", 0))

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator."""
        del graph
        return semantic(node, "RMSNorm")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operator."""
        epsilon = node.attrs["epsilon"]
        edit.node("RMSNormalization", node.inputs, node.outputs[0], name=node.name, axis=-1, epsilon=epsilon)


class LayerNormToLayerNormalization(Rule):
    """``edgellm::LayerNorm(x, w[, b])`` → ``LayerNormalization(x, w[, b])`` (opset 17)."""

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every norm that the model called."""
        return Expected.exactly(dimensions.norms.get("layer", 0))

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator."""
        del graph
        return semantic(node, "LayerNorm")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operator."""
        epsilon = node.attrs["epsilon"]
        edit.node("LayerNormalization", node.inputs, node.outputs[0], name=node.name, axis=-1, epsilon=epsilon)
