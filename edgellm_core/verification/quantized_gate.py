"""Compares the graph of a quantized checkpoint with the original, which rounds with it (``synchronized.py``).

So the graph runs first, and shows what it rounded; greedy decoding follows its tokens.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgellm_core.memory import release_memory
from edgellm_core.settings import LARGEST_FP16
from edgellm_core.verification.activation_range import watched_range
from edgellm_core.verification.bisect import GraphStep
from edgellm_core.verification.cases import Recording, decode_inputs, prefill_inputs
from edgellm_core.verification.comparison import RowComparison, RowName, compare_row
from edgellm_core.verification.failure import failed_rounding, failed_row, out_of_range
from edgellm_core.verification.memory import free_weights
from edgellm_core.verification.reference import (
    ReferenceRunner,
    append_step,
    load_reference,
    real_rows,
    suitable_threads,
)
from edgellm_core.verification.rounding_points import key_order
from edgellm_core.verification.synchronized import Synchronizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Case, StepInputs
    from edgellm_core.verification.errors import VerificationFailedError
    from edgellm_core.verification.range_watch import Peak
    from edgellm_core.verification.session import GraphSession
    from edgellm_core.verification.subject import Subject

    Failure = Callable[[], VerificationFailedError]


def verify_quantized(
    subject: Subject, cases: Sequence[Case], tolerance: float, report: Reporter
) -> list[RowComparison]:
    """Run cases on the graph, free it, and compare the original with what it computed.

    Raises:
        VerificationFailedError: they differ.
        EdgellmError: the graph or the original can't be loaded or run.
    """
    synchronizer = Synchronizer(subject.rounding_points, key_order(subject.graph))
    played = _play(subject, cases, list(synchronizer.points.values()), report)
    release_memory()
    comparison = _Comparison(
        subject=subject, model=load_reference(subject, synchronizer), synchronizer=synchronizer, tolerance=tolerance
    )
    failure = None
    with suitable_threads(comparison.model):
        for number, case in enumerate(cases):
            report.progress(len(cases) + number, 2 * len(cases), f"original: {case.name}")
            failure = comparison.compare(case, played.pop(0))
            if failure is not None:
                break
    report.progress(2 * len(cases), 2 * len(cases))
    free_weights(comparison.model)
    if failure is not None:
        played.clear()
        raise failure()
    return comparison.rows


def _play(subject: Subject, cases: Sequence[Case], shown: list[str], report: Reporter) -> list[list[GraphStep]]:
    """Run all cases on the graph; its own greedy tokens feed the decode steps."""
    session = subject.open_session(extra=sorted(set(shown)))
    played = []
    for number, case in enumerate(cases):
        report.progress(number, 2 * len(cases), f"graph: {case.name}")
        session.start(len(case.rows))
        steps = [_step(session, inputs) for inputs in prefill_inputs(case)]
        for decoded in range(1, case.decode + 1):
            last = steps[-1]
            tokens = [int(logits[-1].argmax()) for logits in real_rows(last.logits, last.inputs)]
            steps.append(_step(session, decode_inputs(case, last.inputs, tokens, decoded)))
        played.append(steps)
    return played


def _step(session: GraphSession, inputs: StepInputs) -> GraphStep:
    logits, shown = session.run(inputs)
    return GraphStep(inputs=inputs, hidden=shown, logits=logits)


@dataclass(kw_only=True)
class _Comparison:
    """The original, and what it was compared with so far.

    Attributes:
        subject: what is compared.
        model: the original.
        synchronizer: what it rounds with.
        tolerance: largest ``max_rel_err`` that passes.
        rows: compared rows.
    """

    subject: Subject
    model: PreTrainedModel
    synchronizer: Synchronizer
    tolerance: float
    rows: list[RowComparison] = field(default_factory=list)

    def compare(self, case: Case, steps: Sequence[GraphStep]) -> Failure | None:
        """Compare one case; return what builds the error where it differs, for when the original is freed."""
        runner = ReferenceRunner(self.model)
        recording = Recording(case=case)
        runner.start()
        for step in steps:
            self.synchronizer.begin(step.hidden, step.inputs.real)
            with self._watched(case) as beyond:
                logits = runner.run(step.inputs)
            append_step(recording, step.inputs, logits, self.subject)
            if beyond:
                check = recording.label(len(recording.steps) - 1, 0)
                error = out_of_range(self.subject, self.model, beyond[0], check, self.tolerance)
                return lambda: error
            failure = self._compare_rows(recording, step)
            if failure is not None:
                return failure
        place = self.synchronizer.first_wrong()
        if place is None:
            return None
        return functools.partial(
            failed_rounding,
            self.subject,
            recording,
            place,
            self.synchronizer.counts[place].share,
            max_rel_err=max(row.max_rel_err for row in self.rows),
            tolerance=self.tolerance,
        )

    def _compare_rows(self, recording: Recording, step: GraphStep) -> Failure | None:
        case, inputs = recording.case, step.inputs
        rows = zip(case.prompts, recording.steps[-1].logits, real_rows(step.logits, inputs), strict=True)
        for index, (prompt, wanted, found) in enumerate(rows):
            if not len(wanted):  # a chunk that holds only this row's padding
                continue
            name = RowName(case.name, prompt, inputs.label)
            row = compare_row(name, wanted, found, tolerance=self.tolerance, chooses=inputs.chooses)
            self.rows.append(row)
            if not row.passes(self.tolerance):
                place = len(recording.steps) - 1, index
                return functools.partial(failed_row, self.subject, recording, place, row, self.tolerance)
        return None

    def _watched(self, case: Case) -> contextlib.AbstractContextManager[list[Peak]]:
        """Watch whether float16 holds what the original computes; what it computes at padding does not matter."""
        if self.subject.element_type != "fp16" or len(case.rows) > 1:
            return contextlib.nullcontext([])
        return watched_range(self.model, LARGEST_FP16)
