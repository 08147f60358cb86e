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
from edgellm_core.verification.cut import hidden_name, shown_names
from edgellm_core.verification.memory import free_weights
from edgellm_core.verification.reference import ReferenceRunner, load_reference, suitable_threads
from edgellm_core.verification.synchronized import Synchronizer
from edgellm_core.verification.tolerances import LOCAL_NOISE
from edgellm_core.verification.weights import differing_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from edgellm_core.verification.cases import Logits, StepInputs
    from edgellm_core.verification.session import Tensors
    from edgellm_core.verification.subject import Subject

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


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphStep:
    """What the graph computed in one step: hidden states by name, float32 [batch, seq, …], and logits."""

    inputs: StepInputs
    hidden: Tensors
    logits: Logits


def find_culprit(subject: Subject, steps: Sequence[StepInputs]) -> Culprit | None:
    """Find the first part that diverges in the last of ``steps``, which run from an empty cache.

    Returns:
        None where the graph does not name its hidden states, or the original has no list of decoder layers.
    """
    names = [hidden_name(layer) for layer in range(-1, subject.layers)]
    if not shown_names(subject.graph.graph).issuperset(names):
        return None
    synchronizer = Synchronizer(subject.rounding_points)
    found = _run_graph(subject, steps, [*names, *synchronizer.points.values()])
    release_memory()
    from edgellm_core.tracing.layers import find_stack

    model = load_reference(subject, synchronizer)
    path, layers = find_stack(model)
    if not path:
        return None
    first = _first_non_finite(found[-1], names)
    if first is not None:
        tensors = _differing(subject, model, path, first)
        culprit = Culprit(part=part_name(first, subject.layers), finite=False, tensors=tensors)
    else:
        culprit = _compare_parts(subject, model, path, layers, found, synchronizer)
    free_weights(model)
    return culprit


def _first_non_finite(step: GraphStep, names: Sequence[str]) -> int | None:
    """Return the first layer whose hidden state is not finite; the number of layers for the logits; None for none."""
    for layer, name in enumerate(names, -1):
        if not np.isfinite(step.hidden[name]).all():
            return layer
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


def _run_graph(subject: Subject, steps: Sequence[StepInputs], names: Sequence[str]) -> list[GraphStep]:
    session = subject.open_session(extra=names)
    session.start(len(steps[0].input_ids))
    found = []
    for inputs in steps:
        logits, hidden = session.run(inputs)
        found.append(GraphStep(inputs=inputs, hidden=hidden, logits=logits))
    return found


def _compare_parts(
    subject: Subject,
    model: PreTrainedModel,
    path: str,
    layers: nn.ModuleList,
    found: Sequence[GraphStep],
    synchronizer: Synchronizer,
) -> Culprit:
    runner = ReferenceRunner(model)
    for step in found:
        synchronizer.begin(step.hidden, step.inputs.real)
        with _fed_by_graph(layers, step) as errors, suitable_threads(model):
            logits = runner.run(step.inputs)
        real = step.inputs.real
        errors.append(_relative(step.logits[real], logits[real], logits[real]))
    for layer in range(subject.layers + 1):
        errors[layer + 1] = max(errors[layer + 1], _wrong_share(synchronizer, path, layer, subject.layers))
    if max(errors) <= LOCAL_NOISE.get(subject.tolerance_row, 0.0):
        return _search_weights(subject, model, path)
    layer = choose_part(errors) - 1
    return Culprit(part=part_name(layer, subject.layers), tensors=_differing(subject, model, path, layer))


def _wrong_share(synchronizer: Synchronizer, path: str, layer: int, layers: int) -> float:
    """Return the largest share of numbers that a part of the graph rounds otherwise, beyond ties."""
    counts = synchronizer.counts
    return max((counts[place].share for place in counts if _is_of_part(place, path, layer, layers)), default=0.0)


