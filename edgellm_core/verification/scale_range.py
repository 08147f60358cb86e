"""Whether the type of the graph holds the scales of a quantized checkpoint.

The original's scales are rounded as the graph's, so the comparison would not show what that costs. float16 keeps eleven
bits down to 6.1e-5 and fewer below: a weight scale of 1e-6 loses 3 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from edgellm_core.verification.dequantize import dequantize, rounded
from edgellm_core.verification.errors import ScaleRangeError
from edgellm_core.verification.quantized_weights import KV_SCALES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgellm_core.quantization.formats import LinearFormat
    from edgellm_core.quantization.layout import QuantizationLayout
    from edgellm_core.verification.quantized_weights import StoredTensors

LARGEST_CHANGE: Final = 2.0**-10
"""Relative change of a scale, or of a weight in the Euclidean norm: twice what rounding to eleven bits may change."""


def require_scales_that_fit(layout: QuantizationLayout, stored: StoredTensors, names: Iterable[str]) -> None:
    """Refuse float16 for scales that it does not hold.

    Args:
        layout: what is quantized.
        stored: the checkpoint.
        names: tensors of the layers that are compared.

    Raises:
        ScaleRangeError: rounding a scale changes more than rounding explains.
    """
    for name in names:
        module, _, suffix = name.rpartition(".")
        form = layout.linears.get(module)
        if suffix in KV_SCALES or (suffix in ("input_scale", "pre_quant_scale") and form and form.weight != "nvfp4"):
            change = _change(stored.read(name).float())
        elif suffix == "weight_scale" and form and form.weight not in ("nvfp4", "mxfp8"):
            change = _change_of_weight(module, form, stored)
        else:
            continue
        if change > LARGEST_CHANGE:
            raise ScaleRangeError(name, change)


def _change(scale: torch.Tensor) -> float:
    return float((rounded(scale, torch.float16) - scale).norm() / scale.norm())


def _change_of_weight(module: str, form: LinearFormat, stored: StoredTensors) -> float:
    """Return what rounding the scales changes; small scales of small weights hardly count."""
    scale = stored.read(f"{module}.weight_scale").float().abs()
    if scale.min() >= torch.finfo(torch.float16).tiny and scale.max() <= torch.finfo(torch.float16).max:
        return 0.0
    parts = stored.of_linear(module, form, weight=True)
    exact = dequantize(form, parts, torch.float32)
    change = (dequantize(form, parts, torch.float16) - exact).norm() / exact.norm().clamp(min=1e-30)
    return float(change)
