"""What the original says about a text: its distribution at every position, kept on disk while the graph runs.

The distributions of 8 000 positions over 50 000 tokens are too many for
memory too. They are kept as logarithms in float16. Read back and normalized they are the distribution that the graph is
compared with, so a rounded tail costs no bias: for equal models the divergence that remains is below 1e-6 nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.checkpoint.errors import DiskSpaceError
from edgellm_core.checkpoint.machine import free_disk
from edgellm_core.verification.cases import Case, prefill_inputs
from edgellm_core.verification.comparison import log_softmax
from edgellm_core.verification.errors import ReferenceNotFiniteError
from edgellm_core.verification.original_chain import OriginalChain
from edgellm_core.verification.parts import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Ids, Logits, StepInputs
    from edgellm_core.verification.original import Original
    from edgellm_core.verification.parts import Part

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

    def log_probabilities(self, sample: int) -> np.ndarray[Any, np.dtype[np.float16]]:
        """Return float16 ``[length - 1, vocab]`` of one sample, mapped from disk."""
        samples, length = self.ids.shape
        stored = np.memmap(self.path, np.float16, "r", shape=(samples, length - 1, self.vocab))
        logarithms: np.ndarray[Any, np.dtype[np.float16]] = stored[sample]
        return logarithms


def text_inputs(ids: Ids, sample: int) -> StepInputs:
    """Return one sample as the inputs of one call."""
    case = Case(name="held-out text", prompts=(sample,), rows=(tuple(ids[sample].tolist()),), chunks=(ids.shape[1],))
    return next(iter(prefill_inputs(case)))


def record_text(
    original: Original, parts: Sequence[Part], ids: Ids, path: Path, *, directory: Path, report: Reporter
) -> TextRecording:
    """Run the original on a text, part by part.

    Args:
        original: the original, its weights not rounded.
        parts: parts of the model.
        ids: int64 ``[samples, length]``.
        path: file to write the distributions to; the caller deletes it.
        directory: the original's checkpoint, for messages.
        report: told the progress.

    Raises:
        DiskSpaceError: the file does not fit.
        ReferenceNotFiniteError: its logits are not finite.
    """
    samples, length = ids.shape
    best = np.zeros((samples, length - 1), np.int64)
    total, vocab = 0.0, 0
    depth = original.weights.depth
    with path.open("wb") as file:

        def receive(place: tuple[int, int], logits: Logits) -> None:
            nonlocal total, vocab
            sample = place[0]
            logits = logits[0, :-1]
            if not np.isfinite(logits).all():
                raise ReferenceNotFiniteError(directory, f"held-out text, sample {sample + 1}")
            if sample == 0:
                vocab = logits.shape[1]
                _require_space(path, samples * (length - 1) * vocab * 2)
            best[sample] = logits.argmax(-1)
            for row, target in zip(logits, ids[sample, 1:], strict=True):
                logarithms = log_softmax(row)
                total += logarithms[target]
                file.write(np.maximum(logarithms, SMALLEST_LOGARITHM).astype(np.float16).tobytes())

        plays = [(text_inputs(ids, sample),) for sample in range(samples)]
        with OriginalChain(
            original.weights, plays, parts, shown_layers=range(EMBEDDING, depth), shown_plays=1
        ) as chain:
            for index, part in enumerate(parts):
                report.progress(index, 2 * len(parts), f"original on held-out text, {part.in_words(depth)}")
                chain.advance(index, receive)
            hidden = tuple(chain.hidden[(0, 0), layer][0] for layer in range(EMBEDDING, depth)) if depth else ()
    return TextRecording(ids=ids, path=path, vocab=vocab, best=best, log_likelihood=total / best.size, hidden=hidden)


def _require_space(path: Path, needed: int) -> None:
    free = free_disk(path)
    if needed > free:
        raise DiskSpaceError("Measuring the quality", path.parent, needed=needed, free=free)
