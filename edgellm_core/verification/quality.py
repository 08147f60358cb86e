"""How much worse than the original is the graph? Measured on text that it was not calibrated on.

The parity gate asks whether the graph is what its (quantized) checkpoint says, and is tight. This asks what
quantization and a narrow precision cost: the original here is the source checkpoint in float32, not rounded.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.bundle.manifest import QualityRecord
from edgellm_core.memory import release_memory
from edgellm_core.verification.comparison import log_softmax
from edgellm_core.verification.cut import hidden_name, shown_names
from edgellm_core.verification.errors import GraphNotFiniteError
from edgellm_core.verification.subject import Subject, make_subject
from edgellm_core.verification.text_recording import (
    TextRecording,
    loaded_original,
    record_text,
    text_inputs,
)

if TYPE_CHECKING:
    from edgellm_core.calibration.data import CalibrationSet
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Ids, Logits


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScore:
    """Sums over the positions of a text.

    Attributes:
        positions: how many tokens were predicted.
        log_likelihood: logarithms of the probabilities that the graph gives the tokens that follow, in nats.
        kl: KL(original ‖ graph), in nats.
        agreeing: positions where the most likely token is the same.
    """

    positions: int
    log_likelihood: float
    kl: float
    agreeing: int

    def __add__(self, other: TextScore) -> TextScore:
        mine, yours = dataclasses.astuple(self), dataclasses.astuple(other)
        return TextScore(**{f.name: a + b for f, a, b in zip(dataclasses.fields(self), mine, yours, strict=True)})


def score_text(wanted: Logits, found: Logits, *, best: Ids, following: Ids) -> TextScore:
    """Score one sample.

    Args:
        wanted: the original's logits or logarithms of probabilities, float32 ``[positions, vocab]``.
        found: the graph's logits, of the same shape; finite.
        best: int64 ``[positions]``, the original's most likely tokens.
        following: int64 ``[positions]``, the tokens that follow in the text.
    """
    log_likelihood = kl = 0.0
    for reference, graph, token in zip(wanted, found, following, strict=True):
        p, q = log_softmax(reference), log_softmax(graph)
        kl += max(0.0, float((np.exp(p) * (p - q)).sum()))
        log_likelihood += float(q[token])
    agreeing = int((found.argmax(-1) == best).sum())
    return TextScore(positions=len(found), log_likelihood=log_likelihood, kl=kl, agreeing=agreeing)


def whole_subject(
    model_path: Path, checkpoint: Checkpoint, family: ModelFamily, target: Target | None = None
) -> Subject:
    """Return a graph and its original whole, the original with unrounded weights.

    Args:
        model_path: the bound graph.
        checkpoint: the source that was quantized or rounded, not what came out of it.
        family: its family.
        target: what the graph was lowered for; None for ``onnx``.
    """
    return make_subject(model_path, checkpoint, family, precision="fp32", mode="full", target=target)


def score_graph(subject: Subject, recording: TextRecording, report: Reporter) -> TextScore:
    """Run the graph on the recorded text.

    Raises:
        GraphNotFiniteError: its logits are not finite.
        EdgellmError: it can't be loaded or run.
    """
    session = subject.open_session()
    ids = recording.ids
    score = TextScore(positions=0, log_likelihood=0.0, kl=0.0, agreeing=0)
    for sample in range(len(ids)):
        report.progress(len(ids) + sample, 2 * len(ids), "graph on held-out text")
        session.start(1)
        logits = session.run(text_inputs(ids, sample))[0][0, :-1]
        if not np.isfinite(logits).all():
            raise GraphNotFiniteError(sample + 1)
        wanted = recording.log_probabilities(sample)
        score += score_text(wanted, logits, best=recording.best[sample], following=ids[sample, 1:])
    return score


def layer_errors(subject: Subject, recording: TextRecording) -> list[float]:
    """Return how far each hidden state is from the original's: before the first decoder layer, then after each.

    Each number is the mean over the first sample of ``‖graph - original‖ / ‖original‖``; empty where graph or original
    do not show their hidden states.
    """
    names = [hidden_name(layer) for layer in range(-1, len(recording.hidden) - 1)]
    if not names or not shown_names(subject.graph.graph).issuperset(names):
        return []
    session = subject.open_session(extra=names)
    session.start(1)
    _, shown = session.run(text_inputs(recording.ids, 0))
    errors = []
    for name, wanted in zip(names, recording.hidden, strict=True):
        reference = wanted.reshape(len(wanted), -1).astype(np.float64)
        difference = shown[name][0].reshape(len(wanted), -1) - reference
        norms = np.maximum(np.linalg.norm(reference, axis=1), np.finfo(np.float64).tiny)
        errors.append(float((np.linalg.norm(difference, axis=1) / norms).mean()))
    return errors


def quality_record(
    score: TextScore, recording: TextRecording, text: CalibrationSet, *, reference: str, max_kl: float | None = None
) -> QualityRecord:
    """Return the means as the manifest has them."""
    return QualityRecord(
        reference=reference,
        text=text.source,
        tokens=score.positions,
        perplexity=math.exp(-score.log_likelihood / score.positions),
        original_perplexity=math.exp(-recording.log_likelihood),
        kl=score.kl / score.positions,
        top1_agreement=score.agreeing / score.positions,
        max_kl=max_kl,
    )


def measure_quality(  # noqa: PLR0913  # each says what is compared, with what, or how
    model_path: Path,
    checkpoint: Checkpoint,
    family: ModelFamily,
    text: CalibrationSet,
    *,
    target: Target | None = None,
    folder: Path,
    max_kl: float | None = None,
    report: Reporter,
) -> QualityRecord:
    """Compare a graph with its original on a text; the original runs first and is freed before the graph is loaded.

    Args:
        model_path: the bound graph; its data lies beside it.
        checkpoint: the source, not quantized.
        family: its family.
        text: held-out samples.
        target: what the graph was lowered for; None for ``onnx``.
        folder: where the original's distributions are kept meanwhile.
        max_kl: the limit, for the record; the caller compares.
        report: told the progress.

    Raises:
        EdgellmError: original or graph can't be loaded or run, or are not finite.
    """
    subject = whole_subject(model_path, checkpoint, family, target)
    with tempfile.TemporaryDirectory(dir=folder, prefix="quality-") as scratch:
        path = Path(scratch) / "original.f16"
        with loaded_original(subject) as model:
            recording = record_text(model, text.ids, path, directory=checkpoint.directory, report=report)
        release_memory()
        score = score_graph(subject, recording, report)
    return quality_record(score, recording, text, reference=subject.reference, max_kl=max_kl)
