"""Finds, in a graph, where inputs of quantized layers, keys and values have been rounded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from edgellm_core.runtime.paged.attention_function import ROUNDED
from edgellm_core.runtime.paged.session import EMBEDDED, EMBEDS, PRESENT, ROPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx

    from edgellm_core.quantization.layout import QuantizationLayout

WEIGHT_STEPS: Final = frozenset(
    {"DequantizeLinear", "TRT_MXFP8DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity"}
)
"""Operators between a stored weight and the product."""

PRODUCTS: Final = frozenset({"MatMul", "Gemm"})

KV_SCALE: Final = re.compile(r".*\.(?P<layer>\d+)\.\w+\.(?P<kind>[kv])_proj\.(?P=kind)_scale")
"""Name of the scale of a layer's keys or values, as ModelOpt writes it."""


def rounding_points(model: onnx.ModelProto, layout: QuantizationLayout, tensors: Iterable[str]) -> dict[str, str]:
    """Return the tensor with the rounded numbers for each place.

    A place is the module of a layer, the name of a scale of the cache, or ``inputs_embeds``, rows of a table whose
    numbers were rounded after a factor was folded into them. Places that the graph lacks or shares are left out.

    Args:
        model: the graph.
        layout: what of the original is quantized.
        tensors: names of the tensors of the original.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    found = {}
    for module, form in layout.linears.items():
        product = _product(f"{module}.weight", consumers) if form.input != "none" else None
        if product is not None:
            found[module] = product.input[0]
    if any(value.name == EMBEDS for value in model.graph.input) and not embeds_are_made(model):
        found[EMBEDS] = EMBEDDED
    if layout.kv_cache is not None:
        plugins = _rounded_by_plugins(model)
        for match in filter(None, map(KV_SCALE.fullmatch, tensors)):
            name, place = match[0], (int(match["layer"]), match["kind"])
            rounded = _rounded_new(consumers.get(name, ()), consumers) or plugins.get(place)
            if rounded is not None:
                found[name] = rounded
    return found


def embeds_are_made(model: onnx.ModelProto) -> bool:
    """Say whether nodes make the input of the first layer of what is passed in."""
    return any(EMBEDDED in node.output for node in model.graph.node)


def key_order(model: onnx.ModelProto) -> list[int]:
    """Return where a plugin holds each channel of a key whose RoPE turns neighbours; nothing without plugins.

    It only turns halves, so the rows of such projections lie in another order in the graph.
    """
    sizes = [item.i for node in _plugins(model) for item in node.attribute if item.name == "head_size"]
    widths = [value.type.tensor_type.shape.dim[1].dim_value for value in model.graph.input if value.name == ROPE]
    if not sizes or not widths:
        return []
    [width] = widths
    return [*(channel // 2 + channel % 2 * (width // 2) for channel in range(width)), *range(width, sizes[0])]


def _plugins(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "AttentionPlugin"]


def _product(weight: str, consumers: Mapping[str, list[onnx.NodeProto]]) -> onnx.NodeProto | None:
    """Return the operator that multiplies by a stored weight; None where several do, or another one reads it."""
    name = weight
    while len(consumers.get(name, ())) == 1:
        node = consumers[name][0]
        if node.op_type in PRODUCTS:
            return node
        if node.op_type not in WEIGHT_STEPS:
            return None
        name = node.output[0]
    return None


def _rounded_by_plugins(model: onnx.ModelProto) -> dict[tuple[int, str], str]:
    """Return what plugins round new keys (``k``) and values (``v``) to, by layer; see ``paged/functions.py``."""
    found: dict[tuple[int, str], str] = {}
    for node in _plugins(model):
        if any(item.name == "enable_fp8_kv_cache" and item.i for item in node.attribute):
            present = node.output[1]
            layer = int(present.removeprefix(PRESENT))
            found |= {(layer, name[0]): f"{present}.{name}" for name in ROUNDED}
    return found


def _rounded_new(nodes: Sequence[onnx.NodeProto], consumers: Mapping[str, list[onnx.NodeProto]]) -> str | None:
    """Return what the first rounding with a scale of the cache gives: that of the new keys or values."""
    for node in nodes:
        following = consumers.get(node.output[0], ())
        if node.op_type == "QuantizeLinear" and len(following) == 1 and following[0].op_type == "DequantizeLinear":
            return str(following[0].output[0])
    return None
