"""Runs a twin's graph and its original on the same cases and refuses a graph that differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from edgellm_core.runtime.errors import GraphRunError
from edgellm_core.runtime.session import DecoderSession
from edgellm_core.verification.cases import alone, case_steps
from edgellm_core.verification.comparison import relative_difference
from edgellm_core.verification.rounding_noise import DRAWS, FACTOR, LARGEST, rounded_otherwise
from edgellm_core.verification.twin.errors import TwinDiffersError, TwinNotMadeError, TwinStoppedError
from edgellm_core.verification.twin.original import OriginalRunner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from edgellm_core.verification.cases import Case, Logits, StepInputs
    from edgellm_core.verification.twin.lengths import Edge

TOLERANCE: Final = 1e-4
"""Largest ``max |a - b| / max |b|`` that passes; both sides compute in float32."""


class Runner(Protocol):
    """One side: runs the steps of a case."""

    def start(self) -> None:
        """Forget what was read."""

    def run(self, inputs: StepInputs) -> Logits:
        """Run one step; return float32 logits [batch, seq, vocab]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinComparison:
    """What the comparison of a twin found.

    Attributes:
        error: largest relative error of the logits.
        tolerance: ``TOLERANCE``, or more where the original itself moves by more when it rounds otherwise.
    """

    error: float
    tolerance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunk:
    """Logits that are compared at once: of each row with tokens, float32 [tokens, vocab]; ``length`` was read."""

    length: int
    rows: list[Logits]


class GraphRunner:
    """Runs a twin's graph step by step through the product's own runtime."""

    def __init__(self, model_path: Path) -> None:
        self._session = DecoderSession(model_path, threads=1)
        self._states: Any = None

    def start(self) -> None:
        """Forget the states."""
        self._states = None

    def run(self, inputs: StepInputs) -> Logits:
        """Run one step; return float32 logits [batch, seq, vocab]."""
        states = self._session.initial_states(len(inputs.input_ids)) if self._states is None else self._states
        logits, self._states = self._session.run(inputs.input_ids, inputs.attention_mask, inputs.position_ids, states)
        return logits


def compare(graph: GraphRunner, model: PreTrainedModel, cases: Sequence[Case], edges: Sequence[Edge]) -> TwinComparison:
    """Run all cases on both.

    Args:
        graph: the twin's graph.
        model: its original, over the same weights.
        cases: what runs, shortest first.
        edges: lengths where behaviour changes, for the message.

    Raises:
        TwinDiffersError: the graph differs from the original.
        TwinStoppedError: the graph can't be run.
        TwinNotMadeError: the original's logits are not finite.
    """
    original = OriginalRunner(model)
    largest, right, widest = 0.0, 0, TOLERANCE
    for case in cases:
        tolerance = TOLERANCE
        try:
            error, length = _run_case(graph, original, case, model, tolerance)
            if tolerance < error <= LARGEST:
                tolerance = max(tolerance, _rounding(original, case, model))
                error, length = _run_case(graph, original, case, model, tolerance)
        except GraphRunError as stopped:
            raise TwinStoppedError(case.name, sum(case.chunks), edges, str(stopped.__cause__)) from stopped
        if not error <= tolerance:
            raise TwinDiffersError(case.name, length, right, error, tolerance, edges)
        largest, right, widest = max(largest, error), max(right, length), max(widest, tolerance)
    return TwinComparison(error=largest, tolerance=widest)


def _run_case(
    graph: GraphRunner, original: OriginalRunner, case: Case, model: PreTrainedModel, tolerance: float
) -> tuple[float, int]:
    """Run one case, up to its first chunk that differs; return its largest error and how many tokens were read."""
    worst, length = 0.0, 0
    for found, wanted in zip(_of_graph(graph, case), _of_original(original, case, model), strict=True):
        worst, length = float(np.max([worst, _error(found, wanted)])), found.length  # of numbers and NaN, NaN
        if not worst <= tolerance:
            break
    return worst, length


def _rounding(original: OriginalRunner, case: Case, model: PreTrainedModel) -> float:
    """Return how far rounding alone may move the logits of a case, by what it does to the original."""
    wanted = list(_of_original(original, case, model))
    errors = []
    for seed in range(DRAWS):
        with rounded_otherwise(model, seed):
            errors += [_error(*pair) for pair in zip(_of_original(original, case, model), wanted, strict=True)]
    return min(LARGEST, FACTOR * max(errors))


def _of_graph(graph: GraphRunner, case: Case) -> Iterator[_Chunk]:
    if _keeps_states_over_padding(case):
        return iter([_joined(list(_by_step(graph, case)))])
    return _by_step(graph, case)


def _of_original(original: OriginalRunner, case: Case, model: PreTrainedModel) -> Iterator[_Chunk]:
    if _keeps_states_over_padding(case):
        rows = [_joined(list(_by_step(original, single))) for single in alone(case)]
        chunks = iter([_Chunk(length=max(row.length for row in rows), rows=[row.rows[0] for row in rows])])
    else:
        chunks = _by_step(original, case)
    for chunk in chunks:
        if not all(np.isfinite(row).all() for row in chunk.rows):
            raise TwinNotMadeError(model.config.model_type, "its logits are not finite with random weights")
        yield chunk


def _keeps_states_over_padding(case: Case) -> bool:
    """Say whether rows run alone on the original: its code for one token does not keep states over padding."""
    return len(case.rows) > 1 and set(case.chunks) == {1}


def _by_step(runner: Runner, case: Case) -> Iterator[_Chunk]:
    runner.start()
    for inputs in case_steps(case):
        logits = runner.run(inputs)
        rows = [row[keep] for row, keep in zip(logits, inputs.real, strict=True)]
        yield _Chunk(length=inputs.attention_mask.shape[1], rows=rows)


def _joined(chunks: Sequence[_Chunk]) -> _Chunk:
    rows = [np.concatenate(parts) for parts in zip(*(chunk.rows for chunk in chunks), strict=True)]
    return _Chunk(length=chunks[-1].length, rows=rows)


def _error(found: _Chunk, wanted: _Chunk) -> float:
    """Return the largest ``max |a - b| / max |b|`` of all rows; a row of padding is left out."""
    pairs = zip(found.rows, wanted.rows, strict=True)
    errors = [relative_difference(row, other) for row, other in pairs if len(other)]
    return float(np.max(errors, initial=0.0))
