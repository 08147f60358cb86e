"""The parity gate: runs the original, then the graph, on the same prompts, and refuses a graph that differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.bundle.manifest import VerificationRecord
from edgellm_core.memory import release_memory
from edgellm_core.settings import LARGEST_FP16
from edgellm_core.verification.activation_range import watched_range
from edgellm_core.verification.cases import DECODE_STEPS, plan_cases, spread_case
from edgellm_core.verification.comparison import RowComparison, RowName, compare_row
from edgellm_core.verification.failure import failed_row, out_of_range
from edgellm_core.verification.memory import free_weights
from edgellm_core.verification.prompts import MOST_TOKENS, choose_prompts
from edgellm_core.verification.quantized_gate import verify_quantized
from edgellm_core.verification.reference import ReferenceRunner, load_reference, real_rows, record, suitable_threads
from edgellm_core.verification.subject import Mode, Subject, make_subject
from edgellm_core.verification.tolerances import tolerance_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Case, Recording
    from edgellm_core.verification.session import GraphSession


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationResult:
    """A comparison that passed, or that was switched off.

    Attributes:
        mode: ``full``, ``layers`` or ``off``.
        reference: what the graph was compared with, in words.
        prompts: number of prompts.
        tolerance: largest ``max_rel_err`` that passes.
        rows: every row of every step.
    """

    mode: Mode
    reference: str
    prompts: int
    tolerance: float
    rows: tuple[RowComparison, ...]

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
        if self.mode == "off":
            return VerificationRecord(status="skipped")
        return VerificationRecord(
            status="passed",
            reference=self.reference,
            prompts=self.prompts,
            max_rel_err=self.max_rel_err,
            top1_agreement=self.top1_agreement,
            kl=self.kl,
            greedy_tokens_equal=self.greedy_tokens_equal,
            tolerance=self.tolerance,
        )


def verify_graph(  # noqa: PLR0913  # each says what is compared, with what, or how
    model_path: Path,
    checkpoint: Checkpoint,
    family: ModelFamily,
    *,
    precision: str,
    mode: Mode,
    target: Target | None = None,
    tolerance: float | None = None,
    report: Reporter,
) -> VerificationResult:
    """Compare a bound graph with the original.

    The original runs first and is freed before ONNX Runtime loads the graph; only logits stay in between.

    Args:
        model_path: the graph; its data lies beside it.
        checkpoint: the original.
        family: its family.
        precision: precision of the graph; a quantized checkpoint says itself what it is.
        mode: ``full``, ``layers`` (the first layers and the head), or ``off``.
        target: what the graph was lowered for; None for ``onnx``.
        tolerance: largest ``max_rel_err`` that passes; None for that of the precision.
        report: told about progress, ties, and what could not be exercised.

    Raises:
        VerificationFailedError: the graph differs, naming the first part that does.
        ActivationRangeError: float16 can't hold the original's activations.
        NonFiniteActivationsError: the graph yields NaN or infinity.
        ReferenceLoadError: transformers can't load the original.
        ReferenceNotFiniteError: the original itself yields NaN or infinity.
        EdgellmError: the graph can't be cut, loaded or run.
    """
    if mode == "off":
        return VerificationResult(mode=mode, reference="", prompts=0, tolerance=tolerance or 0.0, rows=())
    subject = make_subject(model_path, checkpoint, family, precision=precision, mode=mode, target=target)
    limit = tolerance_of(subject.tolerance_row) if tolerance is None else tolerance
    text = subject.config.get_text_config()
    context: int | None = getattr(text, "max_position_embeddings", None)
    longest = max(1, context - DECODE_STEPS) if context else MOST_TOKENS
    prompts = choose_prompts(subject.directory, vocab_size=text.vocab_size, longest=longest)
    cases = plan_cases(prompts, one_token=subject.one_token)
    rows = _verify(subject, cases, limit, report)
    spread = spread_case(prompts, context=context)
    if spread is not None:
        release_memory()
        first = make_subject(model_path, checkpoint, family, precision=precision, mode="layers", target=subject.target)
        rows += _verify(first, [spread], limit, report)
    result = VerificationResult(
        mode=mode, reference=subject.reference, prompts=len(prompts), tolerance=limit, rows=tuple(rows)
    )
    if result.ties:
        report.note(
            f"At {result.ties} of {sum(row.positions for row in rows)} positions the graph prefers another token whose "
            f"logit in the original is within {limit:g} of the largest: ties, which are let through."
        )
    return result


def _verify(subject: Subject, cases: Sequence[Case], limit: float, report: Reporter) -> list[RowComparison]:
    """Run cases on the original, free it, and compare the graph with what it said; a quantized graph runs first."""
    if subject.layout is not None:
        return verify_quantized(subject, cases, limit, report)
    model = load_reference(subject)
    done = 0

    def tell(case: Case) -> None:
        nonlocal done
        report.progress(done, 2 * len(cases), f"original: {case.name}")
        done += 1

    with suitable_threads(model):
        recordings = record(model, cases, subject, tell)
        if subject.precision == "fp16":
            _check_range(subject, model, recordings, limit)
    free_weights(model)
    return _compare(subject, recordings, limit, report)


def _check_range(subject: Subject, model: PreTrainedModel, recordings: Sequence[Recording], limit: float) -> None:
    """Refuse float16 where the original's values leave its range, on each prompt alone."""
    runner = ReferenceRunner(model)
    for recording in recordings:
        if len(recording.case.rows) > 1:  # what it computes at padding does not matter
            continue
        runner.start()
        with watched_range(model, LARGEST_FP16) as found:
            runner.run(recording.steps[0].inputs)
        if found:
            raise out_of_range(subject, model, found[0], recording.label(0, 0), limit)


def _compare(
    subject: Subject, recordings: Sequence[Recording], tolerance: float, report: Reporter
) -> list[RowComparison]:
    """Run the graph on every recorded step; stop at the first that fails."""
    session: GraphSession | None = subject.open_session()
    assert session is not None  # for mypy: it is dropped before the search
    rows: list[RowComparison] = []
    failed: tuple[Recording, int, int] | None = None
    for number, recording in enumerate(recordings):
        report.progress(len(recordings) + number, 2 * len(recordings), f"graph: {recording.case.name}")
        compared = _compare_recording(session, recording, tolerance)
        rows += compared
        bad = next((index for index, row in enumerate(compared) if not row.passes(tolerance)), None)
        if bad is not None:
            step, row = divmod(bad, len(recording.case.rows))
            failed = recording, step, row
            break
    report.progress(2 * len(recordings), 2 * len(recordings))
    if failed is not None:
        session = None
        release_memory()
        recording, step, row = failed
        raise failed_row(subject, recording, (step, row), rows[-1], tolerance)
    return rows


def _compare_recording(session: GraphSession, recording: Recording, tolerance: float) -> list[RowComparison]:
    """Compare the steps of one case in order, up to and including the first row that fails."""
    rows: list[RowComparison] = []
    case = recording.case
    session.start(len(case.rows))
    for step in recording.steps:
        logits, _ = session.run(step.inputs)
        for prompt, wanted, found in zip(case.prompts, step.logits, real_rows(logits, step.inputs), strict=True):
            if not len(wanted):  # a chunk that holds only this row's padding
                continue
            name = RowName(case.name, prompt, step.inputs.label)
            rows.append(compare_row(name, wanted, found, tolerance=tolerance, chooses=step.inputs.chooses))
            if not rows[-1].passes(tolerance):
                return rows
    return rows
