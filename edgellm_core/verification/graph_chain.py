"""Runs a graph part by part: one part's weights are in memory, and all steps of all plays go through it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.memory import release_memory
from edgellm_core.runtime.prefill import split_steps
from edgellm_core.targets import load_class
from edgellm_core.verification.segments import cut, segment_model

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from edgellm_core.verification.cases import Logits, StepInputs
    from edgellm_core.verification.parts import Part
    from edgellm_core.verification.session import GraphSession, Tensors
    from edgellm_core.verification.subject import Subject

    Place = tuple[int, int]
    """Play and step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphStep:
    """What the graph computed in one step: tensors that it shows by name, float32 [batch, seq, …], and logits."""

    inputs: StepInputs
    hidden: Tensors = field(default_factory=dict)
    logits: Logits | None = None


class GraphChain:
    """The graph's side of a comparison.

    Attributes:
        steps: what was computed so far: for each play, its steps.
    """

    def __init__(
        self,
        subject: Subject,
        plays: Sequence[Sequence[StepInputs]],
        parts: Sequence[Part],
        *,
        shown: Sequence[str] = (),
        shown_plays: int | None = None,
        widened: bool = True,
    ) -> None:
        """Cut the graph; nothing is loaded.

        Args:
            subject: what is compared.
            plays: runs from an empty cache, each with its steps in order.
            parts: parts of the model.
            shown: names of tensors to show.
            shown_plays: how many plays, the first ones, show them; None for all.
            widened: raise the types of a float16 graph to float32.
        """
        self._class: type[GraphSession] = load_class(subject.target.graph_session)
        self._model = self._class.prepare(subject.graph, subject.folder, widened=widened)
        self._folder = subject.folder
        self._segments = cut(self._model.graph, parts, subject.depth)
        self._shown = tuple(dict.fromkeys(shown))
        self._shown_plays = len(plays) if shown_plays is None else shown_plays
        size = 1 if subject.one_token else None
        self._plays = [[_split(step, size) for step in play] for play in plays]
        self._carried: dict[tuple[int, int, int], dict[str, Any]] = {}
        self.steps: list[list[GraphStep]] = [[GraphStep(inputs=step) for step in play] for play in plays]

    def advance(self, index: int, receive: Callable[[Place, Logits], None] | None = None) -> None:
        """Take all plays through one part.

        Args:
            index: the part, one after the other.
            receive: takes the logits of each step where the part makes them; by default they are kept in ``steps``.

        Raises:
            EdgellmError: the part can't be loaded or run.
        """
        segment = self._segments[index]
        if not segment.nodes:
            return
        example = next(iter(self._carried.values()), {})
        model = segment_model(self._model, segment, example, self._shown)
        session = self._class(model, self._folder, extra=self._shown)
        del model
        still_taken = {name for later in self._segments[index + 1 :] for name in later.taken}
        for play, steps in enumerate(self._plays):
            session.start(len(steps[0][0].input_ids))
            for step, pieces in enumerate(steps):
                found = []
                for piece, inputs in enumerate(pieces):
                    carried = self._carried.get((play, step, piece), {})
                    results = session.step(inputs, carried)
                    kept = {name: value for name, value in {**carried, **results}.items() if name in still_taken}
                    self._carried[play, step, piece] = kept
                    wanted = (*self._shown, "logits") if play < self._shown_plays else ("logits",)
                    shown = {name: results[name] for name in wanted if name in results}
                    found.append({name: session.in_batch(value, inputs) for name, value in shown.items()})
                self._keep((play, step), _joined(found), receive)
        del session
        release_memory()

    def forget_shown(self, *, except_for: Collection[str] = ()) -> None:
        """Drop the tensors that were shown, once a part is compared."""
        self.steps = [
            [
                replace(step, hidden={name: value for name, value in step.hidden.items() if name in except_for})
                for step in play
            ]
            for play in self.steps
        ]

    def _keep(self, place: Place, found: Tensors, receive: Callable[[Place, Logits], None] | None) -> None:
        play, number = place
        logits = found.pop("logits", None)
        step = self.steps[play][number]
        if logits is not None and receive is not None:
            receive(place, logits)
            logits = None
        self.steps[play][number] = replace(step, hidden={**step.hidden, **found}, logits=logits)


def _split(step: StepInputs, size: int | None) -> list[StepInputs]:
    """Return a step as the steps that the graph takes."""
    pieces = split_steps(step.input_ids, step.attention_mask, step.position_ids, size)
    return [
        replace(step, input_ids=ids, attention_mask=mask, position_ids=positions) for ids, mask, positions in pieces
    ]


def _joined(pieces: Sequence[Tensors]) -> Tensors:
    if len(pieces) == 1:
        return dict(pieces[0])
    return {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in pieces[0]}
