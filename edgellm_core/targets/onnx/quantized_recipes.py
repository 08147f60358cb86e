"""The initializers of quantized linear layers: how each is made from the checkpoint's tensor of the same name.

Scales get the element type of the graph, which ONNX Runtime and TensorRT ask for, and are rounded to it; those of nvfp4
stay float32, since float16 does not reach that low. A layer ``[out, in]`` in blocks of ``b`` inputs:

=====================  ================================================================================
``weight``             fp8, mxfp8 FLOAT8E4M3FN, int8 INT8, nvfp4 FLOAT4E2M1: ``[out, in]``;
                       int4 INT4, uint4 UINT4: ``[in, out]``, the order in which ModelOpt's pairs become ONNX's
``weight_scale``       ``[]``, ``[out]``; int4, uint4 ``[in / b, out]``;
                       nvfp4 FLOAT8E4M3FN, mxfp8 UINT8 (E8M0, the exponent of 2 plus 127): ``[out, in / b]``
``weight_scale_2``     nvfp4: float32 ``[]``
``weight_zero_point``  uint4: UINT4 ``[in / b, out]``
``input_scale``        ``[]``; nvfp4: float32
``pre_quant_scale``    ``[in]``
``input_order``        INT64 ``[in]``
=====================  ================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.weights.recipe import Recipe

if TYPE_CHECKING:
    from edgellm_core.quantization.formats import WeightKind
    from edgellm_core.quantization.model import QuantizedLinear

WEIGHT_TYPES: Final[dict[WeightKind, str]] = {
    "fp8": "F8_E4M3", "mxfp8": "F8_E4M3", "int8": "I8", "int4": "I4", "uint4": "U4", "nvfp4": "F4_E2M1",
}  # fmt: skip
"""Kind of weight → element type of its initializer."""

TURNED: Final = ("int4", "uint4")
"""Kinds whose initializers are ``[in, out]``."""

_OWN_SCALES: Final = {"nvfp4": "F8_E4M3", "mxfp8": "U8"}


def linear_recipes(linear: QuantizedLinear, element_type: str) -> dict[str, Recipe]:
    """Return the recipe of each initializer of a layer, by the suffix of its name.

    Args:
        linear: the layer.
        element_type: type of the graph, for example ``F16``.
    """
    kind = linear.form.weight
    scale_type = "F32" if kind == "nvfp4" else element_type
    types = {
        "weight": WEIGHT_TYPES[kind],
        "weight_scale": _OWN_SCALES.get(kind, element_type),
        "weight_scale_2": "F32",
        "weight_zero_point": "U4",
        "input_scale": scale_type,
        "pre_quant_scale": element_type,
        "input_order": "I64",
    }
    found = {}
    for suffix, (_stored, shape) in linear.form.tensors(linear.outputs, linear.inputs).items():
        turned = kind in TURNED and len(shape) == 2
        whole = (linear.outputs, linear.inputs) if suffix == "weight" else shape
        name = f"{linear.module}.{suffix}"
        found[suffix] = Recipe(
            name=name,
            element_type=types[suffix],
            shape=whole[::-1] if turned else whole,
            sources=(name,),
            transpose=turned,
            join=suffix == "weight_zero_point",
            positive=suffix == "input_scale",
        )
    return found
