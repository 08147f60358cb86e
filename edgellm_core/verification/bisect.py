"""Finds the first part of a graph that diverges from the original.

An error that one layer makes travels through all later ones, so comparing hidden states layer by layer would need a
guess at where they "jump". Instead each layer of the original is fed the hidden state that the *graph* has before that
layer: what comes out then differs from the graph's next hidden state only by what this one layer does. The steps before
the failing one run the same way, so the cache is compared too.

The culprit is the first part whose own error is at least ``STANDS_OUT`` of the largest: a defect of one layer stands
out alone, and one of all layers (epsilon, RoPE) is named where it begins. No absolute limit would do, since layers
differ in how much they amplify rounding (in SmolLM2-135M by a factor of 10).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.memory import release_memory
from edgellm_core.verification.graph_chain import GraphChain
from edgellm_core.verification.original_chain import OriginalChain
from edgellm_core.verification.segments import can_be_cut, hidden_name
from edgellm_core.verification.tolerances import LOCAL_NOISE
from edgellm_core.verification.weights import differing_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import nn

    from edgellm_core.verification.cases import StepInputs
    from edgellm_core.verification.gate import Proving
    from edgellm_core.verification.graph_chain import GraphStep
    from edgellm_core.verification.synchronized import Synchronizer

EMBEDDING: Final = "the embedding"
HEAD: Final = "the final norm or the head"

STANDS_OUT: Final = 0.1
"""Share of the largest error from which a part is the culprit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Culprit:
    """The first part that diverges.

    Attributes:
        part: in words; empty where none stands out.
        finite: whether what it computes is finite.
        within_rounding: no part's own error exceeds what rounding explains, and all weights are equal.
        tensors: its weights that differ from the checkpoint.
    """

    part: str
    finite: bool = True
    within_rounding: bool = False
    tensors: tuple[str, ...] = ()


def find_culprit(proving: Proving, steps: Sequence[StepInputs]) -> Culprit | None:
    """Find the first part that diverges in the last of ``steps``, which run from an empty cache.

    Returns:
        None where the graph does not name its hidden states, or the original has no list of decoder layers.
    """
    subject, weights = proving.subject, proving.original.weights
    if not weights.depth or not can_be_cut(subject.graph.graph, subject.depth):
        return None
    names = [hidden_name(layer) for layer in range(-1, subject.depth)]
    synchronizer = proving.original.synchronizer
    points = list(synchronizer.points.values()) if synchronizer else []
    graph = GraphChain(subject, [steps], proving.parts, shown=[*names, *points])
    for index in range(len(proving.parts)):
        graph.advance(index)
    found = graph.steps[0]
    del graph
    release_memory()
    first = _first_non_finite(found[-1], names)
    if first is not None:
        part = part_name(first, subject.depth)
        return Culprit(part=part, finite=False, tensors=_differing(proving, first))
    return _compare_parts(proving, found)


def _first_non_finite(step: GraphStep, names: Sequence[str]) -> int | None:
    """Return the first layer whose hidden state is not finite; the number of layers for the logits; None for none."""
    for layer, name in enumerate(names, -1):
        if not np.isfinite(step.hidden[name]).all():
            return layer
    assert step.logits is not None  # for mypy: the last part was run
    return None if np.isfinite(step.logits[step.inputs.real]).all() else len(names) - 1


def part_name(layer: int, layers: int) -> str:
    """Return a part in words: -1 is the embedding, ``layers`` what follows the last layer."""
    if layer < 0:
        return EMBEDDING
    return HEAD if layer >= layers else f"decoder layer {layer}"


def choose_part(errors: Sequence[float]) -> int:
    """Return the index of the first error that stands out; NaN counts as infinite."""
    finite = np.nan_to_num(np.array(errors), nan=np.inf)
    return int(np.argmax(finite >= STANDS_OUT * finite.max()))


def _compare_parts(proving: Proving, found: Sequence[GraphStep]) -> Culprit:
    original, depth = proving.original, proving.subject.depth
    synchronizer = original.synchronizer
    errors = _LayerErrors(found)

    def begin(place: tuple[int, int]) -> None:
        errors.step = found[place[1]]
        if synchronizer is not None:
            synchronizer.begin(errors.step.hidden, errors.step.inputs.real)

    if synchronizer is not None:
        synchronizer.counts.clear()
    plays = [[step.inputs for step in found]]
    with (
        errors.fed_by_graph(original.weights.layers),
        OriginalChain(
            original.weights, plays, proving.parts, make_cache=original.make_cache, before_step=begin
        ) as chain,
    ):
        for index in range(len(proving.parts)):
            chain.advance(index)
        logits = chain.logits[0, len(found) - 1]
    last = found[-1]
    assert last.logits is not None  # for mypy: the last part was run
    real = last.inputs.real
    local = [*errors.last_step(), _relative(last.logits[real], logits[real], logits[real])]
    if synchronizer is not None:
        path = original.weights.path
        local = [max(e, _wrong_share(synchronizer, path, layer, depth)) for layer, e in enumerate(local, -1)]
    if max(local) <= LOCAL_NOISE.get(proving.subject.tolerance_row, 0.0):
        return _search_weights(proving)
    layer = choose_part(local) - 1
    return Culprit(part=part_name(layer, depth), tensors=_differing(proving, layer))


