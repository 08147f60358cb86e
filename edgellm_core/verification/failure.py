"""Builds the error of a comparison that failed, after a search for the first part that diverges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.verification.bisect import find_culprit
from edgellm_core.verification.cases import label
from edgellm_core.verification.errors import (
    NonFiniteActivationsError,
    OriginalUndeterminedError,
    VerificationFailedError,
    rounding_explanation,
)
from edgellm_core.verification.ties import undetermined_by

if TYPE_CHECKING:
    from edgellm_core.errors import EdgellmError
    from edgellm_core.verification.comparison import RowComparison
    from edgellm_core.verification.gate import Proving
    from edgellm_core.verification.side_by_side import Recording


def failed_row(proving: Proving, recording: Recording, place: tuple[int, int], row: RowComparison) -> EdgellmError:
    """Return the error of a row of a step that differs.

    Args:
        proving: what is compared, and how.
        recording: the case.
        place: step and row.
        row: the comparison that failed.
    """
    step, index = place
    subject, tolerance = proving.subject, proving.tolerance
    check = label(recording.case, recording.steps[step], index)
    undetermined = undetermined_by(proving, recording, place)
    if undetermined > tolerance:
        return OriginalUndeterminedError(check, undetermined, tolerance)
    culprit = find_culprit(proving, recording.steps[: step + 1])
    if np.isnan(row.max_rel_err):
        return NonFiniteActivationsError(
            check=check,
            tolerance=tolerance,
            precision=subject.element_type,
            part=culprit.part if culprit else None,
            tensors=culprit.tensors if culprit else (),
        )
    problem = f"max_rel_err {row.max_rel_err:.2g} exceeds the tolerance {tolerance:g}"
    if row.max_rel_err <= tolerance:
        problem = f"another token is most likely at {row.flips} position(s), by more than the tolerance {tolerance:g}"
    named: dict[str, Any] = {}
    if culprit is not None and culprit.within_rounding:
        named["explanation"] = rounding_explanation(subject.precision)
    elif culprit is not None:
        named = {"part": culprit.part, "tensors": culprit.tensors}
    return VerificationFailedError(problem, check=check, max_rel_err=row.max_rel_err, tolerance=tolerance, **named)


def failed_rounding(
    proving: Proving, recording: Recording, place: str, share: float, max_rel_err: float
) -> VerificationFailedError:
    """Return the error of a place whose numbers the graph rounds otherwise.

    Args:
        proving: what is compared, and how.
        recording: a case that shows it.
        place: module of the layer, or name of the scale of a cache.
        share: share of its numbers that differ.
        max_rel_err: largest error of the logits.
    """
    culprit = find_culprit(proving, recording.steps)
    problem = f"{share:.2%} of the numbers that {place!r} takes are rounded to others"
    named: dict[str, Any] = {"explanation": "What leads there differs"}
    if culprit is not None and not culprit.within_rounding:
        named = {"part": culprit.part, "tensors": culprit.tensors}
    check = repr(recording.case.name)
    return VerificationFailedError(problem, check=check, max_rel_err=max_rel_err, tolerance=proving.tolerance, **named)
