"""A KV pool in fp8: the plugin takes its scales as attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.surgery.rule import Editor, Expected, Rule, semantic
from edgellm_core.weights.scalars import read_scale

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions
    from edgellm_core.quantization.model import QuantizedModel

SCALE: Final = "scale"
"""Attribute of ``edgellm::Append`` on a cache that is kept in fp8: what its numbers are multiplied with."""

QUERY_SCALE: Final = 1.0
"""First of ``qkv_scales`` where no scale of the queries was measured, as the wheel writes it."""


class ScaledAppend(Rule):
    """``edgellm::Append(past, new)`` → ``edgellm::Append(past, new, scale=…)`` of a cache that is kept in fp8.

    Runs before the rule that makes the plugin of the attention.
    """

    def __init__(self, model: QuantizedModel) -> None:
        """Take the caches, and the checkpoint with their scales."""
        self._model = model

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every cache."""
        del dimensions
        return Expected.exactly(len(self._model.caches))

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator on a cache that has a scale."""
        del graph
        return semantic(node, "Append") and SCALE not in node.attrs and node.inputs[0].name in self._model.caches

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the scale.

        Raises:
            UserError: it is no single number above 0; one class per cause.
        """
        entry = self._model.tensors[self._model.caches[node.inputs[0].name]]
        attributes: dict[str, Any] = {**node.attrs, SCALE: read_scale(entry)}
        edit.semantic("Append", list(node.inputs), node.outputs[0], name=node.name, **attributes)
