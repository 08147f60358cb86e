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

from edgellm_core.quantization.importers.compressed_groups import (
    ORDERED,
    group_of,
    require_known,
    require_static_cache,
    require_unignored,
)
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
CACHE_SCALES: Final = {
    ".self_attn.k_scale": ".self_attn.k_proj.k_scale",
    ".self_attn.v_scale": ".self_attn.v_proj.v_scale",
}
"""End of the name of a cache's scale → the same in ModelOpt's form."""


def import_compressed_tensors(source: ForeignCheckpoint) -> Imported:
    """Return the layers of a checkpoint.

    Raises:
        UnsupportedQuantizationError: a scheme that can't be represented.
        ContradictoryQuantizationError: the settings and the tensors exclude each other.
        QuantizedTensorMismatchError: a tensor is missing or malformed.
    """
    require_known(source)
    packed = [name.removesuffix(f".{PACKED}") for name in source.tensors if name.endswith(f".{PACKED}")]
    rounded = [
        name.removesuffix(".weight")
        for name, entry in source.tensors.items()
        if name.endswith(".weight") and entry.element_type == "F8_E4M3"
    ]
    require_unignored(source, [*packed, *rounded])
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


def _packed_layer(source: ForeignCheckpoint, module: str) -> dict[str, NewTensor]:
    packed = source.require(f"{module}.{PACKED}", ("I32",), 2)
    scales = source.require(f"{module}.weight_scale", FLOATS, 2)
    stated = source.read(source.require(f"{module}.weight_shape", ("I64", "I32"), 1).name)
    if len(stated) != 2:
        source.require_shape(source.tensors[f"{module}.weight_shape"], (2,))
    outputs, inputs = (int(size) for size in stated)
    groups = scales.shape[1]
    source.require_shape(packed, (outputs, -(-inputs // 8)))
    source.require_shape(scales, (outputs, groups))
    if inputs % 8 or outputs % 2:
        source.refuse(f"the size [{outputs}, {inputs}] of {module!r}")
    weights = _weights_of(source, module, ("int", 4))
    source.require_groups(_group_size(weights), module, inputs=inputs, groups=groups)
    return FourBitLayer(
        outputs=outputs,
        inputs=inputs,
        codes=lambda: unpack_columns(source.read(packed.name)),
        zeros=_zeros(source, module, weights, outputs, groups),
        scale_type=scales.element_type,
        scales=lambda: source.read(scales.name),
        order=_order(source, module, weights, inputs, groups),
    ).tensors()


def _weights_of(source: ForeignCheckpoint, module: str, number: tuple[str, int]) -> Mapping[str, Any]:
    """Return the settings of a layer's weight, which must say the number that the weight is of."""
    weights: Mapping[str, Any] = group_of(source, module).get("weights") or {}
    said = weights.get("type"), weights.get("num_bits")
    if said != number:
        kind, found = "{1}-bit {0}".format(*said), "{1}-bit {0}".format(*number)
        source.contradict(f"config_groups says that {module!r} is {kind}, and its weight is {found}")
    return weights


def _group_size(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"group_size": -1} if weights.get("strategy") == "channel" else weights


def _order(
    source: ForeignCheckpoint, module: str, weights: Mapping[str, Any], inputs: int, groups: int
) -> NDArray[np.int64] | None:
    """Return the inputs sorted by group; an index of -1 alone means that they are, as the tool itself reads it."""
    name, order = f"{module}.weight_g_idx", weights.get("actorder")
    wanted = str(order).lower() in ORDERED
    if name not in source.tensors:
        if wanted:
            source.contradict(f"actorder is {order!r}, and {name!r}, which says the group of each input, is missing")
        return None
    if (source.read(name) == -1).all():
        return None
    found = input_order(source, name, module=module, inputs=inputs, groups=groups)
    if found is not None and not wanted:
        source.contradict(f"actorder is {order!r}, and {name!r} orders the inputs")
    return found


def _zeros(
    source: ForeignCheckpoint, module: str, weights: Mapping[str, Any], outputs: int, groups: int
) -> NDArray[np.uint8]:
    """Return the zero point of each group ``[out, n]``; numbers and zero points have the same offset of eight."""
    name, symmetric = f"{module}.weight_zero_point", source.flag(weights, "symmetric", default=True)
    if name not in source.tensors:
        if not symmetric:
            source.contradict(f"symmetric is false, and {name!r} is missing")
        return np.full((outputs, groups), MIDDLE, np.uint8)
    source.require_shape(source.require(name, ("I32",), 2), (-(-outputs // 8), groups))
    zeros = np.ascontiguousarray(unpack_rows(source.read(name))[:outputs])
    if symmetric and (zeros != MIDDLE).any():
        source.contradict(f"symmetric is true, and {name!r} holds other zero points than 0")
    return zeros


def _fp8_layer(source: ForeignCheckpoint, module: str) -> dict[str, NewTensor]:
    weight = source.require(f"{module}.weight", ("F8_E4M3",), 2)
    scale = source.tensors.get(f"{module}.weight_scale")
    zeros = f"{module}.weight_zero_point"
    if zeros in source.tensors and source.read(zeros).any():
        source.refuse(f"zero points of the FP8 weight of {module!r}")
    strategy = _weights_of(source, module, ("float", 8)).get("strategy")
    by_channel = scale is not None and tuple(scale.shape) == (weight.shape[0], 1) and weight.shape[0] > 1
    if by_channel != (strategy == "channel") and weight.shape[0] > 1:
        source.contradict(
            f"strategy is {strategy!r}, and the scales of {module!r} are {list(scale.shape) if scale else 'missing'}"
        )
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
    found = {
        name: name.removesuffix(old) + new
        for name in source.tensors
        for old, new in CACHE_SCALES.items()
        if name.endswith(old)
    }
    rounded = require_static_cache(source)
    if rounded and not found:
        source.contradict("kv_cache_scheme rounds the KV cache, and no layer has k_scale and v_scale")
    if found and not rounded:
        source.contradict(f"no kv_cache_scheme rounds the KV cache, and there is {next(iter(found))!r}")
    return found
