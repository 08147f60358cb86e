"""SmoothQuant (Xiao et al. 2022): scales that move the outliers of the inputs into the weights.

The loss is the expected squared error of the outputs: that of the rounded weights, tr(ΔW G ΔWᵀ) with the Gram matrix G
of the inputs, and that of the inputs, whose rounding to a step Δ has the variance Δ²/12 (uniform noise). It is summed
over the layers that read the input, which share one scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.calibration.scales import Search, best_scale, sample_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from edgellm_core.calibration.statistics import InputStatistics

LARGEST_INT8: Final = 127.0
"""Weights and inputs are divided by amax / 127 (ModelOpt 0.47, ``get_scaling_factor``)."""


def search_smoothquant(statistics: InputStatistics, weights: Sequence[torch.Tensor], search: Search) -> float:
    """Fill ``search`` with the best scale; return its strength α, 0 where no scale is best.

    Args:
        statistics: of the input, with ranges and products.
        weights: [out, in] of the layers that read the input, float32.
        search: candidates and result.
    """
    import torch

    stacked = weights[0] if len(weights) == 1 else torch.cat(list(weights))
    span, gram, sampled = statistics.range, statistics.products, sample_rows(stacked)
    inputs = search.grouped(span)
    columns = search.grouped(stacked.abs().amax(0))

    def loss(scale: torch.Tensor) -> torch.Tensor:
        scaled = sampled * scale
        error = round_int8(scaled).sub_(scaled).div_(scale)
        step = (span / scale).amax() / LARGEST_INT8
        return ((error @ gram) * error).sum() + statistics.products_of * step**2 / 12 * scaled.square().sum()

    return best_scale(search, lambda alpha: inputs**alpha / columns ** (1 - alpha), loss)


def round_int8(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight [out, in] rounded to int8 with one scale for each output, as floats."""
    step = weight.abs().amax(1, keepdim=True) / LARGEST_INT8
    step = step.where(step > 0, 1.0)
    return (weight / step).round_().clamp_(-128, 127).mul_(step)
