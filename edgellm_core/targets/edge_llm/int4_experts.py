"""Four-bit experts as TensorRT-Edge-LLM takes them: ``trt_edgellm::Int4MoePlugin``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.contract import QuantizedForm
from edgellm_core.errors import NoFormError
from edgellm_core.surgery.rule import Rule, semantic
from edgellm_core.targets.edge_llm.errors import ExpertsNotExpressibleError
from edgellm_core.targets.edge_llm.experts import float32_logits
from edgellm_core.targets.edge_llm.marlin_packing import (
    TILE_INPUTS,
    TILE_OUTPUTS,
    marlin_shape,
    pack_marlin,
    scale_order,
)
from edgellm_core.targets.edge_llm.quantized_linear import PLUGIN_DOMAIN
from edgellm_core.targets.edge_llm.routing import read_routing
from edgellm_core.weights.recipe import Recipe

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

    from edgellm_core.quantization.model import QuantizedExperts, QuantizedModel
    from edgellm_core.surgery.rule import Editor

INT4_PLUGIN: Final = "Int4MoePlugin"

SILU: Final = 0
"""``activation_type`` of the plugin."""


def int4_experts(target: str, model: QuantizedModel) -> QuantizedForm:
    """Return the rule and the recipes of quantized experts; of a model without any, nothing.

    Raises:
        NoFormError: experts that are not int4.
    """
    kinds = {experts.form.weight for experts in model.experts.values()} - {"int4"}
    if kinds:
        raise NoFormError(target, {f"{kind} experts" for kind in kinds})
    if not model.experts:
        return QuantizedForm()
    recipes = [recipe for experts in model.experts.values() for recipe in expert_recipes(experts)]
    return QuantizedForm(rules=(ExpertsToInt4Plugin(model),), recipes=tuple(recipes))


@dataclass(frozen=True)
class MarlinWeight:
    """ModelOpt's pairs of outputs of an expert → words of Marlin."""

    def shape(self, joined: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``[inputs / 16, 8 · outputs]``."""
        pairs, inputs = joined
        return marlin_shape(2 * pairs, inputs)

    def pack(self, joined: NDArray[Any]) -> NDArray[Any]:
        """Return the words, as bytes."""
        return pack_marlin(joined)


@dataclass(frozen=True)
class MarlinScales:
    """Scales ``[outputs, groups]`` of an expert → ``[groups, outputs]`` in Marlin's order."""

    def shape(self, joined: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``[groups, outputs]``."""
        outputs, groups = joined
        return groups, outputs

    def pack(self, joined: NDArray[Any]) -> NDArray[Any]:
        """Return them in order."""
        outputs, groups = joined.shape
        placed: NDArray[Any] = joined[scale_order(outputs, groups=groups)].T
        return placed


def expert_recipes(experts: QuantizedExperts) -> tuple[Recipe, Recipe]:
    """Return the recipes of the packed weight and of its scales."""
    count, size = experts.experts, experts.form.block_size
    return (
        Recipe(
            name=f"{experts.weight}.marlin",
            element_type="I8",
            shape=(count, *marlin_shape(experts.outputs, experts.inputs)),
            sources=tuple(f"{module}.weight" for module in experts.modules),
            stack_packing=MarlinWeight(),
        ),
        Recipe(
            name=f"{experts.weight}.scales",
            element_type="F16",
            shape=(count, experts.inputs // size, experts.outputs),
            sources=tuple(f"{module}.weight_scale" for module in experts.modules),
            stack_packing=MarlinScales(),
        ),
    )


class ExpertsToInt4Plugin(Rule):
    """``Softmax``, ``TopK``, ``edgellm::Experts`` of int4 weights → ``trt_edgellm::Int4MoePlugin(logits, x, …)``."""

    def __init__(self, model: QuantizedModel) -> None:
        self._model = model

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator with a quantized weight."""
        del graph
        return semantic(node, "Experts") and any(weight.name in self._model.experts for weight in node.inputs[3:])

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the plugin.

        Raises:
            ExpertsNotExpressibleError: the plugin can't do what the experts do.
        """
        x, routing, result = node.inputs[0], read_routing(node), node.outputs[0]
        if not routing.normalised:
            reason = "the runtime always divides the weights of chosen int4 experts by their sum"
            raise ExpertsNotExpressibleError(node.name, reason)
        parts = [self._model.experts.get(weight.name) for weight in node.inputs[3:]]
        gate_up, down = _both(node.name, parts)
        stored = [_initializer(recipe) for experts in (gate_up, down) for recipe in expert_recipes(experts)]
        [mixed] = edit.nodes(
            INT4_PLUGIN, [float32_logits(node.name, routing, edit), x, *stored], [f"{node.name}.mixed"],
            name=node.name, domain=PLUGIN_DOMAIN,
            num_experts=down.experts, top_k=routing.chosen, hidden_size=down.outputs, moe_inter_size=down.inputs,
            activation_type=SILU, quantization_group_size=down.form.block_size,
        )  # fmt: skip
        mixed.dtype, mixed.shape = result.dtype, result.shape
        edit.replace(result, mixed)


def _both(place: str, parts: list[QuantizedExperts | None]) -> tuple[QuantizedExperts, QuantizedExperts]:
    """Return both weights of experts if the plugin takes them.

    Raises:
        ExpertsNotExpressibleError: it does not.
    """
    gate_up, down = parts
    if gate_up is None or down is None or gate_up.form != down.form:
        raise ExpertsNotExpressibleError(place, "their weights are not all int4 in blocks of one size")
    if down.form.smoothed or down.form.ordered:
        raise ExpertsNotExpressibleError(place, "the runtime scales and reorders no inputs of int4 experts")
    for experts in (gate_up, down):
        if experts.outputs % TILE_OUTPUTS or experts.inputs % TILE_INPUTS:
            reason = (
                f"the runtime takes int4 experts whose outputs are multiples of {TILE_OUTPUTS}, and inputs of "
                f"{TILE_INPUTS}, not {experts.outputs} and {experts.inputs}"
            )
            raise ExpertsNotExpressibleError(place, reason)
    return gate_up, down


def _initializer(recipe: Recipe) -> gs.Variable:
    """Return an initializer without a value; it gets one when the weights are written."""
    import numpy as np
    import onnx_graphsurgeon as gs

    dtype = np.int8 if recipe.element_type == "I8" else np.float16
    return gs.Variable(recipe.name, dtype, list(recipe.shape))
