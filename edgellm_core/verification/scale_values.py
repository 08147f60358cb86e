"""Whether the scales of a quantized checkpoint are scales: finite, above zero, or zero where nothing is scaled.

Tools make scales from magnitudes, so anything else was damaged. The original would be dequantized with the same values,
so the comparison of the graph with it would not show them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from edgellm_core.verification.dequantize import dequantize
from edgellm_core.verification.errors import ScaleValueError
from edgellm_core.verification.quantized_weights import KV_SCALES, StoredTensors

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.quantization.formats import LinearFormat
    from edgellm_core.quantization.layout import QuantizationLayout

SINGLE: Final = ("input_scale", "weight_scale_2", "pre_quant_scale")
"""Suffixes of the scales of a layer that may never be zero."""

E8M0_NAN: Final = 255


def require_scales(directory: Path, layout: QuantizationLayout, tensors: TensorIndex) -> None:
    """Refuse scales that no tool writes.

    Args:
        directory: the checkpoint, for the message.
        layout: what is quantized.
        tensors: all tensors; only scales are read, and the weights of layers with a scale of zero.

    Raises:
        ScaleValueError: naming the tensor and the value.
    """
    stored = StoredTensors(tensors)
    for name in tensors:
        module, _, suffix = name.rpartition(".")
        form = layout.linears.get(module)
        if suffix in KV_SCALES or (form is not None and suffix in SINGLE):
            _require_positive(directory, name, stored.read(name).float(), zero=False)
        elif form is not None and suffix == "weight_scale":
            _require_weight_scale(directory, name, form, stored)


def _require_positive(directory: Path, name: str, scale: torch.Tensor, *, zero: bool) -> None:
    wrong = ~((scale >= 0 if zero else scale > 0) & scale.isfinite())
    if wrong.any():
        raise ScaleValueError(directory, name, float(scale[wrong].flatten()[0]))


def _require_weight_scale(directory: Path, name: str, form: LinearFormat, stored: StoredTensors) -> None:
    scale = stored.read(name)
    if form.weight == "mxfp8":
        if (scale == E8M0_NAN).any():
            raise ScaleValueError(directory, name, float("nan"))
        return
    _require_positive(directory, name, scale.float(), zero=True)
    empty = scale.float() == 0
    if not empty.any():
        return
    parts = stored.of_linear(name.removesuffix(".weight_scale"), form, weight=True)
    parts["weight_scale"] = empty.to(torch.float32)  # one where the scale is zero: shows the numbers under it
    if dequantize(form, parts, torch.float32).any():
        raise ScaleValueError(directory, name, 0.0)
