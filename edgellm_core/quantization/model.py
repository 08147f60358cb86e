"""What of a traced model is quantized: the layers and caches of a checkpoint's layout, found in the graph."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edgellm_core.quantization.errors import (
    NotInGraphError,
    PartialBlockError,
    SharedByTwoError,
    UnevenExpertsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.quantization.formats import LinearFormat
    from edgellm_core.quantization.layout import QuantizationLayout

CACHE_SCALES: Final = {"key": "k_proj.k_scale", "value": "v_proj.v_scale"}
"""Part of a layer's cache → end of the name of its scale (ModelOpt 0.47, ``export/quant_utils.py``)."""

QUERY_SCALE: Final = "q_proj.q_scale"
"""End of the name of the scale of a layer's queries, which TensorRT-Edge-LLM 0.11 adds where it quantizes itself
(``quantization/quantize.py``)."""

_CACHE: Final = re.compile(r"past_key_values\.(\d+)\.(key|value)")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedLinear:
    """One quantized linear layer ``[outputs, inputs]``.

    Attributes:
        module: its path in the checkpoint; its tensors are named after it.
        weight: name of its weight in the graph, which may be that of a tensor that it is tied to.
        form: how it is stored.
        outputs: size of what it returns.
        inputs: size of what it takes.
        calls: nodes of the graph that call it.
    """

    module: str
    weight: str
    form: LinearFormat
    outputs: int
    inputs: int
    calls: int = 1

    def tensors(self) -> Iterator[str]:
        """Yield the names of its tensors."""
        for suffix in self.form.tensors(self.outputs, self.inputs):
            yield f"{self.module}.{suffix}"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedExperts:
    """One quantized weight of all experts of a layer, ``[experts, outputs, inputs]``.

    Attributes:
        weight: its name in the graph.
        modules: paths of its parts in the checkpoint, expert by expert; those of one expert lie under each other.
        form: how each part is stored.
        experts: number of experts.
        outputs: size of what one expert returns.
        inputs: size of what it takes.
    """

    weight: str
    modules: tuple[str, ...]
    form: LinearFormat
    experts: int
    outputs: int
    inputs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedModel:
    """What of a graph is quantized.

    Attributes:
        element_type: type of everything that is not, in safetensors' spelling, for example ``F16``.
        linears: layers by the name of their weight in the graph.
        caches: graph input of a cache → tensor with the scale of its rounding to fp8.
        queries: graph input of the keys of a layer → tensor with the scale of its queries, where there is one.
        tensors: the checkpoint, for scales that become attributes.
        experts: weights of experts by their name in the graph.
    """

    element_type: str
    linears: Mapping[str, QuantizedLinear] = field(default_factory=dict)
    caches: Mapping[str, str] = field(default_factory=dict)
    queries: Mapping[str, str] = field(default_factory=dict)
    tensors: TensorIndex = field(default_factory=dict)
    experts: Mapping[str, QuantizedExperts] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Nodes of the graph that call a quantized layer."""
        return sum(linear.calls for linear in self.linears.values())


Stacks = dict[str, tuple[int, tuple[str, ...]]]
"""Name of the weight of experts in the graph → their number, and the tensors that make it, expert by expert."""


def find_quantized(  # noqa: PLR0913  # each is another part of the graph
    layout: QuantizationLayout,
    tensors: TensorIndex,
    *,
    element_type: str,
    calls: Mapping[str, int],
    stacks: Stacks,
    caches: Collection[str],
    parameter_of: Callable[[str], str],
    layer_of: Callable[[str], int | None],
) -> QuantizedModel:
    """Find what a layout speaks of in a graph.

    Args:
        layout: what of the checkpoint is quantized.
        tensors: all tensors of the checkpoint.
        element_type: type of everything that is not.
        calls: name of a weight → nodes of the graph that call a linear layer with it.
        stacks: weights of experts.
        caches: graph inputs that new keys and values are appended to.
        parameter_of: name of a tensor → name of the parameter in the graph.
        layer_of: name of a tensor or state → decoder layer that it belongs to.

    Raises:
        NotInGraphError: a layer is no linear layer of the graph, or a cache has no scale.
        PartialBlockError: blocks don't divide a layer.
        UnevenExpertsError: experts of one weight are not quantized alike.
        SharedByTwoError: two quantized layers share one weight.
    """
    linears: dict[str, QuantizedLinear] = {}
    experts = _find_experts(layout, tensors, stacks)
    inside = {module for one in experts.values() for module in one.modules}
    missing = []
    for module, form in layout.linears.items():
        if module in inside:
            continue
        weight = parameter_of(f"{module}.weight")
        if weight not in calls:
            missing.append(module)
            continue
        if weight in linears:
            raise SharedByTwoError(linears[weight].module, module)
        outputs, inputs = form.dimensions(tensors[f"{module}.weight"].shape)
        if form.block_size and inputs % form.block_size:
            raise PartialBlockError(module, inputs, form.block_size)
        linears[weight] = QuantizedLinear(
            module=module, weight=weight, form=form, outputs=outputs, inputs=inputs, calls=calls[weight]
        )
    if missing:
        raise NotInGraphError("layer(s)", missing, "linear layers of the traced model")
    scales = _cache_scales(tensors, caches, layer_of) if layout.kv_cache else {}
    queries = _query_scales(tensors, scales, layer_of)
    return QuantizedModel(
        element_type=element_type, linears=linears, caches=scales, queries=queries, experts=experts, tensors=tensors
    )


def _query_scales(
    tensors: TensorIndex, caches: Collection[str], layer_of: Callable[[str], int | None]
) -> dict[str, str]:
    """Return the scales of queries by the cache of their keys."""
    known = {layer_of(name): name for name in tensors if name.endswith("." + QUERY_SCALE)}
    parts = {name: _CACHE.fullmatch(name) for name in caches}
    layers = {name: int(part[1]) for name, part in parts.items() if part and part[2] == "key"}
    return {name: known[layer] for name, layer in layers.items() if layer in known}


def _find_experts(layout: QuantizationLayout, tensors: TensorIndex, stacks: Stacks) -> dict[str, QuantizedExperts]:
    """Return the weights of experts that are quantized."""
    found = {}
    for weight, (experts, sources) in stacks.items():
        modules = tuple(source.removesuffix(".weight") for source in sources)
        forms = [layout.linears.get(module) for module in modules]
        form = forms[0]
        if not any(forms):
            continue
        odd = next((module for module, one in zip(modules, forms, strict=True) if one is None or one != form), None)
        if odd is not None or form is None:
            raise UnevenExpertsError(weight, odd or modules[0])
        sizes = [form.dimensions(tensors[source].shape) for source in sources]
        inputs = sizes[0][1]
        if form.block_size and inputs % form.block_size:
            raise PartialBlockError(modules[0], inputs, form.block_size)
        found[weight] = QuantizedExperts(
            weight=weight, modules=modules, form=form, experts=experts,
            outputs=sum(outputs for outputs, _ in sizes) // experts, inputs=inputs,
        )  # fmt: skip
    return found


def _cache_scales(
    tensors: TensorIndex, caches: Collection[str], layer_of: Callable[[str], int | None]
) -> dict[str, str]:
    """Return the scale of each cache."""
    known = {
        (layer_of(name), part): name
        for name in tensors
        for part, ending in CACHE_SCALES.items()
        if name.endswith("." + ending)
    }
    parts = {name: _CACHE.fullmatch(name) for name in caches}
    found = {name: known.get((int(part[1]), part[2])) if part else None for name, part in parts.items()}
    missing = [name for name, scale in found.items() if scale is None]
    if missing:
        raise NotInGraphError("cache(s)", missing, "caches with a k_scale or v_scale in the checkpoint")
    return {name: scale for name, scale in found.items() if scale is not None}
