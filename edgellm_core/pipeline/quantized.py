"""Quantized checkpoints in the stages of an export: which tensors they add, and which layers of the graph have them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgellm_core.quantization.layout import read_layout
from edgellm_core.quantization.model import (
    CACHE_SCALES,
    QUERY_SCALE,
    QuantizedLinear,
    QuantizedModel,
    find_quantized,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.contract import GraphDimensions
    from edgellm_core.quantization.layout import QuantizationLayout
    from edgellm_core.quantization.model import Stacks
    from edgellm_core.tracing.template import Template


def layout_of(checkpoint: Checkpoint) -> QuantizationLayout | None:
    """Return what of a checkpoint is quantized; None for an unquantized one.

    Raises:
        UnsupportedQuantizationError: in a way that can't be represented.
        MalformedQuantizationError: the description lacks something.
        QuantizedTensorMismatchError: a tensor is not what its format says.
    """
    return read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors)


def plain_names(tensors: TensorIndex, layout: QuantizationLayout | None) -> list[str]:
    """Return the names that the tensors of the unquantized model would have."""
    if layout is None:
        return list(tensors)
    added = {name for linear in _linears(tensors, layout) for name in linear.tensors() if not name.endswith(".weight")}
    endings = tuple(f".{ending}" for ending in (*CACHE_SCALES.values(), QUERY_SCALE)) if layout.kv_cache else ()
    return [name for name in tensors if name not in added and not name.endswith(endings or "\0")]


def quantized_model(graph: Any, template: Template, checkpoint: Checkpoint, element_type: str) -> QuantizedModel:
    """Find what of a stamped graph is quantized.

    Args:
        graph: ``onnx_graphsurgeon.Graph`` in semantic operators.
        template: what it was stamped from.
        checkpoint: the checkpoint.
        element_type: type of the graph, for example ``F16``.

    Raises:
        UserError: the layout does not fit the checkpoint or the graph; one class per cause.
    """
    from edgellm_core.surgery.rule import semantic
    from edgellm_core.tracing.template import LayerNaming

    layout = layout_of(checkpoint)
    if layout is not None:
        kept = {name: form for name, form in layout.linears.items() if f"{name}.weight" not in template.left_out}
        layout = replace(layout, linears=kept)
    if layout is None:
        return QuantizedModel(element_type=element_type)
    calls: dict[str, int] = {}
    stacks: Stacks = {}
    for node in graph.nodes:
        if semantic(node, "Linear"):
            calls[node.inputs[1].name] = calls.get(node.inputs[1].name, 0) + 1
        elif semantic(node, "Experts"):
            stacks |= {
                weight.name: (int(weight.shape[0]), template.sources.get(weight.name, (weight.name,)))
                for weight in node.inputs[3:]
            }
    names = _parameter_names(template, plain_names(checkpoint.tensors, layout))
    return find_quantized(
        layout,
        checkpoint.tensors,
        element_type=element_type,
        calls=calls,
        stacks=stacks,
        caches=[node.inputs[0].name for node in graph.nodes if semantic(node, "Append")],
        parameter_of=lambda name: names.get(name, name),
        layer_of=LayerNaming(template.layers).layer,
    )


def remaining_dimensions(dimensions: GraphDimensions, quantized: QuantizedModel) -> GraphDimensions:
    """Return what the graph contains besides what is quantized."""
    return replace(
        dimensions,
        linears=max(0, dimensions.linears - quantized.calls),
        appends=dimensions.appends - len(quantized.caches),
    )


def _parameter_names(template: Template, tensors: Collection[str]) -> Mapping[str, str]:
    """Return the parameter that each tensor of the unquantized model is, by the tensor's name."""
    alone = {parts[0]: name for name, parts in template.sources.items() if len(parts) == 1}
    named = {name: alone.get(name, name) for name in tensors}
    return {tensor: template.tied.get(name, name) for tensor, name in named.items()}


def _linears(tensors: TensorIndex, layout: QuantizationLayout) -> list[QuantizedLinear]:
    """Return the layers of a layout without their place in a graph."""
    found = []
    for module, form in layout.linears.items():
        outputs, inputs = form.dimensions(tensors[f"{module}.weight"].shape)
        found.append(QuantizedLinear(module=module, weight=module, form=form, outputs=outputs, inputs=inputs))
    return found
