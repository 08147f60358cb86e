"""Says whether an original is undetermined: whether it computes something else when ``topk`` chooses otherwise.

Which of equal scores ``torch.topk`` takes is not specified and differs between devices and lengths; scores that are
equal but for rounding fall either way. Where a model keeps the largest keys (Doge), equal tokens of a text have equal
scores in its first layer, so what it answers depends on that choice.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.events import Reporter
from edgellm_core.verification.comparison import relative_difference
from edgellm_core.verification.side_by_side import record_original

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from edgellm_core.verification.gate import Proving
    from edgellm_core.verification.side_by_side import Recording

NEAR: Final = 1e-5
"""Difference of scores, relative to the largest one, up to which rounding decides; float32 sums differ by 1e-6."""


@contextlib.contextmanager
def ties_fall(*, last: bool) -> Iterator[None]:
    """Let ``topk`` take the last or the first of scores that are equal up to rounding, in the body and all threads."""
    own, own_method = torch.topk, torch.Tensor.topk

    def topk(input: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:  # noqa: A002  # torch's
        del sorted
        values, _ = own(input, k, dim, largest, True)
        if k == 0 or not input.is_floating_point():
            return own(input, k, dim, largest, True)
        indices = _chosen(input, values, k, dim, largest=largest, last=last)
        ordered = input.gather(dim, indices).sort(dim=dim, descending=largest, stable=True)
        return torch.return_types.topk((ordered.values, indices.gather(dim, ordered.indices)))

    torch.topk = topk  # type: ignore[assignment]
    torch.Tensor.topk = topk  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.topk, torch.Tensor.topk = own, own_method  # type: ignore[method-assign]


def _chosen(scores: torch.Tensor, values: torch.Tensor, k: int, dim: int, *, largest: bool, last: bool) -> torch.Tensor:
    """Return the places of the ``k`` best scores; of those that are equal to the worst, the last or first ones."""
    best, edge = values.narrow(dim, 0, 1), values.narrow(dim, k - 1, 1)
    scale = torch.maximum(edge.abs(), torch.where(best.isfinite(), best.abs(), 0))
    near = torch.where(edge.isfinite(), NEAR * scale, 0)
    tied = (scores == edge) | ((scores - edge).abs() <= near)
    better = scores > edge if largest else scores < edge
    rank = torch.where(tied, 1, torch.where(better, 2, 0))
    if not last:
        return rank.sort(dim=dim, descending=True, stable=True).indices.narrow(dim, 0, k)
    order = rank.flip(dim).sort(dim=dim, descending=True, stable=True).indices.narrow(dim, 0, k)
    return scores.shape[dim] - 1 - order


def undetermined_by(proving: Proving, recording: Recording, place: tuple[int, int]) -> float:
    """Return by how much the original differs from itself at a step and row when ties of ``topk`` fall otherwise.

    Args:
        proving: what is compared, and how.
        recording: the case, as it was recorded.
        place: step and row.
    """
    if proving.original.synchronizer is not None:  # it follows the graph's numbers
        return 0.0
    wanted, largest = _at(recording, place), 0.0
    for last in (False, True):
        with ties_fall(last=last):
            [rows] = record_original(
                proving.subject, proving.original, [recording.case], proving.parts, Reporter("verify")
            )
        other = _at(dataclasses.replace(recording, wanted=rows), place)
        largest = max(largest, relative_difference(other, wanted))
    return largest


def _at(recording: Recording, place: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return the original's numbers at a step and row."""
    return next(wanted for step, row, wanted, _ in recording.rows() if (step, row) == place)
