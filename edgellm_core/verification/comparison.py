"""Numbers that say how far the graph's logits are from the original's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from edgellm_core.verification.cases import Logits

    Hidden = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowComparison:
    """One row of one step.

    Attributes:
        case: name of the check.
        prompt: index of the prompt, from 0.
        step: for example ``prefill``.
        positions: real positions compared.
        max_rel_err: ``max |a - b| / max |b|``; NaN where the graph's logits are not finite.
        agreeing: positions with the same most likely token.
        kl: sum over the positions of KL(original ‖ graph), in nats.
        token: the original's greedy token where one is chosen, else None.
        token_equal: the graph chooses it too; True where none is chosen.
        ties: positions where the most likely tokens differ, and the original's logits of the two differ by less than
            tolerance · max |b|: within what the tolerance allows, either may win.
        flips: the other positions where they differ.
    """

    case: str
    prompt: int
    step: str
    positions: int
    max_rel_err: float
    agreeing: int
    kl: float
    token: int | None
    token_equal: bool
    ties: int
    flips: int

    def passes(self, tolerance: float) -> bool:
        """Return whether the row is within the tolerance and no flip is more than a tie; NaN does not pass."""
        return self.max_rel_err <= tolerance and not self.flips


@dataclass(frozen=True, slots=True)
class RowName:
    """Which row of which step is compared: name of the case, index of the prompt, label of the step."""

    case: str
    prompt: int
    step: str


def relative_difference(found: Any, wanted: Any) -> float:
    """Return ``max |found - wanted| / max |wanted|``; also where all of ``wanted`` are zero."""
    scale = max(float(np.abs(wanted).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(found - wanted).max()) / scale


def compare_row(name: RowName, wanted: Logits, found: Logits, *, tolerance: float, chooses: bool) -> RowComparison:
    """Compare the logits of one row.

    Args:
        name: what is compared.
        wanted: the original's, float32 [positions, vocab]; finite.
        found: the graph's, of the same shape.
        tolerance: bounds what counts as a tie.
        chooses: whether greedy decoding chooses a token from the last position.
    """
    best, chosen = wanted.argmax(-1), found.argmax(-1)
    rows = np.arange(len(wanted))
    scale = float(np.abs(wanted).max())
    differing = best != chosen
    margins = (wanted[rows, best] - wanted[rows, chosen])[differing]
    ties = int((margins <= tolerance * scale).sum())
    finite = bool(np.isfinite(found).all())
    error = relative_difference(found, wanted) if finite else np.nan
    return RowComparison(
        case=name.case,
        prompt=name.prompt,
        step=name.step,
        positions=len(wanted),
        max_rel_err=error,
        agreeing=int((~differing).sum()),
        kl=float(divergence(wanted, found).sum()) if finite else np.nan,
        token=int(best[-1]) if chooses else None,
        token_equal=not (chooses and differing[-1]),
        ties=ties,
        flips=int(differing.sum()) - ties,
    )


def compare_hidden(name: RowName, wanted: Hidden, found: Hidden) -> RowComparison:
    """Compare the hidden states of one row, float32 [positions, …]; there are no tokens to choose among."""
    finite = bool(np.isfinite(found).all())
    return RowComparison(
        case=name.case,
        prompt=name.prompt,
        step=name.step,
        positions=len(wanted),
        max_rel_err=relative_difference(found, wanted) if finite else np.nan,
        agreeing=len(wanted),
        kl=0.0,
        token=None,
        token_equal=True,
        ties=0,
        flips=0,
    )


def divergence(wanted: Logits, found: Logits) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return KL(softmax(wanted) ‖ softmax(found)) of each position in nats, computed in float64; never negative."""
    per_position = [
        float((np.exp(p) * (p - q)).sum())
        for p, q in ((log_softmax(one), log_softmax(other)) for one, other in zip(wanted, found, strict=True))
    ]
    return np.maximum(np.array(per_position, np.float64), 0.0)


def log_softmax(logits: Logits) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the logarithms of the probabilities of one position, computed in float64."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: np.ndarray[tuple[int], np.dtype[np.float64]] = shifted - np.log(np.exp(shifted).sum())
    return result
