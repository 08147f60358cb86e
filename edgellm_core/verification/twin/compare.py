"""Runs a twin's graph and its original on the same cases and refuses a graph that differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.runtime.errors import GraphRunError
from edgellm_core.runtime.session import DecoderSession
from edgellm_core.verification.cases import alone, case_steps
from edgellm_core.verification.twin.errors import TwinDiffersError, TwinNotMadeError, TwinStoppedError
from edgellm_core.verification.twin.original import OriginalRunner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from edgellm_core.verification.cases import Case, Logits, StepInputs
    from edgellm_core.verification.twin.lengths import Edge

TOLERANCE: Final = 1e-4
"""Largest ``max |a - b| / max |b|`` that passes; both sides compute in float32."""


class GraphRunner:
    """Runs a twin's graph step by step through the product's own runtime."""

    def __init__(self, model_path: Path) -> None:
        self._session = DecoderSession(model_path, threads=1)
        self._states: Any = None

    def start(self, batch: int) -> None:
        """Forget the states."""
        self._states = self._session.initial_states(batch)

    def run(self, inputs: StepInputs) -> Logits:
        """Run one step; return float32 logits [batch, seq, vocab]."""
        logits, self._states = self._session.run(
            inputs.input_ids, inputs.attention_mask, inputs.position_ids, self._states
        )
        return logits


def compare(graph: GraphRunner, model: PreTrainedModel, cases: Sequence[Case], edges: Sequence[Edge]) -> float:
    """Run all cases on both.

    Args:
        graph: the twin's graph.
        model: its original, over the same weights.
        cases: what runs, shortest first.
        edges: lengths where behaviour changes, for the message.

    Returns:
        The largest relative error.

    Raises:
        TwinDiffersError: the graph differs from the original.
        TwinStoppedError: the graph can't be run.
        TwinNotMadeError: the original's logits are not finite.
    """
    original = OriginalRunner(model)
    largest, right = 0.0, 0
    for case in cases:
        try:
            error, length = _run_case(graph, original, case, model)
        except GraphRunError as stopped:
            raise TwinStoppedError(case.name, sum(case.chunks), edges, str(stopped.__cause__)) from stopped
        if not error <= TOLERANCE:
            raise TwinDiffersError(case.name, length, right, error, TOLERANCE, edges)
        largest, right = max(largest, error), max(right, length)
    return largest


def _run_case(graph: GraphRunner, original: OriginalRunner, case: Case, model: PreTrainedModel) -> tuple[float, int]:
    """Run one case, up to its first step that differs; return its largest error and how many tokens were read."""
    if len(case.rows) > 1 and set(case.chunks) == {1}:
        return _run_rows_alone(graph, original, case, model)
    original.start()
    graph.start(len(case.rows))
    worst, length = 0.0, 0
    for inputs in case_steps(case):
        worst = _worse(worst, _step(graph, original, inputs, model))
        length = inputs.attention_mask.shape[1]
        if not worst <= TOLERANCE:
            break
    return worst, length


def _run_rows_alone(
    graph: GraphRunner, original: OriginalRunner, case: Case, model: PreTrainedModel
) -> tuple[float, int]:
    """Run a padded batch on the graph and its rows alone on the original, all token by token.

    The graph keeps the states of a row over its padding, which transformers' code for one token does not.
    """
    graph.start(len(case.rows))
    found = np.concatenate([graph.run(inputs) for inputs in case_steps(case)], axis=1)
    errors = []
    for row, single in zip(found, alone(case), strict=True):
        original.start()
        wanted = np.concatenate([original.run(inputs)[0] for inputs in case_steps(single)])
        _require_finite(wanted, model)
        errors.append(float(np.abs(row[-len(wanted) :] - wanted).max() / np.abs(wanted).max()))
    return float(np.max(errors)), found.shape[1]


def _require_finite(logits: Logits, model: PreTrainedModel) -> None:
    if not np.isfinite(logits).all():
        raise TwinNotMadeError(model.config.model_type, "its logits are not finite with random weights")


def _step(graph: GraphRunner, original: OriginalRunner, inputs: StepInputs, model: PreTrainedModel) -> float:
    wanted, found = original.run(inputs), graph.run(inputs)
    real = inputs.real
    _require_finite(wanted[real], model)
    errors = [
        float(np.abs(row[keep] - other[keep]).max() / np.abs(other[keep]).max())
        for row, other, keep in zip(found, wanted, real, strict=True)
        if keep.any()
    ]
    return float(np.max(errors, initial=0.0))


def _worse(one: float, other: float) -> float:
    """Return the larger error; NaN is the largest."""
    return float(np.max([one, other]))
