"""A KV pool in fp8: the plugin takes its scales as attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.targets.onnx.quantized_cache import QuantizedCacheRule
from edgellm_core.weights.scalars import read_scale

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Editor

SCALE: Final = "scale"
"""Attribute of ``edgellm::Append`` on a cache that is kept in fp8: what its numbers are multiplied with."""

QUERY_SCALE: Final = "query_scale"
"""The same of the layer's queries, on the cache of its keys, where it was measured."""

NOT_MEASURED: Final = 1.0
"""First of ``qkv_scales`` where the scale of the queries was not measured, as the wheel writes it."""


def qkv_scales(keys: gs.Node, values: gs.Node) -> tuple[float, float, float] | None:
    """Return the plugin's ``qkv_scales``; None where the cache is kept in float16.

    Args:
        keys: ``edgellm::Append`` of the keys.
        values: that of the values.
    """
    if SCALE not in keys.attrs:
        return None
    return keys.attrs.get(QUERY_SCALE, NOT_MEASURED), keys.attrs[SCALE], values.attrs[SCALE]


class ScaledAppend(QuantizedCacheRule):
    """``edgellm::Append(past, new)`` → ``edgellm::Append(past, new, scale=…)`` of a cache that is kept in fp8.

    Runs before the rule that makes the plugin of the attention.
    """

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator on a cache whose scale is not written yet."""
        return super().match(node, graph) and SCALE not in node.attrs

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the scale.

        Raises:
            UserError: it is no single number above 0; one class per cause.
        """
        cache, model = node.inputs[0].name, self._model
        attributes: dict[str, Any] = {**node.attrs, SCALE: read_scale(model.tensors[model.caches[cache]])}
        if cache in model.queries:
            attributes[QUERY_SCALE] = read_scale(model.tensors[model.queries[cache]])
        edit.semantic("Append", list(node.inputs), node.outputs[0], name=node.name, **attributes)
