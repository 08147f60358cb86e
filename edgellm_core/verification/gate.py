"""The parity gate: runs original and graph on the same prompts, part by part, and refuses a graph that differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.bundle.manifest import VerificationRecord
from edgellm_core.checkpoint.dimensions import context_length
from edgellm_core.verification.arithmetic import measure_arithmetic
from edgellm_core.verification.budget import choose_parts
from edgellm_core.verification.cases import DECODE_STEPS, label, plan_cases, spread_case
from edgellm_core.verification.comparison import RowComparison, RowName, compare_hidden, compare_row
from edgellm_core.verification.errors import Float16ArithmeticError, ReferenceNotFiniteError
from edgellm_core.verification.exact_original import against_exact
from edgellm_core.verification.failure import failed_rounding, failed_row
from edgellm_core.verification.float16_range import judge_range, watched_steps
from edgellm_core.verification.original import Original, open_original
from edgellm_core.verification.prompts import MOST_TOKENS, choose_prompts
from edgellm_core.verification.range_watch import RangeWatch
from edgellm_core.verification.rounding_noise import LARGEST
from edgellm_core.verification.side_by_side import Recording, record_cases
from edgellm_core.verification.subject import Subject, make_subject
from edgellm_core.verification.tolerances import tolerance_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.bundle.proof import ArithmeticRecord
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Case
    from edgellm_core.verification.errors import VerificationFailedError
    from edgellm_core.verification.parts import Part
    from edgellm_core.verification.prompts import Prompt

FIRST_LAYERS = 2
"""Fewest layers after which spread positions are compared: one whose input is the embedding and one whose input is
another layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationResult:
    """A comparison that passed.

    Attributes:
        reference: what the graph was compared with, in words.
        prompts: number of prompts.
        tolerance: largest ``max_rel_err`` that passes.
        rows: every row of every step.
        arithmetic: what float16 arithmetic costs.
    """

    reference: str
    prompts: int
    tolerance: float
    rows: tuple[RowComparison, ...]
    arithmetic: tuple[ArithmeticRecord, ...] = ()

    @property
    def max_rel_err(self) -> float:
        """Largest error of all rows."""
        return max(row.max_rel_err for row in self.rows)

    @property
    def top1_agreement(self) -> float:
        """Share of all compared positions (also those inside the prompts) with the same most likely token."""
        return sum(row.agreeing for row in self.rows) / sum(row.positions for row in self.rows)

    @property
    def kl(self) -> float:
        """Mean KL(original ‖ graph) of all compared positions, in nats."""
        return sum(row.kl for row in self.rows) / sum(row.positions for row in self.rows)

    @property
    def ties(self) -> int:
        """Positions where another token wins by less than the tolerance allows."""
        return sum(row.ties for row in self.rows)

    @property
    def greedy_tokens_equal(self) -> bool:
        """Whether greedy decoding chose the same token wherever it chooses one: after each prompt and decode step.

        A tie that fell the other way makes this false, although it does not fail the gate.
        """
        return all(row.token_equal for row in self.rows)

    def record(self) -> VerificationRecord:
        """Return the record for the manifest."""
        return VerificationRecord(
            status="passed",
            reference=self.reference,
            prompts=self.prompts,
            max_rel_err=self.max_rel_err,
            top1_agreement=self.top1_agreement,
            kl=self.kl,
            greedy_tokens_equal=self.greedy_tokens_equal,
            tolerance=self.tolerance,
            arithmetic=self.arithmetic,
        )


@dataclass(frozen=True, kw_only=True)
class Proving:
    """What is compared, and how.

    Attributes:
        subject: the graph and its original.
        original: the original, ready to run.
        parts: the parts in which they are compared.
        tolerance: largest ``max_rel_err`` that passes.
    """

    subject: Subject
    original: Original
    parts: tuple[Part, ...]
    tolerance: float


def verify_graph(  # noqa: PLR0913  # each says what is compared, with what, or how
    model_path: Path,
    checkpoint: Checkpoint,
    family: ModelFamily,
    *,
    precision: str,
    target: Target | None = None,
    tolerance: float | None = None,
    max_memory: int | None = None,
    report: Reporter,
) -> VerificationResult:
    """Compare a bound graph with the original: every layer, from the embedding to the logits.

    Each part of the model is loaded alone, on both sides, and all prompts and steps go through it.

    Args:
        model_path: the graph; its data lies beside it.
        checkpoint: the original.
        family: its family.
        precision: precision of the graph; a quantized checkpoint says itself what it is.
        target: what the graph was lowered for; None for ``onnx``.
        tolerance: largest ``max_rel_err`` that passes; None for that of the precision.
        max_memory: budget of main memory in bytes; None for what is free.
        report: told about progress and ties.

    Raises:
        VerificationFailedError: the graph differs, naming the first part that does.
        ActivationRangeError: float16 can't hold the original's activations.
        NonFiniteActivationsError: the graph yields NaN or infinity.
        Float16ArithmeticError: in float16 arithmetic the logits are not finite.
        ReferenceLoadError: transformers can't load the original.
        ReferenceNotFiniteError: the original itself yields NaN or infinity.
        ComparisonMemoryError: the comparison takes more memory than it may have.
        EdgellmError: the graph can't be loaded or run.
    """
    subject = make_subject(model_path, checkpoint, family, precision=precision, target=target)
    original = open_original(subject)
    proving = Proving(
        subject=subject,
        original=original,
        parts=choose_parts(subject, original.weights, max_memory=max_memory, report=report),
        tolerance=tolerance_of(subject.tolerance_row) if tolerance is None else tolerance,
    )
    prompts, cases = _plan(proving)
    watch = RangeWatch() if subject.element_type == "fp16" else None
    watched = watched_steps(subject, original.weights) if watch else []
    recordings = record_cases(subject, original, cases, proving.parts, report, watch=watch, watched=watched)
    if watch is not None:
        judge_range(watch, subject, original.weights.path, proving.tolerance, report)
    compared, judged = _compare(proving, recordings), None
    if tolerance is None and _may_be_rounding(proving, compared):  # a stated tolerance is meant as it is
        judged = against_exact(proving, recordings, max_memory=max_memory, report=report)
    if judged is not None:
        proving, recordings = judged
        compared = _compare(proving, recordings)
    rows = _accepted(proving, compared)
    narrow = subject.precision == "fp16" and subject.layout is None
    arithmetic = measure_arithmetic(subject, proving.parts, recordings, report) if narrow else ()
    for record in arithmetic:
        if not record.finite:
            raise Float16ArithmeticError(record.side, record.runtime)
    result = VerificationResult(
        reference=subject.reference + ("; float64 judged, beyond what float32 can tell" if judged else ""),
        prompts=len(prompts),
        tolerance=proving.tolerance,
        rows=rows,
        arithmetic=arithmetic,
    )
    if result.ties:
        report.note(
            f"At {result.ties} of {sum(row.positions for row in rows)} positions the graph prefers another token whose "
            f"logit in the original is within {proving.tolerance:g} of the largest: ties, which are let through."
        )
    return result