def _wrong_share(synchronizer: Synchronizer, path: str, layer: int, layers: int) -> float:
    """Return the largest share of numbers that a part of the graph rounds otherwise, beyond ties."""
    counts = synchronizer.counts
    return max((counts[place].share for place in counts if _is_of_part(place, path, layer, layers)), default=0.0)


def _differing(proving: Proving, layer: int) -> tuple[str, ...]:
    path, depth = proving.original.weights.path, proving.subject.depth
    names = [name for name in _initializers(proving) if _is_of_part(name, path, layer, depth)]
    return tuple(_differing_of(proving, names, layer))


def _differing_of(proving: Proving, names: Sequence[str], layer: int) -> list[str]:
    """Return those of the weights of one part that differ from the checkpoint's."""
    subject, weights = proving.subject, proving.original.weights
    with weights.state(layer) as state:
        if subject.layout is None:
            return differing_weights(subject.graph, subject.folder, state, names)
        from edgellm_core.verification.stored_weights import differing_stored, is_stored

        plain = [name for name in names if not is_stored(name, subject.layout)]
        return [
            *differing_weights(subject.graph, subject.folder, state, plain),
            *differing_stored(subject.graph, subject.folder, weights.stored, subject.layout, names),
        ]


def _search_weights(proving: Proving) -> Culprit:
    """Where no part stands out from rounding, look at all weights: one that is a little off does not stand out."""
    depth = proving.subject.depth
    for layer in range(-1, depth):  # what lies outside of the layers counts for the embedding
        tensors = _differing(proving, layer)
        if tensors:
            return Culprit(part=part_name(layer, depth), tensors=tensors)
    return Culprit(part="", within_rounding=True)


def _initializers(proving: Proving) -> list[str]:
    return [tensor.name for tensor in proving.subject.graph.graph.initializer]


def _is_of_part(name: str, path: str, layer: int, layers: int) -> bool:
    """Return whether a weight belongs to a part; those outside the layers count for the embedding and for the head."""
    if 0 <= layer < layers:
        return name.startswith(f"{path}.{layer}.")
    return not name.startswith(f"{path}.")


class _LayerErrors:
    """Feeds each layer of the original the graph's hidden state, and collects the errors of embedding and layers.

    Attributes:
        step: what the graph computed in the step that runs.
    """

    def __init__(self, steps: Sequence[GraphStep]) -> None:
        self.step = steps[0]
        self._last = steps[-1]
        self._errors: dict[int, float] = {}

    def last_step(self) -> list[float]:
        """Return the errors of the last step: the embedding's, then each layer's."""
        return [self._errors[layer] for layer in sorted(self._errors)]

    @contextlib.contextmanager
    def fed_by_graph(self, layers: nn.ModuleList) -> Iterator[None]:
        """Feed the layers in the body."""
        hooks: list[torch.utils.hooks.RemovableHandle] = []
        for index, layer in enumerate(layers):
            hooks += [
                layer.register_forward_pre_hook(self._enter(index), with_kwargs=True),
                layer.register_forward_hook(self._leave(index)),
            ]
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()

    def _note(self, layer: int, own: Any, before: Any) -> None:
        if self.step is self._last:
            real = self.step.inputs.real
            given = self.step.hidden[hidden_name(layer)]
            self._errors[layer] = _relative(given[real], own.numpy()[real], before[real])

    def _enter(self, layer: int) -> Any:
        import torch

        def hook(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            given = self.step.hidden[hidden_name(layer - 1)]
            own = named["hidden_states"] if "hidden_states" in named else arguments[0]
            if layer == 0:
                self._note(-1, own, own.numpy())
            if "hidden_states" in named:
                return arguments, {**named, "hidden_states": torch.from_numpy(given)}
            return (torch.from_numpy(given), *arguments[1:]), named

        return hook

    def _leave(self, layer: int) -> Any:
        import torch

        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            own = output[0] if isinstance(output, tuple) else output
            self._note(layer, own, self.step.hidden[hidden_name(layer - 1)])
            fed = torch.from_numpy(self.step.hidden[hidden_name(layer)])
            return (fed, *output[1:]) if isinstance(output, tuple) else fed

        return hook


def _relative(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> float:
    """Return the largest error of a position, relative to the Euclidean norm of the original's value.

    A layer that cancels a large residual rounds relative to what went in, so the norm of ``before`` counts too.
    """
    found, wanted, before = (value.reshape(len(value), -1).astype(np.float64) for value in (found, wanted, before))
    scale = np.maximum(np.linalg.norm(wanted, axis=1), np.linalg.norm(before, axis=1))
    return float((np.linalg.norm(found - wanted, axis=1) / np.maximum(scale, np.finfo(np.float32).tiny)).max())
