"""The search for scales of input channels: candidates of different strength, and the one that loses least."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

STRENGTHS: Final = tuple(step / 5 for step in range(6))
"""Candidates of α; two more lie beside the best, which makes the steps of 0.1 of ModelOpt's ``awq_lite``."""

REFINEMENT: Final = 0.1
"""Distance of the two more candidates."""

SEARCH_ROWS: Final = 1024
"""Outputs that a search looks at, evenly spread over all layers that read the input: they tell candidates apart as well
as all of a wide layer do, in a fraction of the time."""

SEARCH_WEIGHTS: Final = 2**22
"""Most weights that a search looks at: its cost grows with the square of the inputs."""

LIMIT: Final = 1e4
"""Scales stay within this factor, up or down, as ModelOpt's do (``get_scale``)."""


@dataclass
class Search:
    """One search: which channels share a scale, and the best scale so far.

    Attributes:
        row_of: row of the feeder of each channel; channels of one row share a scale; int64 [in].
        scale: best scale [in]; 1 before the search.
        losses: loss by strength; None is the loss without scales.
    """

    row_of: torch.Tensor
    scale: torch.Tensor
    losses: dict[float | None, float] = field(default_factory=dict)

    @classmethod
    def over(cls, row_of: torch.Tensor, device: torch.device) -> Search:
        """Return a search over the channels that these rows feed."""
        import torch

        return cls(row_of=row_of.to(device), scale=torch.ones(row_of.shape[0], device=device))

    def grouped(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of a value of each channel [in] over the channels that share a row, for each row [rows]."""
        import torch

        rows = int(self.row_of.max()) + 1
        total = torch.zeros(rows, device=values.device).index_add_(0, self.row_of, values)
        count = torch.zeros(rows, device=values.device).index_add_(0, self.row_of, torch.ones_like(values))
        return total / count.clamp(min=1)


def best_scale(
    search: Search,
    candidate: Callable[[float], torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
) -> float:
    """Fill ``search`` with the candidate of least loss; return its strength, 0 where no scale is best.

    Args:
        search: takes the result.
        candidate: scale of each row [rows] for a strength; brought to a geometric centre of 1.
        loss: of a scale of each channel [in], summed over tokens.
    """
    best = float(loss(search.scale))
    search.losses[None] = best
    strength = 0.0

    def attempt(alpha: float) -> None:
        nonlocal best, strength
        scale = centred(candidate(alpha))[search.row_of]
        found = float(loss(scale))
        search.losses[alpha] = found
        if found < best:
            best, strength, search.scale = found, alpha, scale

    for alpha in STRENGTHS:
        attempt(alpha)
    if strength:
        for alpha in (strength - REFINEMENT, strength + REFINEMENT):
            if 0 < alpha < 1:
                attempt(alpha)
    return strength


def sample_rows(weight: torch.Tensor) -> torch.Tensor:
    """Return rows of a weight [out, in], evenly spread: at most ``SEARCH_ROWS`` and ``SEARCH_WEIGHTS`` weights."""
    rows = max(1, min(SEARCH_ROWS, SEARCH_WEIGHTS // weight.shape[1]))
    return weight[:: -(-weight.shape[0] // rows)]


def centred(scale: torch.Tensor) -> torch.Tensor:
    """Return a scale within ``LIMIT`` whose largest and smallest values are each other's inverse (``get_scale``)."""
    scale = scale.nan_to_num(nan=1.0, posinf=LIMIT).clamp(min=1 / LIMIT, max=LIMIT)
    return scale / (scale.max() * scale.min()).sqrt()
