"""Mixtures of experts as TensorRT-Edge-LLM takes them: ``trt_edgellm::Fp16MoePlugin``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.surgery.rule import Rule, Stage, semantic
from edgellm_core.targets.edge_llm.errors import ExpertsNotExpressibleError
from edgellm_core.targets.edge_llm.quantized_linear import PLUGIN_DOMAIN
from edgellm_core.targets.edge_llm.routing import read_routing

if TYPE_CHECKING:
    from edgellm_core.surgery.rule import Editor
    from edgellm_core.targets.edge_llm.routing import Routing

FP16_PLUGIN: Final = "Fp16MoePlugin"

BLOCK_ROWS: Final = 64
"""Rows of up, then as many rows of gate, and so on: the order that the plugin's first product reads."""

SWIGLU: Final = 2
"""``activation_type`` of the plugin."""

EXPERTS: Final = (128, 256)
MOST_CHOSEN: Final = 8
HIDDEN_ALIGNMENT: Final = 128
"""What the plugin takes; it says so itself when an engine is built (its library in the wheel, 0.11.0)."""


class ReshapeToTokens(Rule):
    """``Reshape(x)`` from ``[batch, seq, n]`` to ``[batch · seq, n]`` or back → ``x``: tokens are a list already."""

    stage: ClassVar[Stage] = "clean"

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match by the traced shapes; the last axis stays what it is."""
        del graph
        if node.op != "Reshape" or node.domain or not node.inputs[0].inputs:
            return False
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if before is None or after is None or not before or not after or before[-1] != after[-1]:
            return False
        batches = [shape for shape in (before, after) if len(shape) == 3]
        return before == after or (
            {len(before), len(after)} == {2, 3} and all(list(shape[:2]) == BATCH for shape in batches)
        )

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Let every reader take the input."""
        edit.replace(node.outputs[0], node.inputs[0])


BATCH: Final = ["batch", "seq"]
"""Names of the first two axes of hidden states in a traced graph."""


class ExpertsToPlugin(Rule):
    """``Softmax``, ``TopK``, ``edgellm::Experts`` → ``trt_edgellm::Fp16MoePlugin(logits, x, fc1, fc2)``.

    The rows of ``gate_up`` come in another order, which moves into the recipe of the weight.
    """

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator; what the plugin can't do is refused when it is rewritten."""
        del graph
        return semantic(node, "Experts")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the plugin.

        Raises:
            ExpertsNotExpressibleError: the plugin can't do what the experts do.
        """
        x, _index, _weights, gate_up, down = node.inputs
        routing, result, name = read_routing(node), node.outputs[0], node.name
        experts, hidden, inner = (int(size) for size in down.shape)
        _require_sizes(name, experts=experts, chosen=routing.chosen, hidden=hidden, inner=inner)
        fc1 = edit.node(
            "Gather", [gate_up, edit.constant(blocks(inner))], f"{gate_up.name}.blocks",
            name=f"{name}/blocks", like=gate_up, axis=1,
        )  # fmt: skip
        fc1.shape = gate_up.shape
        [mixed] = edit.nodes(
            FP16_PLUGIN, [float32_logits(name, routing, edit), x, fc1, down], [f"{name}.mixed"],
            name=name, domain=PLUGIN_DOMAIN,
            num_experts=experts, top_k=routing.chosen, hidden_size=hidden, moe_inter_size=inner,
            activation_type=SWIGLU, norm_topk_prob=int(routing.normalised), max_routed_rows=0,
        )  # fmt: skip
        mixed.dtype, mixed.shape = result.dtype, result.shape
        edit.replace(result, mixed)


def refuse_other_experts(graph: gs.Graph) -> None:
    """Refuse experts that were traced as plain operators.

    Raises:
        ExpertsNotExpressibleError: something is chosen for each token, and no plugin does it.
    """
    for node in graph.nodes:
        if node.op == "TopK":
            raise ExpertsNotExpressibleError(node.name, "they are not SwiGLU without biases, all in one tensor")


def blocks(inner: int) -> list[int]:
    """Return the rows of ``[gate; up]``, ``inner`` each, in the plugin's order: blocks of up and of gate in turn."""
    order = np.arange(2 * inner).reshape(2, -1, BLOCK_ROWS)
    return [int(row) for row in order[::-1].transpose(1, 0, 2).reshape(-1)]


def _require_sizes(place: str, *, experts: int, chosen: int, hidden: int, inner: int) -> None:
    if experts not in EXPERTS:
        reason = f"the runtime takes {' or '.join(map(str, EXPERTS))} float16 experts, not {experts}"
    elif chosen > MOST_CHOSEN:
        reason = f"the runtime takes at most {MOST_CHOSEN} experts for a token, not {chosen}"
    elif hidden % HIDDEN_ALIGNMENT or inner % BLOCK_ROWS:
        reason = (
            f"the runtime takes hidden sizes that are multiples of {HIDDEN_ALIGNMENT}, and inner ones of {BLOCK_ROWS}, "
            f"not {hidden} and {inner}"
        )
    else:
        return
    raise ExpertsNotExpressibleError(place, reason)


def float32_logits(name: str, routing: Routing, edit: Editor) -> gs.Tensor:
    """Return the router's logits as the plugins take them."""
    logits = routing.logits
    if logits.dtype == np.float32:
        return logits
    return edit.cast(logits, gs.Variable(f"{name}.logits", dtype=np.float32), name=f"{name}/logits")
