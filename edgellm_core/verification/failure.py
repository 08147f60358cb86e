"""Builds the error of a comparison that failed, after a search for the first part that diverges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.tracing.template import LayerNaming
from edgellm_core.verification.bisect import find_culprit, part_name
from edgellm_core.verification.errors import (
    ActivationRangeError,
    NonFiniteActivationsError,
    VerificationFailedError,
    rounding_explanation,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgellm_core.verification.cases import Recording
    from edgellm_core.verification.comparison import RowComparison
    from edgellm_core.verification.range_watch import Peak
    from edgellm_core.verification.subject import Subject


def failed_row(
    subject: Subject, recording: Recording, place: tuple[int, int], row: RowComparison, tolerance: float
) -> VerificationFailedError:
    """Return the error of a row of a step that differs.

    Args:
        subject: what is compared.
        recording: the case, up to the failing step at least.
        place: step and row.
        row: the comparison that failed.
        tolerance: what it had to keep.
    """
    step, index = place
    check = recording.label(step, index)
    culprit = find_culprit(subject, [one.inputs for one in recording.steps[: step + 1]])
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
    subject: Subject, recording: Recording, place: str, share: float, *, max_rel_err: float, tolerance: float
) -> VerificationFailedError:
    """Return the error of a place whose numbers the graph rounds otherwise.

    Args:
        subject: what is compared.
        recording: the case after which too many differed.
        place: module of the layer, or name of the scale of a cache.
        share: share of its numbers that differ.
        max_rel_err: largest error of the logits so far.
        tolerance: largest that passes.
    """
    culprit = find_culprit(subject, [step.inputs for step in recording.steps])
    problem = f"{share:.2%} of the numbers that {place!r} takes are rounded to others"
    named: dict[str, Any] = {"explanation": "What leads there differs"}
    if culprit is not None and not culprit.within_rounding:
        named = {"part": culprit.part, "tensors": culprit.tensors}
    check = repr(recording.case.name)
    return VerificationFailedError(problem, check=check, max_rel_err=max_rel_err, tolerance=tolerance, **named)


def out_of_range(
    subject: Subject, model: PreTrainedModel, excess: Peak, check: str, tolerance: float
) -> ActivationRangeError:
    """Return the error of a value that float16 can't hold."""
    from edgellm_core.tracing.layers import find_stack

    path, _ = find_stack(model)
    layer = LayerNaming(path).layer(f"{excess.module}.weight")
    part = None if layer is None else part_name(layer, subject.layers)
    return ActivationRangeError(excess, check=check, tolerance=tolerance, part=part)
