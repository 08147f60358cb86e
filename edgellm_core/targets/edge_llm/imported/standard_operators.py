"""Attention, rotations and norms that a file has as standard operators already (opset 23)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.surgery.patterns.attention_inputs import unrepeated
from edgellm_core.surgery.patterns.values import rank
from edgellm_core.surgery.rule import SEMANTIC_DOMAIN

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def make_semantic(graph: gs.Graph) -> None:
    """Write standard operators as the semantic ones that pattern rules write, where they mean the same.

    Args:
        graph: changed in place.
    """
    for node in graph.nodes:
        if node.domain:
            continue
        if node.op == "Attention" and _is_plain(node):
            _attention(node)
        elif node.op == "RMSNormalization" and int(node.attrs.get("axis", -1)) in (-1, (rank(node.inputs[0]) or 0) - 1):
            _replace(node, "RMSNorm", epsilon=float(node.attrs.get("epsilon", 1e-5)))
        elif node.op == "RotaryEmbedding" and len(node.inputs) == 3 and rank(node.inputs[0]) == 4:
            size = int(node.attrs.get("rotary_embedding_dim", 0)) or int(node.inputs[0].shape[-1])
            _replace(node, "Rotary", interleaved=int(node.attrs.get("interleaved", 0)), rotary_dim=size)


def _is_plain(node: gs.Node) -> bool:
    """Say whether an ``Attention`` has heads as an axis, one output, no cache of its own, and a mask for causality."""
    heads = all(rank(tensor) == 4 for tensor in node.inputs[:3])
    return heads and len(node.outputs) == 1 and len(node.inputs) <= 4 and not node.attrs.get("is_causal", 0)


def _attention(node: gs.Node) -> None:
    keys, values = (unrepeated(tensor) for tensor in node.inputs[1:3])
    if keys is not None and values is not None and keys[1] == values[1]:
        node.inputs = [node.inputs[0], keys[0], values[0], *node.inputs[3:]]
    scale = float(node.attrs.get("scale", 0.0)) or float(int(node.inputs[0].shape[-1]) ** -0.5)
    _replace(node, "Attention", scale=scale, softcap=float(node.attrs.get("softcap", 0.0)))


def _replace(node: gs.Node, op: str, **attributes: float) -> None:
    node.op, node.domain = op, SEMANTIC_DOMAIN
    node.attrs.clear()
    node.attrs.update(attributes)
