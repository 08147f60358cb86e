"""What float16 arithmetic costs, measured and not judged: the original and the graph in float16, beside float32.

Kernels of a CPU round where those of a device do not, and the other way round, so such numbers say nothing about the
graph. They are recorded with the runtime that computed them; a device's own proof judges what it deploys.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.bundle.proof import ArithmeticRecord
from edgellm_core.verification.comparison import RowName, compare_row
from edgellm_core.verification.errors import ReferenceRunError
from edgellm_core.verification.graph_chain import GraphChain
from edgellm_core.verification.original import open_original
from edgellm_core.verification.original_chain import OriginalChain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.bundle.proof import ArithmeticSide
    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Logits, StepInputs
    from edgellm_core.verification.parts import Part
    from edgellm_core.verification.side_by_side import Recording
    from edgellm_core.verification.subject import Subject


def measure_arithmetic(
    subject: Subject, parts: Sequence[Part], recordings: Sequence[Recording], report: Reporter
) -> tuple[ArithmeticRecord, ...]:
    """Run the prompts in float16 on both sides, and compare each with the original in float32.

    Args:
        subject: a float16 graph that is not quantized, and its original.
        parts: parts of the model.
        recordings: what the original computed in float32; cases of single prompts count.
        report: told the progress, and why a side could not be measured.

    Raises:
        EdgellmError: the graph can't be loaded or run.
    """
    alone = [recording for recording in recordings if len(recording.case.rows) == 1 and recording.case.layers is None]
    plays = [recording.steps for recording in alone]
    graph = GraphChain(subject, plays, parts, widened=False)
    for index, part in enumerate(parts):
        report.progress(index, 2 * len(parts), f"graph in float16, {part.in_words(subject.depth)}")
        graph.advance(index)
    found = [[_logits(step.logits) for step in play] for play in graph.steps]
    records = [_record("graph", "onnxruntime", alone, found)]
    try:
        own = _original_logits(subject, plays, parts, report)
        records.append(_record("original", "torch", alone, own))
    except ReferenceRunError as error:  # torch has no float16 kernel for some operator on the CPU
        report.note(f"What float16 arithmetic costs the original was not measured: {error}")
    return tuple(records)


def _original_logits(
    subject: Subject, plays: Sequence[Sequence[StepInputs]], parts: Sequence[Part], report: Reporter
) -> list[list[Logits]]:
    weights = open_original(subject, element_type="fp16").weights
    with OriginalChain(weights, plays, parts) as chain:
        for index, part in enumerate(parts):
            report.progress(len(parts) + index, 2 * len(parts), f"original in float16, {part.in_words(subject.depth)}")
            chain.advance(index)
        return [[chain.logits[play, step] for step in range(len(steps))] for play, steps in enumerate(plays)]


def _logits(logits: Logits | None) -> Logits:
    assert logits is not None  # for mypy: all parts were run
    return logits


def _record(
    side: ArithmeticSide, package: str, recordings: Sequence[Recording], found: Sequence[Sequence[Logits]]
) -> ArithmeticRecord:
    rows = []
    for recording, steps in zip(recordings, found, strict=True):
        own = np.concatenate([logits[0] for logits in steps])
        name = RowName(recording.case.name, recording.case.prompts[0], "all steps")
        rows.append(compare_row(name, recording.wanted[0], own, tolerance=0.0, chooses=False))
    positions = sum(row.positions for row in rows)
    finite = all(np.isfinite(row.max_rel_err) for row in rows)
    return ArithmeticRecord(
        side=side,
        runtime=f"{package} {importlib.metadata.version(package)}, CPU",
        finite=finite,
        max_rel_err=max(row.max_rel_err for row in rows) if finite else None,
        kl=sum(row.kl for row in rows) / positions if finite else None,
        top1_agreement=sum(row.agreeing for row in rows) / positions,
    )
