"""Takes the graph and the original through the same cases, part by part, and pairs what they computed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.verification.cases import alone, case_steps
from edgellm_core.verification.graph_chain import GraphChain
from edgellm_core.verification.original_chain import OriginalChain
from edgellm_core.verification.segments import hidden_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgellm_core.events import Reporter
    from edgellm_core.verification.cases import Case, Logits, StepInputs
    from edgellm_core.verification.original import Original
    from edgellm_core.verification.parts import Part
    from edgellm_core.verification.range_watch import RangeWatch
    from edgellm_core.verification.session import Tensors
    from edgellm_core.verification.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What both sides computed in one case.

    Attributes:
        case: the case.
        steps: inputs of the graph's steps.
        found: for each step, the graph's numbers, float32 [batch, seq, …]: logits, or hidden states where only the
            first layers are compared.
        wanted: for each row, the original's numbers at its tokens, float32 [tokens, …].
    """

    case: Case
    steps: Sequence[StepInputs]
    found: Sequence[Logits]
    wanted: Sequence[Logits]

    def rows(self) -> Iterator[tuple[int, int, Logits, Logits]]:
        """Yield step, row, and the original's and the graph's numbers at its tokens; a row of padding is left out."""
        done = [0] * len(self.case.rows)
        for number, step in enumerate(self.steps):
            for row, real in enumerate(step.real):
                count = int(real.sum())
                wanted = self.wanted[row][done[row] : done[row] + count]
                done[row] += count
                if count:
                    yield number, row, wanted, self.found[number][row][real]


@dataclass(frozen=True, slots=True)
class _Play:
    """A run of the original: all rows of a case, or one row of it alone.

    Attributes:
        case: index of the case.
        row: the row; None for all.
        steps: inputs of its steps.
    """

    case: int
    row: int | None
    steps: tuple[StepInputs, ...]


def record_cases(  # noqa: PLR0913  # each says what is run, in what, or how
    subject: Subject,
    original: Original,
    cases: Sequence[Case],
    parts: Sequence[Part],
    report: Reporter,
    *,
    widened: bool = True,
    watch: RangeWatch | None = None,
    watched: Sequence[StepInputs] = (),
) -> list[Recording]:
    """Run cases on both sides.

    Of a quantized model the graph shows what it rounded, and the original goes on from the same numbers
    (``synchronized.py``), so in each part the graph comes first.

    Args:
        subject: what is compared.
        original: the original.
        cases: what is run.
        parts: parts of the model.
        report: told the progress.
        widened: raise the types of a float16 graph to float32.
        watch: watches the original where there is no padding.
        watched: steps that the original alone runs, each from an empty cache, for the watch.

    Raises:
        EdgellmError: one of them can't be loaded or run.
    """
    plays = [play for index, case in enumerate(cases) for play in _plan_plays(index, case, subject)]
    steps = [*(play.steps for play in plays), *((step,) for step in watched)]
    ends = sorted({case.layers - 1 for case in cases if case.layers is not None})
    synchronizer = original.synchronizer
    points = synchronizer.points.values() if synchronizer else ()
    graph_steps = [case_steps(case) for case in cases]
    graph = GraphChain(subject, graph_steps, parts, shown=[*map(hidden_name, ends), *points], widened=widened)

    def begin(place: tuple[int, int]) -> None:
        play, number = place
        inputs = steps[play][number]
        if watch is not None:
            watch.active = bool(inputs.attention_mask.all())
        if synchronizer is not None:  # of a watched step the graph shows nothing
            shown = graph.steps[plays[play].case][number].hidden if play < len(plays) else {}
            synchronizer.begin(shown, inputs.real)

    def receive(place: tuple[int, int], logits: Logits) -> None:
        if place[0] < len(plays):
            chain.logits[place] = logits

    count = 2 * len(parts)
    hooked = contextlib.nullcontext() if watch is None else watch.hooked(original.weights.model)
    with (
        hooked,
        OriginalChain(
            original.weights,
            steps,
            parts,
            make_cache=original.make_cache,
            before_step=begin,
            shown_layers=ends,
            shown_plays=len(plays),
            whole_plays=len(plays),
            around=contextlib.nullcontext if watch is None else watch.calls,
        ) as chain,
    ):
        for index, part in enumerate(parts):
            report.progress(2 * index, count, f"graph, {part.in_words(subject.depth)}")
            graph.advance(index)
            report.progress(2 * index + 1, count, f"original, {part.in_words(subject.depth)}")
            chain.advance(index, receive)
            graph.forget_shown(except_for=set(map(hidden_name, ends)))
        report.progress(count, count)
        return [
            Recording(
                case=case,
                steps=graph_steps[index],
                found=[
                    _graph_numbers(step.hidden, step.logits, case, inputs)
                    for step, inputs in zip(graph.steps[index], graph_steps[index], strict=True)
                ],
                wanted=_original_rows(index, case, plays, chain),
            )
            for index, case in enumerate(cases)
        ]


