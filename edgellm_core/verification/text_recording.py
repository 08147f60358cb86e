"""What the original says about a text: its distribution at every position, kept on disk while the graph runs.

Both models never are in memory at once, and the distributions of 8 000 positions over 50 000 tokens are too many for
memory too. They are kept as logarithms in float16. Read back and normalized they are the distribution that the graph is
compared with, so a rounded tail costs no bias: for equal models the divergence that remains is below 1e-6 nats.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.checkpoint.errors import DiskSpaceError
from edgellm_core.checkpoint.machine import free_disk
from edgellm_core.verification.cases import Case, prefill_inputs
from edgellm_core.verification.comparison import log_softmax
from edgellm_core.verification.errors import ReferenceNotFiniteError
from edgellm_core.verification.memory import free_weights
from edgellm_core.verification.reference import ReferenceRunner, load_reference, suitable_threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Ids, Logits, StepInputs
    from edgellm_core.verification.subject import Subject

SMALLEST_LOGARITHM: Final = -65000.0
"""Logarithms are cut here, just above float16's smallest number (-65504), so that no probability becomes 0."""


@dataclass(frozen=True, kw_only=True)
class TextRecording:
    """The original on a text.

    Attributes:
        ids: int64 ``[samples, length]``.
        path: float16 logarithms of the probabilities, ``[samples, length - 1, vocab]``; the last position of a sample
            predicts nothing that is known.
        vocab: size of the vocabulary.
        best: int64 ``[samples, length - 1]``, the most likely tokens.
        log_likelihood: mean of the logarithms of the probabilities of the tokens that follow, in nats.
        hidden: float32 ``[length, hidden]`` of the first sample after the embedding and after each decoder layer; empty
            where the model has no list of decoder layers.
    """

    ids: Ids
    path: Path
    vocab: int
    best: Ids
    log_likelihood: float
    hidden: tuple[np.ndarray[Any, np.dtype[np.float32]], ...]

    def log_probabilities(self, sample: int) -> Logits:
        """Return float32 ``[length - 1, vocab]`` of one sample, read from disk."""
        samples, length = self.ids.shape
        stored = np.memmap(self.path, np.float16, "r", shape=(samples, length - 1, self.vocab))
        logarithms: Logits = stored[sample].astype(np.float32)
        return logarithms


def text_inputs(ids: Ids, sample: int) -> StepInputs:
    """Return one sample as the inputs of one call."""
    case = Case(name="held-out text", prompts=(sample,), rows=(tuple(ids[sample].tolist()),), chunks=(ids.shape[1],))
    return next(iter(prefill_inputs(case)))


@contextlib.contextmanager
def loaded_original(subject: Subject) -> Iterator[PreTrainedModel]:
    """Hold the original in memory in the body, and free it after.

    Args:
        subject: whole model, in precision ``fp32`` so that its weights are not rounded.

    Raises:
        ReferenceLoadError: transformers can't load the original.
    """
    model = load_reference(subject)
    try:
        yield model
    finally:
        free_weights(model)


def record_text(model: PreTrainedModel, ids: Ids, path: Path, *, directory: Path, report: Reporter) -> TextRecording:
    """Run the original on a text.

    Args:
        model: the original.
        ids: int64 ``[samples, length]``.
        path: file to write the distributions to; the caller deletes it.
        directory: the original's checkpoint, for messages.
        report: told the progress.

    Raises:
        DiskSpaceError: the file does not fit.
        ReferenceNotFiniteError: its logits are not finite.
    """
    runner = ReferenceRunner(model)
    samples, length = ids.shape
    best = np.zeros((samples, length - 1), np.int64)
    total, vocab, hidden = 0.0, 0, []
    with path.open("wb") as file:
        for sample in range(samples):
            report.progress(sample, 2 * samples, "original on held-out text")
            runner.start()
            with suitable_threads(model), _watched(model, watch=sample == 0) as seen:
                logits = runner.run(text_inputs(ids, sample))[0, :-1]
            if not np.isfinite(logits).all():
                raise ReferenceNotFiniteError(directory, f"held-out text, sample {sample + 1}")
            if sample == 0:
                hidden, vocab = seen, logits.shape[1]
                _require_space(path, samples * (length - 1) * vocab * 2)
            best[sample] = logits.argmax(-1)
            for row, target in zip(logits, ids[sample, 1:], strict=True):
                logarithms = log_softmax(row)
                total += logarithms[target]
                file.write(np.maximum(logarithms, SMALLEST_LOGARITHM).astype(np.float16).tobytes())
    return TextRecording(
        ids=ids, path=path, vocab=vocab, best=best, log_likelihood=total / best.size, hidden=tuple(hidden)
    )


def _require_space(path: Path, needed: int) -> None:
    free = free_disk(path)
    if needed > free:
        raise DiskSpaceError("Measuring the quality", path.parent, needed=needed, free=free)


@contextlib.contextmanager
def _watched(model: PreTrainedModel, *, watch: bool) -> Iterator[list[np.ndarray[Any, np.dtype[np.float32]]]]:
    """Collect the hidden states before the first and after each decoder layer in the body."""
    from edgellm_core.tracing.layers import find_stack

    seen: list[Any] = []

    def enter(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = named["hidden_states"] if "hidden_states" in named else arguments[0]
        seen.append(given[0].float().numpy().copy())

    def leave(_module: Any, _arguments: Any, output: Any) -> None:
        result = output[0] if isinstance(output, tuple) else output
        seen.append(result[0].float().numpy().copy())

    path, layers = find_stack(model)
    handles = []
    if watch and path:
        handles.append(layers[0].register_forward_pre_hook(enter, with_kwargs=True))
        handles += [layer.register_forward_hook(leave) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
