"""Mixtures of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.rule import Rule, semantic

if TYPE_CHECKING:
    from edgellm_core.surgery.rule import Editor

TOKENS_LAST: Final = [0, 2, 1]


class ExpertsToMatMul(Rule):
    """``edgellm::Experts(x, index, weights, gate_up, down)`` → batched ``MatMul`` of all experts, weighted and summed.

    No weights are gathered: ONNX Runtime and TensorRT take the batched products, and shapes stay static but for the
    number of tokens. Experts that a token was not routed to get weight 0.
    """

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator."""
        del graph
        return semantic(node, "Experts")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operators."""
        x, _index, weights, gate_up, down = node.inputs
        name, result = node.name, node.outputs[0]
        batch = edit.node("Unsqueeze", [x, edit.constant([0])], f"{name}.x", name=f"{name}/x", like=x)
        wide = _product(f"{name}/gate_up", batch, gate_up, edit)
        narrow = _product(f"{name}/down", _gated(name, wide, int(gate_up.shape[1]) // 2, edit), down, edit)
        routing = _routing(node, int(down.shape[0]), edit)
        same = weights.dtype == x.dtype
        if not same:
            narrow = edit.cast(narrow, gs.Variable(f"{name}.wide", dtype=weights.dtype), name=f"{name}/wide")
        weighted = edit.node("Mul", [narrow, routing], f"{name}.weighted", name=f"{name}/weigh", like=weights)
        target = result if same else f"{name}.mixed"
        mixed = edit.node(
            "ReduceSum", [weighted, edit.constant([0])], target, name=f"{name}/mix", like=weights, keepdims=0
        )
        if not same:
            edit.cast(mixed, result, name=name)


def _product(name: str, x: gs.Tensor, weight: gs.Tensor, edit: Editor) -> gs.Tensor:
    """Return ``[experts, tokens, out]``, the products with a weight ``[experts, out, in]``."""
    flipped = edit.node("Transpose", [weight], f"{name}.weight", name=f"{name}/T", like=weight, perm=TOKENS_LAST)
    return edit.node("MatMul", [x, flipped], f"{name}.product", name=name, like=x)


def _gated(name: str, wide: gs.Tensor, inner: int, edit: Editor) -> gs.Tensor:
    """Return ``silu(gate) * up`` of the two halves of the last axis."""
    gate, up = edit.nodes(
        "Split", [wide, edit.constant([inner, inner])], [f"{name}.gate", f"{name}.up"],
        name=f"{name}/split", domain="", axis=-1,
    )  # fmt: skip
    gate.dtype = up.dtype = wide.dtype
    sigmoid = edit.node("Sigmoid", [gate], f"{name}.sigmoid", name=f"{name}/sigmoid", like=wide)
    silu = edit.node("Mul", [gate, sigmoid], f"{name}.silu", name=f"{name}/silu", like=wide)
    return edit.node("Mul", [silu, up], f"{name}.gated", name=f"{name}/gate", like=wide)


def _routing(node: gs.Node, experts: int, edit: Editor) -> gs.Tensor:
    """Return ``[experts, tokens, 1]``: the weight of each expert for each token, 0 where it was not chosen."""
    _x, index, weights, *_ = node.inputs
    name, last = node.name, edit.constant([-1])
    columns = edit.node("Unsqueeze", [index, last], f"{name}.index", name=f"{name}/index", like=index)
    chosen = edit.node("Equal", [columns, edit.constant(range(experts))], f"{name}.chosen", name=f"{name}/chosen")
    wide = edit.node("Unsqueeze", [weights, last], f"{name}.weights", name=f"{name}/weights", like=weights)
    zero = edit.constant(0.0, np.dtype(weights.dtype))
    spread = edit.node("Where", [chosen, wide, zero], f"{name}.spread", name=f"{name}/spread", like=weights)
    routed = edit.node(
        "ReduceSum", [spread, edit.constant([1])], f"{name}.routed", name=f"{name}/route", like=weights, keepdims=0
    )
    turned = edit.node("Transpose", [routed], f"{name}.turned", name=f"{name}/turn", like=weights, perm=[1, 0])
    return edit.node("Unsqueeze", [turned, last], f"{name}.routing", name=f"{name}/routing", like=weights)
