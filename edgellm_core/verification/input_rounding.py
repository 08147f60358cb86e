"""Rounds inputs of quantized linear layers, keys and values as the quantized model does.

Static scales: ModelOpt's own ``TensorQuantizer``. Blocks with scales from the input itself: written out in float64,
since ModelOpt computes those on a GPU only.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.quantization.formats import LARGEST_E2M1, LARGEST_E4M3
from edgellm_core.verification.dequantize import E2M1, rounded
from edgellm_core.verification.errors import RoundingReferenceMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgellm_core.quantization.formats import LinearFormat

    Rounding = Callable[[torch.Tensor], torch.Tensor]

LARGEST_INT8: Final = 127.0
"""ModelOpt derives int8 scales from it (``TensorQuantizer.maxbound``)."""

SMALLEST_E4M3: Final = 2.0**-9
"""Smallest positive FLOAT8E4M3FN: a block's scale never becomes zero (ModelOpt, ``_cast_per_block_scale_to_fp8``)."""

E8M0_EXPONENTS: Final = (-127, 127)
"""Exponents of a scale E8M0 (OCP MX 1.0, table 7)."""


def input_transform(form: LinearFormat, stored: Mapping[str, torch.Tensor], scale_type: torch.dtype) -> Rounding | None:
    """Return what happens to the input of a layer before its weight multiplies it; None for nothing.

    Args:
        form: how the layer is stored.
        stored: its tensors by suffix.
        scale_type: type of the graph's scales; scales that are stored as floats are rounded to it.
    """
    order = stored.get("input_order")
    factors = rounded(stored["pre_quant_scale"], scale_type) if form.smoothed else None
    rounding = _rounding(form, stored, scale_type)
    if order is None and factors is None and rounding is None:
        return None

    def transform(value: torch.Tensor) -> torch.Tensor:
        if factors is not None:
            value = value * factors
        if order is not None:
            value = value.index_select(-1, order)
        return value if rounding is None else rounding(value)

    return transform


def _rounding(form: LinearFormat, stored: Mapping[str, torch.Tensor], scale_type: torch.dtype) -> Rounding | None:
    if form.input == "none":
        return None
    if form.weight == "mxfp8":
        return lambda value: round_mxfp8(value, form.block_size)
    scale = stored["input_scale"].float().reshape(())
    if form.weight == "nvfp4":
        return lambda value: round_nvfp4(value, float(scale), form.block_size)
    return static_rounding(form.weight == "fp8", rounded(scale, scale_type))


def static_rounding(fp8: bool, scale: torch.Tensor) -> Rounding:
    """Return ModelOpt's rounding to E4M3 or int8 with one scale.

    Raises:
        RoundingReferenceMissingError: ModelOpt is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about extensions that only a GPU needs
            from modelopt.torch.quantization.config import QuantizerAttributeConfig
            from modelopt.torch.quantization.nn import TensorQuantizer
    except ImportError as error:
        raise RoundingReferenceMissingError from error
    quantizer: Any = TensorQuantizer(QuantizerAttributeConfig(num_bits=(4, 3) if fp8 else 8, axis=None))
    quantizer.amax = scale * (LARGEST_E4M3 if fp8 else LARGEST_INT8)

    def rounding(value: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = quantizer(value)
        return result

    return rounding


def round_nvfp4(value: torch.Tensor, global_scale: float, block_size: int) -> torch.Tensor:
    """Round blocks of the last axis to E2M1 under E4M3 scales (TensorRT, *Dynamic Double Quantization*).

    block scale = E4M3(largest / 6 / global scale), rounded = E2M1(x / (block scale · global scale)), both to nearest
    even.
    """
    blocks = value.double().reshape(*value.shape[:-1], -1, block_size)
    wanted = blocks.abs().amax(-1, keepdim=True) / LARGEST_E2M1 / global_scale
    scale = round_e4m3(wanted.clamp(SMALLEST_E4M3, LARGEST_E4M3)) * global_scale
    return (round_e2m1(blocks / scale) * scale).flatten(-2).float()


def round_mxfp8(value: torch.Tensor, block_size: int) -> torch.Tensor:
    """Round blocks of the last axis to E4M3 under powers of two.

    The exponent is the least with which the largest of the block does not exceed E4M3: NVIDIA's rounding up (cuDNN,
    *Block Scale Quantize*; ModelOpt, ``MXFP8QTensor``), where OCP MX 1.0 only suggests a scale that may saturate.
    """
    blocks = value.double().reshape(*value.shape[:-1], -1, block_size)
    largest = blocks.abs().amax(-1, keepdim=True) / LARGEST_E4M3
    mantissa, exponent = torch.frexp(largest)  # largest = mantissa · 2^exponent, mantissa in [0.5, 1)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    exponent = torch.where(largest == 0, torch.full_like(exponent, E8M0_EXPONENTS[0]), exponent)
    scale = torch.exp2(exponent.clamp(*E8M0_EXPONENTS).double())
    return (round_e4m3(blocks / scale) * scale).flatten(-2).float()


def round_e4m3(value: torch.Tensor) -> torch.Tensor:
    """Round float64 to the nearest FLOAT8E4M3FN, ties to even, clipped to the largest (OCP OFP8 1.0)."""
    _, exponent = torch.frexp(value)  # |value| in [2^(exponent - 1), 2^exponent)
    step = torch.exp2((exponent.double() - 1).clamp(min=-6) - 3)  # three bits of mantissa; subnormal below 2^-6
    return (torch.round(value / step) * step).clamp(-LARGEST_E4M3, LARGEST_E4M3)


def round_e2m1(value: torch.Tensor) -> torch.Tensor:
    """Round float64 to the nearest FLOAT4E2M1, ties to the even mantissa, clipped to the largest (OCP MX 1.0)."""
    _, exponent = torch.frexp(value)
    step = torch.exp2((exponent.double() - 1).clamp(min=0) - 1)  # one bit of mantissa; subnormal below 1
    return (torch.round(value / step) * step).clamp(-E2M1[-1], E2M1[-1])
