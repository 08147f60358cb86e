"""AWQ (Lin et al. 2023): scales of the input channels that lose least when the weights are rounded.

The loss is ModelOpt's ``awq_lite`` loss, the squared error of the outputs summed over tokens. With the Gram matrix G of
the inputs it is tr(ΔW G ΔWᵀ), so no second forward is needed; and it is summed over all layers that read the input, so
one scale serves them all and folds into what feeds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.calibration.scales import Search, best_scale, sample_rows
from edgellm_core.quantization.formats import LARGEST_INT4

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from edgellm_core.calibration.statistics import InputStatistics


def search_awq(statistics: InputStatistics, weights: Sequence[torch.Tensor], block: int, search: Search) -> float:
    """Fill ``search`` with the best scale; return its strength α, 0 where no scale is best.

    Args:
        statistics: of the input, with means and products.
        weights: [out, in] of the layers that read the input, float32.
        block: inputs that share one scale of the weights.
        search: candidates and result.
    """
    import torch

    stacked = weights[0] if len(weights) == 1 else torch.cat(list(weights))
    importance = search.grouped(statistics.mean)
    size = search.grouped(relative_size(stacked, block))
    gram, sampled = statistics.products, sample_rows(stacked)

    def loss(scale: torch.Tensor) -> torch.Tensor:
        scaled = sampled * scale
        error = round_int4(scaled, block).sub_(scaled).div_(scale)
        return ((error @ gram) * error).sum()

    return best_scale(search, lambda alpha: importance**alpha / size ** (1 - alpha), loss)


def relative_size(weight: torch.Tensor, block: int) -> torch.Tensor:
    """Return the mean size of each input's weights relative to the largest of their block [in].

    Source: ModelOpt 0.47, ``model_calib.awq_lite``, ``get_weight_scale``.
    """
    import torch

    absolute = weight.abs().reshape(weight.shape[0], -1, block)
    relative = absolute / (absolute.amax(-1, keepdim=True) + torch.finfo(weight.dtype).tiny)
    return relative.reshape(weight.shape).mean(0)


def round_int4(weight: torch.Tensor, block: int) -> torch.Tensor:
    """Return a weight [out, in] rounded to int4 with one scale for each block of inputs, as floats."""
    blocks = weight.reshape(weight.shape[0], -1, block)
    step = blocks.abs().amax(-1, keepdim=True) / LARGEST_INT4
    step = step.where(step > 0, 1.0)
    return (blocks / step).round_().clamp_(-8, 7).mul_(step).reshape(weight.shape)
