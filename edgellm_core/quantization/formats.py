"""How a quantized linear layer lies on disk: one ``LinearFormat`` for each algorithm of ModelOpt's unified checkpoint.

Names, element types and packing are those that ``modelopt.torch.export.export_hf_checkpoint`` writes (0.47,
``export/quant_utils.py``, ``to_quantized_weight``). For a layer ``[out, in]`` in blocks of ``block`` inputs:

=================  =======================================================================================
``weight``         fp8, mxfp8: F8_E4M3 ``[out, in]``; int8: I8 ``[out, in]``;
                   int4: U8 ``[out / 2, in]``, the low four bits hold the even output, two's complement;
                   uint4: like int4, without a sign;
                   nvfp4: U8 ``[out, in / 2]`` of E2M1, the low four bits hold the even input
``weight_scale``   weight = stored · scale: F32 ``[]``, ``[out]`` or ``[out, in / block]``; nvfp4: F8_E4M3, which
                   ``weight_scale_2`` multiplies; mxfp8: U8, the exponent of 2 plus 127 (E8M0, OCP MX 1.0)
``weight_scale_2`` nvfp4: F32 ``[]``
``weight_zero_point``  uint4: U8 ``[out, in / block]``, subtracted from what is stored, before the scale
``input_scale``    F32 ``[]``: fp8, int8: input ≈ scale · rounded; nvfp4: second-level scale of the input's blocks
``pre_quant_scale``    F32, F16 or BF16 ``[in]``: multiplies the input before it is rounded
``input_order``    I64 ``[in]``: which input each column of the weight belongs to (GPTQ with act-order; not ModelOpt)
=================  =======================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

WeightKind = Literal["fp8", "int8", "int4", "uint4", "nvfp4", "mxfp8"]
Granularity = Literal["tensor", "channel", "block"]
InputRounding = Literal["none", "static", "dynamic"]

LARGEST_E4M3: Final = 448.0
"""Largest finite FLOAT8E4M3FN (OCP OFP8 1.0)."""

LARGEST_INT4: Final = 7.0
"""Weights are divided by amax / 7 and clamped to [-8, 7] (ModelOpt 0.47, ``pack_int4_in_uint8``)."""

LARGEST_E2M1: Final = 6.0
"""Largest FLOAT4E2M1 (OCP MX 1.0)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearFormat:
    """How the weight of one linear layer is stored, and how its input is rounded.

    Attributes:
        weight: kind of number that the weight is rounded to.
        granularity: what shares one scale: the whole tensor, an output channel, or a block of inputs of one.
        block_size: inputs in a block; 0 without blocks.
        input: ``none`` for weight-only; ``static`` with one calibrated scale; ``dynamic`` with scales from the input
            itself (nvfp4: E4M3 scales of blocks under the calibrated ``input_scale``; mxfp8: powers of 2).
        smoothed: ``pre_quant_scale`` multiplies the input.
        ordered: ``input_order`` reorders the input.
    """

    weight: WeightKind
    granularity: Granularity
    block_size: int = 0
    input: InputRounding = "none"
    smoothed: bool = False
    ordered: bool = False

    def dimensions(self, stored: tuple[int, ...]) -> tuple[int, int]:
        """Return ``(outputs, inputs)`` of a layer whose stored weight has this shape ``[rows, columns]``."""
        rows, columns = stored
        return rows * (2 if self.weight in ("int4", "uint4") else 1), columns * (2 if self.weight == "nvfp4" else 1)

    def tensors(self, outputs: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return each tensor of a layer ``[outputs, inputs]`` by its suffix: element type (safetensors) and shape."""
        blocks = (outputs, inputs // self.block_size) if self.block_size else ()
        shapes: dict[Granularity, tuple[int, ...]] = {"tensor": (), "channel": (outputs,), "block": blocks}
        found: dict[str, tuple[str, tuple[int, ...]]] = {
            "weight": self._stored(outputs, inputs),
            "weight_scale": (_SCALE_TYPES.get(self.weight, "F32"), shapes[self.granularity]),
        }
        if self.weight == "nvfp4":
            found["weight_scale_2"] = ("F32", ())
        if self.weight == "uint4":
            found["weight_zero_point"] = ("U8", blocks)
        if self.input == "static" or (self.weight == "nvfp4" and self.input == "dynamic"):
            found["input_scale"] = ("F32", ())
        if self.smoothed:
            found["pre_quant_scale"] = ("F32", (inputs,))
        if self.ordered:
            found["input_order"] = ("I64", (inputs,))
        return found

    def _stored(self, outputs: int, inputs: int) -> tuple[str, tuple[int, ...]]:
        if self.weight in ("int4", "uint4"):
            return "U8", (outputs // 2, inputs)
        if self.weight == "nvfp4":
            return "U8", (outputs, inputs // 2)
        return "I8" if self.weight == "int8" else "F8_E4M3", (outputs, inputs)


_SCALE_TYPES: Final = {"nvfp4": "F8_E4M3", "mxfp8": "U8"}

FP8: Final = LinearFormat(weight="fp8", granularity="tensor", input="static")
INT8_SQ: Final = LinearFormat(weight="int8", granularity="channel", input="static")
INT4: Final = LinearFormat(weight="int4", granularity="block", block_size=128)
NVFP4: Final = LinearFormat(weight="nvfp4", granularity="block", block_size=16, input="dynamic")
MXFP8: Final = LinearFormat(weight="mxfp8", granularity="block", block_size=32, input="dynamic")

ALGORITHMS: Final[Mapping[str, LinearFormat]] = MappingProxyType(
    {
        "FP8": FP8,
        "W8A8_SQ_PER_CHANNEL": INT8_SQ,
        "W4A16_AWQ": INT4,
        "NVFP4": NVFP4,
        "W4A16_NVFP4": replace(NVFP4, input="none"),
        "MXFP8": MXFP8,
    }
)
"""``quant_algo`` of hf_quant_config.json → the form it means (ModelOpt 0.47, ``process_layer_quant_config``)."""
