"""Rounding that compensates: inputs are rounded one after another, and later ones take up the error of earlier ones.

GPTQ (Frantar et al. 2022): with the Gram matrix G of the inputs, what is left of the squared error of the outputs is
removed as far as the inputs that are not rounded yet can. Steps are fixed before, so the result is stored as usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.quantization.formats import LARGEST_E4M3, LARGEST_INT4

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

DAMPING: Final = 0.01
"""Share of the mean of G's diagonal that is added to it, for inputs that samples hardly show (Frantar et al., §3.3)."""

PANEL: Final = 128
"""Inputs that are rounded before the error reaches the inputs outside the panel (Frantar et al., §3.3)."""

WIDEST: Final = 4096
"""Inputs that compensate each other at most; wider layers are cut into such parts: the work grows with the cube."""

CLIPS: Final = tuple(0.45 + 0.025 * index for index in range(23))
"""Candidates for the largest value of a block that keeps its sign and size, as a share of the largest weight."""

CLIPPED_AT_A_TIME: Final = 2**20
"""Weights whose clipped steps are searched together, so that what a candidate needs stays in the processor's cache."""


def nearest_e2m1(values: torch.Tensor) -> torch.Tensor:
    """Return the nearest FLOAT4E2M1 of each value, ties to even (OCP MX 1.0: 0, 0.5, 1, 1.5, 2, 3, 4, 6)."""
    size = values.abs().clamp(max=6)
    fine, middle, coarse = (size * 2).round() / 2, size.round(), (size / 2).round() * 2
    return fine.where(size < 2, middle.where(size < 4, coarse)).copysign(values)


def nearest_e4m3(values: torch.Tensor) -> torch.Tensor:
    """Return the nearest FLOAT8E4M3FN of each value."""
    import torch

    return values.clamp(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn).float()


NEAREST: Final[Mapping[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "int4": lambda values: values.round().clamp(-8, 7),
    "int8": lambda values: values.round().clamp(-128, 127),
    "fp8": nearest_e4m3,
    "nvfp4": nearest_e2m1,
}
"""Kind of weight → the nearest number that it stores, in units of the step."""


def round_compensated(
    weight: torch.Tensor,
    steps: torch.Tensor,
    gram: torch.Tensor,
    nearest: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return a weight [out, in] whose values are multiples that ``nearest`` allows of their steps.

    Args:
        weight: float32 [out, in].
        steps: positive, [out, blocks]: each step belongs to in / blocks inputs.
        gram: [in, in].
        nearest: rounds values in units of the step.
    """
    import torch

    width = weight.shape[1]
    of_block = torch.arange(width, device=weight.device) // (width // steps.shape[1])
    rounded = torch.empty_like(weight)
    for start in range(0, width, WIDEST):
        part = slice(start, min(start + WIDEST, width))
        order = gram[part, part].diagonal().argsort(descending=True, stable=True)
        error = _error_factors(gram[part, part][order][:, order])
        chosen = start + order
        rounded[:, chosen] = _round_in_order(weight[:, chosen], steps[:, of_block[chosen]], error, nearest)
    return rounded


def _error_factors(gram: torch.Tensor) -> torch.Tensor:
    """Return the upper Cholesky factor of the inverse of a damped Gram matrix, float32 [in, in].

    Sums that were rounded to bfloat16 can leave it indefinite; it is then damped ten times as much, which ends, since
    a diagonal that dominates is positive definite.
    """
    import torch

    damped = gram.double()
    step = DAMPING * damped.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    damped.diagonal().add_(step)
    lower, indefinite = torch.linalg.cholesky_ex(damped)
    while indefinite and torch.isfinite(step):
        damped.diagonal().add_(9 * step)
        step = 10 * step
        lower, indefinite = torch.linalg.cholesky_ex(damped)
    inverse = torch.cholesky_inverse(lower)
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _round_in_order(
    weight: torch.Tensor, steps: torch.Tensor, error: torch.Tensor, nearest: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Round the columns of a weight from left to right."""
    import torch

    left, rounded = weight.T.contiguous(), torch.empty_like(weight.T)  # columns lie together
    steps = steps.T.contiguous()
    for start in range(0, left.shape[0], PANEL):
        panel = left[start : start + PANEL]
        stop = start + panel.shape[0]
        errors = torch.empty_like(panel)
        for index in range(panel.shape[0]):
            column, factors = start + index, error[start + index, start + index : stop]
            rounded[column] = nearest(panel[index] / steps[column]) * steps[column]
            errors[index] = (panel[index] - rounded[column]) / factors[0]
            panel[index + 1 :].addr_(factors[1:], errors[index], alpha=-1)
        left[stop:].addmm_(error[start:stop, stop:].T, errors, alpha=-1)
    return rounded.T


def clipped_int4_steps(weight: torch.Tensor, gram: torch.Tensor, block: int) -> torch.Tensor:
    """Return the step of each block [out, blocks] that loses least, with the largest weights of a block clipped or not.

    Args:
        weight: float32 [out, in].
        gram: [in, in]; the products of inputs of different blocks are left out.
        block: inputs of a block.
    """
    import torch

    inside = torch.stack([gram[start : start + block, start : start + block] for start in range(0, len(gram), block)])
    rows = max(1, CLIPPED_AT_A_TIME // weight.shape[1])
    parts = [weight[start : start + rows] for start in range(0, weight.shape[0], rows)]
    return torch.cat([_clipped_steps(part, inside) for part in parts])


def _clipped_steps(weight: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the best steps of some outputs; ``inside`` holds the products of the inputs of each block."""
    import torch

    blocks = weight.reshape(weight.shape[0], len(inside), -1).transpose(0, 1).contiguous()  # [blocks, out, block]
    largest = blocks.abs().amax(-1, keepdim=True)
    whole = (largest / LARGEST_INT4).where(largest > 0, 1.0)
    best, least = whole.clone(), torch.full_like(whole, torch.inf)
    for clip in CLIPS:
        steps = whole * clip
        lost = (blocks / steps).round_().clamp_(-8, 7).mul_(steps).sub_(blocks)
        loss = (lost @ inside).mul_(lost).sum(-1, keepdim=True)
        best, least = steps.where(loss < least, best), loss.minimum(least)
    return best.squeeze(-1).T
