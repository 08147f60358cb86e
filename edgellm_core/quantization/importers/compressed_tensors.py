"""compressed-tensors, the format of LLM Compressor (compressed-tensors 0.12, ``compressors/quantized_compressors``).

For a layer ``[out, in]`` in ``n`` groups of inputs:

``pack-quantized``: ``weight_packed`` I32 ``[out, in / 8]``, eight inputs an integer, each eight more than its signed
number; ``weight_scale`` ``[out, n]``; ``weight_shape`` I64 ``[2]``; if asymmetric, ``weight_zero_point`` I32
``[out / 8, n]`` packed along the outputs; with act-order ``weight_g_idx`` I32 ``[in]``.
weight = (number - zero) · scale.

``float-quantized``: ``weight`` F8_E4M3, ``weight_scale`` ``[1]`` or ``[out, 1]``, ``input_scale`` ``[1]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.quantization.importers.four_bits import (
    ALGORITHM,
    MIDDLE,
    FourBitLayer,
    input_order,
    unpack_columns,
    unpack_rows,
)
from edgellm_core.quantization.importers.source import FLOATS, ForeignCheckpoint, Imported, NewTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

PACKED: Final = "weight_packed"
PACKED_PARTS: Final = (PACKED, "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
FP8_PARTS: Final = ("weight", "weight_scale", "weight_zero_point", "input_scale")
FP8_FORMATS: Final = ("float-quantized", "naive-quantized")
UNKNOWN_SECTIONS: Final = ("sparsity_config", "transform_config")
"""Sections of the settings that change the math; empty where they are not used."""

CACHE_SCALES: Final = {
    ".self_attn.k_scale": ".self_attn.k_proj.k_scale",
    ".self_attn.v_scale": ".self_attn.v_proj.v_scale",
}
"""End of the name of a cache's scale → the same in ModelOpt's form."""


def import_compressed_tensors(source: ForeignCheckpoint) -> Imported:
    """Return the layers of a checkpoint.

    Raises:
        UnsupportedQuantizationError: a scheme that can't be represented.
        QuantizedTensorMismatchError: a tensor is missing or malformed.
    """
    _refuse_unknown(source)
    packed = [name.removesuffix(f".{PACKED}") for name in source.tensors if name.endswith(f".{PACKED}")]
    rounded = [
        name.removesuffix(".weight")
        for name, entry in source.tensors.items()
        if name.endswith(".weight") and entry.element_type == "F8_E4M3"
    ]
    caches = _cache_scales(source)
    return Imported(
        layers={
            **{module: _packed_layer(source, module) for module in packed},
            **{module: _fp8_layer(source, module) for module in rounded},
        },
        algorithms=dict.fromkeys(packed, ALGORITHM) | dict.fromkeys(rounded, "FP8"),
        replaced=_names(packed, PACKED_PARTS) | _names(rounded, FP8_PARTS) | set(caches),
        others={new: _copy(source, old, ()) for old, new in caches.items()},
        kv_cache="FP8" if caches else None,
        producer=f"compressed-tensors {source.settings.get('version', '')}".strip(),
    )


def _names(modules: Iterable[str], parts: Iterable[str]) -> frozenset[str]:
    return frozenset(f"{module}.{part}" for module in modules for part in parts)


def _refuse_unknown(source: ForeignCheckpoint) -> None:
    """Refuse settings that can't be represented, by name."""
    settings = source.settings
    for section in UNKNOWN_SECTIONS:
        if settings.get(section):
            source.refuse(f"compressed-tensors with {section}")
    for group in settings.get("config_groups", {}).values():
        _refuse_group(source, group, group.get("format") or settings.get("format"))


def _refuse_group(source: ForeignCheckpoint, group: Mapping[str, Any], layout: Any) -> None:
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    if group.get("output_activations"):
        source.refuse("compressed-tensors with rounded outputs")
    kind = f"{weights.get('num_bits')}-bit {weights.get('type')} weights by {weights.get('strategy')}"
    by_channel, by_group = ("tensor", "channel"), ("group", "channel")
    if layout == "pack-quantized" and (weights.get("num_bits"), weights.get("type")) == (4, "int"):
        if inputs or weights.get("strategy") not in by_group:
            source.refuse(f"compressed-tensors {layout} with {kind}" + (" and rounded inputs" if inputs else ""))
    elif layout in FP8_FORMATS and (weights.get("num_bits"), weights.get("type")) == (8, "float"):
        if weights.get("strategy") not in by_channel:
            source.refuse(f"compressed-tensors {layout} with {kind}")
        static = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
        if not inputs or any(inputs.get(key) != value for key, value in static.items()):
            source.refuse(f"compressed-tensors {layout} with {_described(inputs)}")
    else:
        source.refuse(f"compressed-tensors {layout} with {kind}")