def _differing(subject: Subject, model: PreTrainedModel, path: str, layer: int) -> tuple[str, ...]:
    names = [name for name in _initializers(subject) if _is_of_part(name, path, layer, subject.layers)]
    return tuple(_differing_of(subject, model, names))


def _differing_of(subject: Subject, model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    if subject.layout is None:
        return differing_weights(subject.graph, subject.folder, model.state_dict(), names)
    from edgellm_core.verification.quantized_weights import StoredTensors
    from edgellm_core.verification.stored_weights import differing_stored, is_stored

    layout = subject.layout
    plain = [name for name in names if not is_stored(name, layout)]
    stored = StoredTensors(subject.tensors)
    return [
        *differing_weights(subject.graph, subject.folder, model.state_dict(), plain),
        *differing_stored(subject.graph, subject.folder, stored, layout, names),
    ]


def _search_weights(subject: Subject, model: PreTrainedModel, path: str) -> Culprit:
    """Where no part stands out from rounding, look at all weights: one that is a little off does not stand out."""
    tensors = _differing_of(subject, model, _initializers(subject))
    if not tensors:
        return Culprit(part="", within_rounding=True)
    parts = range(-1, subject.layers + 1)
    first = next(layer for layer in parts if any(_is_of_part(name, path, layer, subject.layers) for name in tensors))
    own = tuple(name for name in tensors if _is_of_part(name, path, first, subject.layers))
    return Culprit(part=part_name(first, subject.layers), tensors=own)


def _initializers(subject: Subject) -> list[str]:
    return [tensor.name for tensor in subject.graph.graph.initializer]


def _is_of_part(name: str, path: str, layer: int, layers: int) -> bool:
    """Return whether a weight belongs to a part; those outside the layers count for the embedding and for the head."""
    if 0 <= layer < layers:
        return name.startswith(f"{path}.{layer}.")
    return not name.startswith(f"{path}.")


@contextlib.contextmanager
def _fed_by_graph(layers: nn.ModuleList, step: GraphStep) -> Iterator[list[float]]:
    """Feed each layer of the original the graph's hidden state; collect the error of the embedding and each layer."""
    import torch

    errors: list[float] = []
    real = step.inputs.real
    hooks: list[torch.utils.hooks.RemovableHandle] = []

    def enter(layer: int) -> Any:
        given = step.hidden[hidden_name(layer - 1)]

        def hook(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            own = named["hidden_states"] if "hidden_states" in named else arguments[0]
            if layer == 0:
                errors.append(_relative(given[real], own.numpy()[real], own.numpy()[real]))
            if "hidden_states" in named:
                return arguments, {**named, "hidden_states": torch.from_numpy(given)}
            return (torch.from_numpy(given), *arguments[1:]), named

        return hook

    def leave(layer: int) -> Any:
        given, before = step.hidden[hidden_name(layer)], step.hidden[hidden_name(layer - 1)]

        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            own = output[0] if isinstance(output, tuple) else output
            errors.append(_relative(given[real], own.numpy()[real], before[real]))
            fed = torch.from_numpy(given)
            return (fed, *output[1:]) if isinstance(output, tuple) else fed

        return hook

    for index, layer in enumerate(layers):
        hooks += [
            layer.register_forward_pre_hook(enter(index), with_kwargs=True),
            layer.register_forward_hook(leave(index)),
        ]
    try:
        yield errors
    finally:
        for handle in hooks:
            handle.remove()


def _relative(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> float:
    """Return the largest error of a position, relative to the Euclidean norm of the original's value.

    A layer that cancels a large residual rounds relative to what went in, so the norm of ``before`` counts too.
    """
    found, wanted, before = (value.reshape(len(value), -1).astype(np.float64) for value in (found, wanted, before))
    scale = np.maximum(np.linalg.norm(wanted, axis=1), np.linalg.norm(before, axis=1))
    return float((np.linalg.norm(found - wanted, axis=1) / np.maximum(scale, np.finfo(np.float64).tiny)).max())
