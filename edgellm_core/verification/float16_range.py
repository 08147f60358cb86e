"""Watches whether float16 holds what the original computes: on the prompts of the gate, on text, on extreme tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.checkpoint.dimensions import context_length
from edgellm_core.tracing.template import LayerNaming
from edgellm_core.verification.attention_scores import score_note
from edgellm_core.verification.bisect import part_name
from edgellm_core.verification.cases import StepInputs
from edgellm_core.verification.errors import ActivationRangeError
from edgellm_core.verification.extreme_tokens import amplified_directions
from edgellm_core.verification.range_watch import RangeWatch, near_note
from edgellm_core.verification.watch_text import watch_text

if TYPE_CHECKING:
    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Ids
    from edgellm_core.verification.original_weights import OriginalWeights
    from edgellm_core.verification.subject import Subject

ROWS: Final = 64
"""Rows of extreme tokens that run together."""


def watched_steps(subject: Subject, weights: OriginalWeights) -> list[StepInputs]:
    """Return the text that the range is watched on, as steps from an empty cache.

    Args:
        subject: what is compared.
        weights: the original, whose embedding and first layer are read.
    """
    text = subject.config.get_text_config()
    directions: Any = None
    table, shape = weights.embedding()
    if weights.depth:
        with weights.state(0):
            directions = amplified_directions(weights.layers[0], shape[1])
    context = context_length(subject.config)
    found = watch_text(
        subject.directory, table, shape, vocab_size=text.vocab_size, context=context, directions=directions
    )
    rows = [found.text[row : row + 1] for row in range(len(found.text))]
    rows += [found.extreme[row : row + ROWS] for row in range(0, len(found.extreme), ROWS)]
    return [_step(ids) for ids in rows]


def _step(ids: Ids) -> StepInputs:
    positions = np.arange(ids.shape[1])[None].repeat(len(ids), 0)
    return StepInputs(
        label="text", input_ids=ids, attention_mask=np.ones_like(ids), position_ids=positions, chooses=False
    )


def judge_range(watch: RangeWatch, subject: Subject, path: str, tolerance: float, report: Reporter) -> None:
    """Refuse what float16 can't hold, and say what it only just holds.

    Args:
        watch: what was seen.
        subject: what is compared.
        path: path of the list of decoder layers.
        tolerance: that of the comparison, for the error.
        report: told the notes.

    Raises:
        ActivationRangeError: a value is too large.
    """
    naming = LayerNaming(path)

    def part(module: str) -> str | None:
        layer = naming.layer(f"{module}.weight")
        return None if layer is None else part_name(layer, subject.depth)

    if watch.excess:
        first = watch.excess[0]
        raise ActivationRangeError(
            first, check="prompts, text and extreme tokens", tolerance=tolerance, part=part(first.module)
        )
    notes = [near_note(watch.near, part(watch.near[0].module) or "") if watch.near else None]
    score = watch.largest_score
    notes.append(score_note(score, part(score.module) or "") if score else None)
    for note in filter(None, notes):
        report.note(note)