def _described(inputs: Mapping[str, Any] | None) -> str:
    if not inputs:
        return "inputs that are not rounded"
    how = "dynamically" if inputs.get("dynamic") else "statically"
    return f"inputs rounded {how} by {inputs.get('strategy')}"


def _packed_layer(source: ForeignCheckpoint, module: str) -> dict[str, NewTensor]:
    packed = source.require(f"{module}.{PACKED}", ("I32",), 2)
    scales = source.require(f"{module}.weight_scale", FLOATS, 2)
    stated = source.read(source.require(f"{module}.weight_shape", ("I64", "I32"), 1).name)
    outputs, inputs = (int(size) for size in stated)
    groups = scales.shape[1]
    source.require_shape(packed, (outputs, inputs // 8))
    source.require_shape(scales, (outputs, groups))
    if inputs % 8 or outputs % 2:
        source.refuse(f"the size [{outputs}, {inputs}] of {module!r}")
    return FourBitLayer(
        outputs=outputs,
        inputs=inputs,
        codes=lambda: unpack_columns(source.read(packed.name)),
        zeros=_zeros(source, module, outputs, groups),
        scale_type=scales.element_type,
        scales=lambda: source.read(scales.name),
        order=input_order(source, f"{module}.weight_g_idx", module=module, inputs=inputs, groups=groups),
    ).tensors()


def _zeros(source: ForeignCheckpoint, module: str, outputs: int, groups: int) -> NDArray[np.uint8]:
    """Return the zero point of each group ``[out, n]``; numbers and zero points have the same offset of eight."""
    name = f"{module}.weight_zero_point"
    if name not in source.tensors:
        return np.full((outputs, groups), MIDDLE, np.uint8)
    source.require_shape(source.require(name, ("I32",), 2), (-(-outputs // 8), groups))
    return np.ascontiguousarray(unpack_rows(source.read(name))[:outputs])


def _fp8_layer(source: ForeignCheckpoint, module: str) -> dict[str, NewTensor]:
    weight = source.require(f"{module}.weight", ("F8_E4M3",), 2)
    scale = source.tensors.get(f"{module}.weight_scale")
    zeros = f"{module}.weight_zero_point"
    if zeros in source.tensors and source.read(zeros).any():
        source.refuse(f"zero points of the FP8 weight of {module!r}")
    by_channel = scale is not None and tuple(scale.shape) == (weight.shape[0], 1) and weight.shape[0] > 1
    return {
        "weight": _copy(source, weight.name, tuple(weight.shape)),
        "weight_scale": _copy(source, f"{module}.weight_scale", (weight.shape[0],) if by_channel else ()),
        "input_scale": _copy(source, f"{module}.input_scale", ()),
    }


def _copy(source: ForeignCheckpoint, name: str, shape: tuple[int, ...]) -> NewTensor:
    """Return a tensor as it is, under another shape of as many elements."""
    entry = source.tensors.get(name)
    if entry is None:
        entry = source.require(name, FLOATS, 1)
    if int(np.prod(entry.shape)) != int(np.prod(shape)):
        source.require_shape(entry, shape)
    return NewTensor(element_type=entry.element_type, shape=shape, make=lambda: source.read(name))


def _cache_scales(source: ForeignCheckpoint) -> dict[str, str]:
    """Return the scales of caches in fp8 by their old names, with their new ones."""
    scheme = source.settings.get("kv_cache_scheme")
    if not scheme:
        return {}
    wanted = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
    if any(scheme.get(key) != value for key, value in wanted.items()):
        kind = f"{scheme.get('num_bits')}-bit {scheme.get('type')} by {scheme.get('strategy')}"
        source.refuse(f"compressed-tensors with a KV cache in {kind}")
    return {
        name: name.removesuffix(old) + new
        for name in source.tensors
        for old, new in CACHE_SCALES.items()
        if name.endswith(old)
    }
