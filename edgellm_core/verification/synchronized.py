"""Keeps the original and the graph on the same side of every rounding.

A rounded network is not continuous: a sum in another order moves a number by 1e-7, and where that number lies on a tie
it jumps by a whole step, 6 % in fp8; the jump moves others over their ties, and after some layers the two have nothing
but the size of the rounding error in common (SmolLM2-135M in fp8: 0.15 of the largest logit, both in float32). So at
every rounding the original compares its numbers with the graph's and then goes on with the *graph's*. Few may differ,
those on ties; and everything between two roundings is compared as tightly as in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch

LARGEST_SHARE: Final = 1e-3
"""Share of a place's numbers that may be rounded to another side. Measured on SmolLM2-135M, at the worst of 210 places:
1.2e-4 in fp8, 5e-5 in nvfp4, the 16 numbers of one block; in all 2e-5 and 3e-6. None on tiny checkpoints."""

FEW: Final = 32
"""Numbers that may besides, so that two blocks of nvfp4, whose scales lie on ties, do not fail a short prompt."""

SAME: Final = 1e-4
"""Relative difference up to which two rounded numbers are the same; neighbours differ by 6e-2 (E4M3) or, at the end of
the range of int8, by 8e-3."""


@dataclass(kw_only=True)
class RoundingCounts:
    """What was compared at one place.

    Attributes:
        differing: numbers at real positions that the graph rounds to another value.
        total: numbers at real positions.
    """

    differing: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        """Share of the numbers that differ; 0 where so few are on ties."""
        return self.differing / self.total if self.differing > FEW + LARGEST_SHARE * self.total else 0.0


@dataclass
class Synchronizer:
    """Hands the graph's rounded numbers to the original, and counts where its own differ.

    Attributes:
        points: tensor of the graph for each place.
        key_order: where the graph may hold each channel of a key; empty where only at its own place.
        counts: what was compared so far, in the order in which the original reaches the places.
    """

    points: Mapping[str, str] = field(default_factory=dict)
    key_order: Sequence[int] = ()
    counts: dict[str, RoundingCounts] = field(default_factory=dict)
    _tensors: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    _real: np.ndarray[Any, Any] | None = None

    def begin(self, tensors: Mapping[str, np.ndarray[Any, Any]], real: np.ndarray[Any, Any]) -> None:
        """Take the graph's tensors of one step.

        Args:
            tensors: by name.
            real: boolean [batch, seq]: tokens, not padding.
        """
        self._tensors, self._real = tensors, real

    def settle(
        self, place: str, own: torch.Tensor, *, sequence_axis: int = 1, order: Sequence[int] = ()
    ) -> torch.Tensor:
        """Return the graph's numbers for the original's; these where the graph shows none, or some that are not finite.

        Args:
            place: where.
            own: what the original rounded to, [batch, …], or [batch * seq, …] as shared experts get it.
            sequence_axis: axis of the positions.
            order: where the graph may hold each number of the last axis; empty where only at its own place.
        """
        import torch

        given = self._tensors.get(self.points.get(place, ""))
        if given is None or self._real is None:
            return own
        graphs = _in_order(torch.from_numpy(given).reshape(own.shape), own, order)
        finite = graphs.isfinite()
        far = ((graphs - own).abs() > SAME * torch.maximum(graphs.abs(), own.abs())) | ~finite
        at_tokens = _at_tokens(far.movedim(sequence_axis, 1), torch.from_numpy(self._real))
        counts = self.counts.setdefault(place, RoundingCounts())
        counts.differing += int(at_tokens.sum())
        counts.total += at_tokens.numel()
        return graphs if finite.all() else own

    def first_wrong(self) -> str | None:
        """Return the first place at which more numbers differ than ties explain, or None."""
        return next((place for place, counts in self.counts.items() if counts.share), None)


def _at_tokens(values: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the values [batch, seq, …] or [batch * seq, …] at real positions [batch, seq]."""
    return values[real if values.shape[:2] == real.shape else real.flatten()]


def _in_order(graphs: torch.Tensor, own: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """Return the graph's numbers in the order of the original's: as they are, or turned where they are nearer then."""
    if not order:
        return graphs
    turned = graphs[..., list(order)]
    return turned if float((turned - own).abs().sum()) < float((graphs - own).abs().sum()) else graphs