def record_original(  # what is run, in what, and how
    subject: Subject,
    original: Original,
    cases: Sequence[Case],
    parts: Sequence[Part],
    report: Reporter,
    *,
    apart: bool = False,
    name: str = "original",
) -> list[list[Logits]]:
    """Run cases on the original alone, which follows no numbers of the graph.

    Args:
        subject: what is compared.
        original: the original.
        cases: what is run.
        parts: parts of the model.
        report: told the progress.
        apart: run each row alone, without padding.
        name: what the progress calls it.

    Returns:
        For each case, the numbers of each row, float32 [tokens, …].

    Raises:
        EdgellmError: it can't be loaded or run.
    """
    plays = [play for index, case in enumerate(cases) for play in _plan_plays(index, case, subject, apart=apart)]
    ends = sorted({case.layers - 1 for case in cases if case.layers is not None})
    steps = [play.steps for play in plays]
    with OriginalChain(original.weights, steps, parts, make_cache=original.make_cache, shown_layers=ends) as chain:
        for index, part in enumerate(parts):
            report.progress(index, len(parts), f"{name}, {part.in_words(subject.depth)}")
            chain.advance(index)
        return [_original_rows(index, case, plays, chain) for index, case in enumerate(cases)]


def _plan_plays(index: int, case: Case, subject: Subject, *, apart: bool = False) -> list[_Play]:
    """Return what the original runs of a case.

    A graph that takes one token a step keeps the states of a row over its padding, which transformers' code for one
    token does not, so such rows run alone. Of quantized models both run the same batch, to round together.

    Args:
        index: index of the case.
        case: the case.
        subject: what is compared.
        apart: run each row alone, without padding, whatever the graph takes.
    """
    apart = apart or (subject.one_token and subject.layout is None)
    if apart and len(case.rows) > 1:
        return [_Play(index, row, case_steps(single)) for row, single in enumerate(alone(case))]
    return [_Play(index, None, case_steps(case))]


def _graph_numbers(shown: Tensors, logits: Logits | None, case: Case, inputs: StepInputs) -> Logits:
    if case.layers is not None:
        return batch_first(shown[hidden_name(case.layers - 1)], inputs)
    assert logits is not None  # for mypy: the last part was run
    return logits


def batch_first(values: Logits, inputs: StepInputs) -> Logits:
    """Return what a layer or the head yields as [batch, seq, …]; Gemma 3n has its four streams before the batch."""
    size = inputs.input_ids.shape
    axis = next((axis for axis in range(values.ndim - 1) if values.shape[axis : axis + 2] == size), 0)
    return np.moveaxis(values, (axis, axis + 1), (0, 1))


def _original_rows(index: int, case: Case, plays: Sequence[_Play], chain: OriginalChain) -> list[Logits]:
    """Return the original's numbers of a case by row, float32 [tokens, …], without padding."""
    rows: list[list[Logits]] = [[] for _ in case.rows]
    for number, play in enumerate(plays):
        if play.case != index:
            continue
        for step, inputs in enumerate(play.steps):
            place = number, step
            shown = chain.logits[place] if case.layers is None else chain.hidden[place, case.layers - 1]
            values = batch_first(shown, inputs)
            for row, real in enumerate(inputs.real):
                rows[row if play.row is None else play.row].append(values[row][real])
    return [np.concatenate(parts) for parts in rows]
