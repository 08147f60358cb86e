"""What float32 can't compute as exactly as the gate asks for: the original in float64 judges instead.

Attention scores of several hundred, as trained Qwen2 have them, turn the last bit of a float32 number into 1e-4 of a
probability. Then the original in float32 is no nearer to its own formula than the graph is, and the two differ by more
than the tolerance although neither is wrong. So both are held beside the original in float64, and the graph may be as
far from it as the original in float32 is itself, rounded in its own order or in another one, within a factor and a
bound.
"""

from __future__ import annotations

import dataclasses
from itertools import starmap
from typing import TYPE_CHECKING, Final

import numpy as np

from edgellm_core.checkpoint.dimensions import context_length
from edgellm_core.verification.budget import choose_parts
from edgellm_core.verification.cases import DECODE_STEPS, plan_cases
from edgellm_core.verification.errors import ComparisonMemoryError, ReferenceRunError
from edgellm_core.verification.original import open_original
from edgellm_core.verification.prompts import random_prompts
from edgellm_core.verification.rounding_noise import DRAWS, FACTOR, LARGEST, rounded_otherwise
from edgellm_core.verification.side_by_side import record_original

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Case, Logits
    from edgellm_core.verification.gate import Proving
    from edgellm_core.verification.original import Original
    from edgellm_core.verification.side_by_side import Recording

SEQUENCES: Final = 6
TOKENS: Final = 40
"""Random sequences, and the tokens of each, whose rounding is measured besides that of the prompts: the largest of a
few dozen positions says too little, it was 5e-5 or 9e-5 for the same model."""


def against_exact(
    proving: Proving, recordings: Sequence[Recording], *, max_memory: int | None, report: Reporter
) -> tuple[Proving, list[Recording]] | None:
    """Return what to judge by the original in float64: the tolerance that float32 allows, and its numbers.

    Args:
        proving: what is compared, and how.
        recordings: what both sides computed in float32; some row is beyond the tolerance.
        max_memory: budget of main memory in bytes; None for what is free.
        report: told the progress, and what was found.

    Returns:
        None where float32 is exact enough for the tolerance, or where the original can't be run in float64.

    Raises:
        ReferenceLoadError: transformers can't load the original.
    """
    synchronizer = proving.original.synchronizer
    if synchronizer is not None and synchronizer.points:  # rounded numbers follow the graph's, which is in float32
        return None
    cases = [one.case for one in recordings]
    more = _random_cases(proving)
    try:
        own = _run(proving, proving.original, more, "original in float32", max_memory, report)
        draws = [_rounded_otherwise(proving, cases, seed, max_memory, report) for seed in range(DRAWS)]
        original = open_original(proving.subject, element_type="fp64")
        exact = _run(proving, original, [*cases, *more], "original in float64", max_memory, report)
    except (ReferenceRunError, ComparisonMemoryError) as error:
        report.note(f"The original was not run in float64: {error}")
        return None
    in_order = zip(exact, [*(one.wanted for one in recordings), *own], strict=True)
    otherwise = (pair for draw in draws for pair in zip(exact, draw, strict=False))
    rounding = max(starmap(_error, (*in_order, *otherwise)))
    tolerance = min(float(f"{FACTOR * rounding:.2g}"), LARGEST)
    if tolerance <= proving.tolerance:
        return None
    report.note(
        f"The original in float32 is up to {rounding:.2g} away from float64, as it rounds, so nothing in float32 can "
        f"be compared to within {proving.tolerance:g}; the graph is compared with the original in float64, to within "
        f"{tolerance:.2g}."
    )
    judged = [dataclasses.replace(one, wanted=wanted) for one, wanted in zip(recordings, exact, strict=False)]
    return dataclasses.replace(proving, tolerance=tolerance), judged


def _random_cases(proving: Proving) -> list[Case]:
    subject = proving.subject
    text = subject.config.get_text_config()
    context = context_length(subject.config) or TOKENS + DECODE_STEPS
    longest = max(1, min(TOKENS, context - DECODE_STEPS))
    lengths = [max(1, longest - shorter) for shorter in range(SEQUENCES)]
    prompts = random_prompts(lengths, vocab_size=text.vocab_size)
    return plan_cases(prompts, one_token=subject.one_token)


def _rounded_otherwise(
    proving: Proving, cases: Sequence[Case], seed: int, max_memory: int | None, report: Reporter
) -> list[list[Logits]]:
    """Return the numbers of the original in float32 where every module rounds in another way."""
    with rounded_otherwise(proving.original.weights.model, seed):
        return _run(proving, proving.original, cases, "original rounded otherwise", max_memory, report)


def _run(
    proving: Proving, original: Original, cases: Sequence[Case], name: str, max_memory: int | None, report: Reporter
) -> list[list[Logits]]:
    """Return the original's numbers in all cases, each row alone.

    transformers hides padding by the type's lowest number, which its softmax in float32 can't hold in float64.
    """
    subject = proving.subject
    parts = choose_parts(subject, original.weights, max_memory=max_memory, report=report)
    return record_original(subject, original, cases, parts, report, apart=True, name=name)


def _error(wanted: Sequence[Logits], found: Sequence[Logits]) -> float:
    """Return the largest ``max |a - b| / max |b|`` of all tokens."""
    return max(_row_error(*pair) for pair in zip(wanted, found, strict=True))


def _row_error(wanted: Logits, found: Logits) -> float:
    errors = np.abs(found - wanted).reshape(len(wanted), -1).max(1)
    scales = np.abs(wanted).reshape(len(wanted), -1).max(1)
    return float((errors / np.maximum(scales, np.finfo(np.float32).tiny)).max())
