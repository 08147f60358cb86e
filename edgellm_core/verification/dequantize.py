"""Turns the stored weight of a quantized linear layer back into numbers, written out from the definitions of each form.

Nothing of the binder or of the graph takes part. ``quantization/formats.py`` says how each form lies on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.quantization.formats import LinearFormat

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of FLOAT4E2M1 by their three low bits; the fourth is the sign (OCP MX 1.0, table 5)."""

E8M0_BIAS: Final = 127
"""A scale E8M0 is two to its byte minus this (OCP MX 1.0, table 7)."""


def dequantize(form: LinearFormat, stored: Mapping[str, torch.Tensor], scale_type: torch.dtype) -> torch.Tensor:
    """Return the weight of a layer, float32 [out, in].

    Args:
        form: how it is stored.
        stored: its tensors by suffix: ``weight``, ``weight_scale``, …
        scale_type: type of the graph's scales; scales that are stored as floats are rounded to it.
    """
    weight = _numbers(form, stored["weight"])
    if form.weight == "uint4":
        weight -= _along_blocks(stored["weight_zero_point"].float(), weight)
    scale = _scale(form, stored, scale_type)
    if form.granularity == "tensor":
        return weight.mul_(scale.reshape(()))
    if form.granularity == "channel":
        return weight.mul_(scale.reshape(-1, 1))
    return weight.mul_(_along_blocks(scale, weight))


def rounded(value: torch.Tensor, scale_type: torch.dtype) -> torch.Tensor:
    """Return float32 numbers that ``scale_type`` holds."""
    return value.to(scale_type).float()


def _numbers(form: LinearFormat, weight: torch.Tensor) -> torch.Tensor:
    """Return what is stored as float32 [out, in], before any scale."""
    if form.weight in ("int4", "uint4"):
        halves = torch.stack((weight & 15, weight >> 4), dim=1).reshape(-1, weight.shape[1])
        numbers = halves.float()
        return numbers if form.weight == "uint4" else torch.where(numbers > 7, numbers - 16, numbers)
    if form.weight == "nvfp4":
        table = torch.tensor((*E2M1, *(-value for value in E2M1)))
        return table[torch.stack((weight & 15, weight >> 4), dim=2).reshape(len(weight), -1).int()]
    return weight.float()


def _scale(form: LinearFormat, stored: Mapping[str, torch.Tensor], scale_type: torch.dtype) -> torch.Tensor:
    scale = stored["weight_scale"]
    if form.weight == "nvfp4":
        return scale.float() * stored["weight_scale_2"].float()
    if form.weight == "mxfp8":
        return torch.exp2(scale.float() - E8M0_BIAS)
    return rounded(scale, scale_type)


def _along_blocks(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Repeat values ``[out, in / block]`` to ``[out, in]``."""
    return values.repeat_interleave(weight.shape[1] // values.shape[1], dim=1)
