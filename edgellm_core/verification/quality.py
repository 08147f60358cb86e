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
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.bundle.manifest import QualityRecord
from edgellm_core.verification.budget import choose_parts
from edgellm_core.verification.comparison import log_softmax
from edgellm_core.verification.errors import GraphNotFiniteError
from edgellm_core.verification.graph_chain import GraphChain
from edgellm_core.verification.original import open_original
from edgellm_core.verification.parts import EMBEDDING
from edgellm_core.verification.segments import hidden_name, shown_names
from edgellm_core.verification.subject import Subject, make_subject
from edgellm_core.verification.text_recording import TextRecording, record_text, text_inputs

if TYPE_CHECKING:
    from edgellm_core.calibration.data import CalibrationSet
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Ids, Logits
    from edgellm_core.verification.original import Original
    from edgellm_core.verification.parts import Part

    Hidden = np.ndarray[Any, np.dtype[np.float32]]


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


def score_text(
    wanted: np.ndarray[Any, np.dtype[np.floating[Any]]], found: Logits, *, best: Ids, following: Ids
) -> TextScore:
    """Score one sample.

    Args:
        wanted: the original's logits or logarithms of probabilities, float16 or float32 ``[positions, vocab]``; one
            position at a time is read.
        found: the graph's logits, of the same shape; finite.
        best: int64 ``[positions]``, the original's most likely tokens.
        following: int64 ``[positions]``, the tokens that follow in the text.
    """
    log_likelihood = kl = 0.0
    for reference, graph, token in zip(wanted, found, following, strict=True):
        p, q = log_softmax(np.asarray(reference, np.float32)), log_softmax(graph)
        kl += max(0.0, float((np.exp(p) * (p - q)).sum()))
        log_likelihood += float(q[token])
    agreeing = int((found.argmax(-1) == best).sum())
    return TextScore(positions=len(found), log_likelihood=log_likelihood, kl=kl, agreeing=agreeing)


@dataclass(frozen=True, kw_only=True)
class TextProving:
    """A graph, the original with unrounded weights, and the parts in which they run on a text.

    Attributes:
        subject: the graph and its original.
        original: the original.
        parts: the parts.
    """

    subject: Subject
    original: Original
    parts: tuple[Part, ...]


def prove_on_text(  # each says what is compared, with what, or how
    model_path: Path,
    checkpoint: Checkpoint,
    family: ModelFamily,
    *,
    target: Target | None = None,
    max_memory: int | None = None,
    report: Reporter,
) -> TextProving:
    """Return a graph and its original, with unrounded weights.

    Args:
        model_path: the bound graph.
        checkpoint: the source that was quantized or rounded, not what came out of it.
        family: its family.
        target: what the graph was lowered for; None for ``onnx``.
        max_memory: budget of main memory in bytes; None for what is free.
        report: told where the model can't be run part by part.
    """
    subject = make_subject(model_path, checkpoint, family, precision="fp32", target=target)
    original = open_original(subject)
    parts = choose_parts(subject, original.weights, max_memory=max_memory, report=report)
    return TextProving(subject=subject, original=original, parts=parts)


def score_graph(proving: TextProving, recording: TextRecording, report: Reporter) -> tuple[TextScore, list[float]]:
    """Run the graph on the recorded text.

    Returns:
        The sums over the text, and how far each hidden state of the first sample is from the original's: before the
        first decoder layer, then after each, the mean of ``‖graph - original‖ / ‖original‖``; empty where graph or
        original do not show their hidden states.

    Raises:
        GraphNotFiniteError: its logits are not finite.
        EdgellmError: it can't be loaded or run.
    """
    ids = recording.ids
    score = TextScore(positions=0, log_likelihood=0.0, kl=0.0, agreeing=0)

    def receive(place: tuple[int, int], logits: Logits) -> None:
        nonlocal score
        sample = place[0]
        found = logits[0, :-1]
        if not np.isfinite(found).all():
            raise GraphNotFiniteError(sample + 1)
        wanted = recording.log_probabilities(sample)
        score += score_text(wanted, found, best=recording.best[sample], following=ids[sample, 1:])

    names = [hidden_name(layer) for layer in range(EMBEDDING, len(recording.hidden) + EMBEDDING)]
    if not shown_names(proving.subject.graph.graph).issuperset(names):
        names = []
    plays = [(text_inputs(ids, sample),) for sample in range(len(ids))]
    graph = GraphChain(proving.subject, plays, proving.parts, shown=names, shown_plays=1)
    for index, part in enumerate(proving.parts):
        report.progress(
            len(proving.parts) + index,
            2 * len(proving.parts),
            f"graph on held-out text, {part.in_words(proving.subject.depth)}",
        )
        graph.advance(index, receive)
    shown = graph.steps[0][0].hidden
    return score, [_mean_error(shown[name][0], own) for name, own in zip(names, recording.hidden, strict=False)]


def _mean_error(found: Hidden, wanted: Hidden) -> float:
    reference = wanted.reshape(len(wanted), -1).astype(np.float64)
    difference = found.reshape(len(wanted), -1) - reference
    norms = np.maximum(np.linalg.norm(reference, axis=1), np.finfo(np.float64).tiny)
    return float((np.linalg.norm(difference, axis=1) / norms).mean())


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
    max_memory: int | None = None,
    report: Reporter,
) -> QualityRecord:
    """Compare a graph with its original on a text, part by part: the original first, then the graph.

    Args:
        model_path: the bound graph; its data lies beside it.
        checkpoint: the source, not quantized.
        family: its family.
        text: held-out samples.
        target: what the graph was lowered for; None for ``onnx``.
        folder: where the original's distributions are kept meanwhile.
        max_kl: the limit, for the record; the caller compares.
        max_memory: budget of main memory in bytes; None for what is free.
        report: told the progress.

    Raises:
        EdgellmError: original or graph can't be loaded or run, or are not finite.
    """
    proving = prove_on_text(model_path, checkpoint, family, target=target, max_memory=max_memory, report=report)
    with tempfile.TemporaryDirectory(dir=folder, prefix="quality-") as scratch:
        path = Path(scratch) / "original.f16"
        recording = record_text(
            proving.original, proving.parts, text.ids, path, directory=checkpoint.directory, report=report
        )
        score, _ = score_graph(proving, recording, report)
    return quality_record(score, recording, text, reference=proving.subject.reference, max_kl=max_kl)