def _plan(proving: Proving) -> tuple[tuple[Prompt, ...], list[Case]]:
    subject = proving.subject
    text = subject.config.get_text_config()
    context = context_length(subject.config)
    longest = max(1, context - DECODE_STEPS) if context else MOST_TOKENS
    prompts = choose_prompts(subject.directory, vocab_size=text.vocab_size, longest=longest)
    cases = plan_cases(prompts, one_token=subject.one_token)
    if proving.original.weights.depth and subject.names_hidden_states:
        spread = spread_case(prompts, context=context, layers=_first_layers(proving), one_token=subject.one_token)
        cases += [spread] if spread is not None else []
    return prompts, cases


def _first_layers(proving: Proving) -> int:
    """Return how many first layers hold every kind of layer, at least ``FIRST_LAYERS`` and at most all."""
    from edgellm_core.tracing.layers import analyse_stack

    stack = analyse_stack(proving.original.weights.model, full_depth=False)
    assert stack is not None  # for mypy: the layers are a list
    return keep_every_kind(stack.kind_of)


def keep_every_kind(kind_of: Sequence[int]) -> int:
    """Return the length of the shortest prefix with every kind, at least ``FIRST_LAYERS`` and at most all."""
    newest = max(kind_of.index(kind) for kind in set(kind_of))
    return min(len(kind_of), max(FIRST_LAYERS, newest + 1))


@dataclass(frozen=True, slots=True)
class _Compared:
    """A row of a step, and how far the graph is from the original there."""

    recording: Recording
    place: tuple[int, int]
    row: RowComparison


def _compare(proving: Proving, recordings: Sequence[Recording]) -> list[_Compared]:
    """Compare all cases in order; what follows a row that fails and one where the original is not finite is left out.

    Raises:
        ReferenceNotFiniteError: the original itself is not finite, and no row before fails.
    """
    compared: list[_Compared] = []
    for recording in recordings:
        for step, row, wanted, found in recording.rows():
            if not np.isfinite(wanted).all():
                if _failed(proving, compared):
                    return compared
                check = label(recording.case, recording.steps[step], row)
                raise ReferenceNotFiniteError(proving.subject.directory, check)
            result = _compare_row(recording, step, row, wanted, found, proving.tolerance)
            compared.append(_Compared(recording, (step, row), result))
    return compared


def _failed(proving: Proving, compared: Sequence[_Compared]) -> list[_Compared]:
    return [one for one in compared if not one.row.passes(proving.tolerance)]


def _may_be_rounding(proving: Proving, compared: Sequence[_Compared]) -> bool:
    """Return whether a row fails, and all are so near that it may be float32's own rounding."""
    return bool(_failed(proving, compared)) and all(one.row.max_rel_err <= LARGEST for one in compared)


def _accepted(proving: Proving, compared: Sequence[_Compared]) -> tuple[RowComparison, ...]:
    """Return the rows, if none fails.

    Raises:
        EdgellmError: one differs, or numbers are rounded to others; one class per cause.
    """
    for one in _failed(proving, compared):
        raise failed_row(proving, one.recording, one.place, one.row)
    rows = tuple(one.row for one in compared)
    error = _wrong_rounding(proving, compared[0].recording, max(row.max_rel_err for row in rows))
    if error is not None:
        raise error
    return rows


def _compare_row(
    recording: Recording, step: int, row: int, wanted: np.ndarray, found: np.ndarray, tolerance: float
) -> RowComparison:
    case, inputs = recording.case, recording.steps[step]
    name = RowName(case.name, case.prompts[row], inputs.label)
    if case.layers is not None:
        return compare_hidden(name, wanted, found)
    return compare_row(name, wanted, found, tolerance=tolerance, chooses=inputs.chooses)


def _wrong_rounding(proving: Proving, recording: Recording, max_rel_err: float) -> VerificationFailedError | None:
    synchronizer = proving.original.synchronizer
    place = synchronizer.first_wrong() if synchronizer else None
    if synchronizer is None or place is None:
        return None
    return failed_rounding(proving, recording, place, synchronizer.counts[place].share, max_rel_err)
