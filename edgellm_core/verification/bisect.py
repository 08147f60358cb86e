"""Finds the first part of a graph that diverges from the original.

An error that one layer makes travels through all later ones, so comparing hidden states layer by layer would need a
guess at where they "jump". Instead each layer of the original is fed the hidden state that the *graph* has before that
layer: what comes out then differs from the graph's next hidden state only by what this one layer does. The first part
whose own error exceeds what rounding explains (``LOCAL_NOISE``) is the culprit; where none does, the one with the
largest error. The steps before the failing one run the same way, so the cache is compared too.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.verification.cut import hidden_name
from edgellm_core.verification.memory import release_memory
from edgellm_core.verification.reference import ReferenceRunner, load_reference
from edgellm_core.verification.session import GraphSession, Tensors
from edgellm_core.verification.tolerances import LOCAL_NOISE
from edgellm_core.verification.weights import differing_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import nn

    from edgellm_core.verification.cases import Logits, StepInputs
    from edgellm_core.verification.subject import Subject

EMBEDDING = "the embedding"
HEAD = "the final norm or the head"


@dataclass(frozen=True, kw_only=True, slots=True)
class Culprit:
    """The first part that diverges.

    Attributes:
        part: in words.
        finite: whether what it computes is finite.
        tensors: its weights that differ from the checkpoint.
    """

    part: str
    finite: bool = True
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
    if not {name for node in subject.graph.graph.node for name in node.output}.issuperset(names):
        return None
    found = _run_graph(subject, steps, names)
    last = found[-1]
    for layer, name in enumerate(names, -1):
        if not np.isfinite(last.hidden[name]).all():
            return Culprit(part=part_name(layer, subject.layers), finite=False)
    if not np.isfinite(last.logits[last.inputs.real]).all():
        return Culprit(part=HEAD, finite=False)
    release_memory()
    return _compare_parts(subject, found)


def part_name(layer: int, layers: int) -> str:
    """Return a part in words: -1 is the embedding, ``layers`` what follows the last layer."""
    if layer < 0:
        return EMBEDDING
    return HEAD if layer >= layers else f"decoder layer {layer}"


def choose_part(errors: Sequence[float], noise: float) -> int:
    """Return the index of the first error above the noise (NaN counts as above), else of the largest."""
    for index, error in enumerate(errors):
        if not error <= noise:
            return index
    return int(np.argmax(errors))


def _run_graph(subject: Subject, steps: Sequence[StepInputs], names: Sequence[str]) -> list[GraphStep]:
    session = GraphSession(subject.graph, subject.folder, extra=names)
    session.start(len(steps[0].input_ids))
    found = []
    for inputs in steps:
        logits, hidden = session.run(inputs)
        found.append(GraphStep(inputs=inputs, hidden=hidden, logits=logits))
    return found


def _compare_parts(subject: Subject, found: Sequence[GraphStep]) -> Culprit | None:
    from edgellm_core.tracing.layers import find_stack

    model = load_reference(subject)
    path, layers = find_stack(model)
    if not path:
        return None
    runner = ReferenceRunner(model)
    for step in found:
        with _fed_by_graph(layers, step) as errors:
            logits = runner.run(step.inputs)
        real = step.inputs.real
        errors.append(_relative(step.logits[real], logits[real], logits[real]))
    layer = choose_part(errors, LOCAL_NOISE[subject.precision]) - 1
    initializers = [tensor.name for tensor in subject.graph.graph.initializer]
    prefix = f"{path}."
    if 0 <= layer < len(layers):
        names = [name for name in initializers if name.startswith(f"{prefix}{layer}.")]
    else:
        names = [name for name in initializers if not name.startswith(prefix)]
    tensors = differing_weights(subject.graph, subject.folder, model.state_dict(), names)
    return Culprit(part=part_name(layer, subject.layers), tensors=tuple(tensors))


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
