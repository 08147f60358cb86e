"""The forward that is exported: ids, mask, positions and past states in; logits and present states out."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from edgellm_core.checkpoint.dimensions import context_length
from edgellm_core.tracing import operators
from edgellm_core.tracing.attention import TraceContext, recorded_attention
from edgellm_core.tracing.cache import present_tensors, traced_cache
from edgellm_core.tracing.complex_numbers import complex_pairs
from edgellm_core.tracing.dynamic_rope import dynamic_frequencies
from edgellm_core.tracing.experts import traceable_experts
from edgellm_core.tracing.layer_states import LayerState, StateTensor, state_tensors
from edgellm_core.tracing.layers import depth_of
from edgellm_core.tracing.lean_imports import import_partitioners
from edgellm_core.tracing.modeling_code import refused_as_untraceable
from edgellm_core.tracing.norms import recorded_norms
from edgellm_core.tracing.probe import cache_argument
from edgellm_core.tracing.rope import recorded_rotations
from edgellm_core.tracing.tensor_branches import both_sides
from edgellm_core.tracing.weightless import restored_modules
from edgellm_core.tracing.wrappers import family_wrappers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import PreTrainedModel

    from edgellm_core.contract import ModelFamily
    from edgellm_core.tracing.layers import LayerStack
    from edgellm_core.tracing.length_branches import LengthBranches

EXAMPLE_BATCH: Final = 3
EXAMPLE_SEQ: Final = 7
EXAMPLE_PAST: Final = 5
"""Sizes of the example inputs: different from one another and from 0 and 1, which ``torch.export`` specialises on."""

ANY_CONTEXT: Final = 1 << 31
"""Upper bound of the symbolic lengths of a model that states no context."""


@dataclass(frozen=True, kw_only=True)
class TracedProgram:
    """What ``torch.export`` returned, and the names that its inputs and outputs get.

    Attributes:
        program: the exported program.
        input_names: one name per user input, in order.
        output_names: one name per output, in order.
    """

    program: ExportedProgram
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


class DecoderForward(nn.Module):
    """The forward of a decoder with its cache as plain tensors."""

    def __init__(self, model: PreTrainedModel, family: ModelFamily, states: Sequence[LayerState], depth: int) -> None:
        super().__init__()
        self.model = model
        self._family = family
        self._states = tuple(states)
        self._depth = max(depth, states[-1].layer + 1)
        self._argument = cache_argument(model)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Run the model.

        Args:
            input_ids: int64 ``[batch, seq]``.
            attention_mask: int64 ``[batch, past + seq]``.
            position_ids: int64 ``[batch, seq]``.
            past: past of each state, in the order of ``state_tensors``.

        Returns:
            Logits ``[batch, seq, vocab]``, then the present of each state.
        """
        valid = self._valid(input_ids, attention_mask, past)
        context = TraceContext(family=self._family, valid=valid, input_ids=input_ids)
        cache = traced_cache(self._states, past, self._depth)
        keywords: dict[str, Any] = {"position_ids": position_ids} if self._takes_positions else {}
        keywords[self._argument] = cache
        mask = valid if self._argument == "past_key_values" else valid[:, -input_ids.shape[1] :]
        with recorded_attention(context), recorded_linears():
            output = self.model(input_ids=input_ids, attention_mask=mask, use_cache=True, **keywords)
        present = present_tensors(cache, self._states)
        return (output.logits, *self._kept_over_padding(past, present, valid, input_ids))

    def _valid(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: list[torch.Tensor]) -> torch.Tensor:
        """Return the attention mask with its length declared, where some state has a past length."""
        lengths = [
            value.shape[tensor.growing_axis]
            for tensor, value in zip(state_tensors(self._states), past, strict=True)
            if tensor.grows
        ]
        return operators.full_length(attention_mask, lengths[0] + input_ids.shape[1]) if lengths else attention_mask

    def _kept_over_padding(
        self, past: list[torch.Tensor], present: list[torch.Tensor], valid: torch.Tensor, input_ids: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return the states after the step; a padded token leaves those that do not grow as they were.

        In a step of several tokens transformers itself masks the padded ones (``create_recurrent_attention_mask``); in
        a step of one it takes no token for padding.
        """
        if input_ids.shape[1] != 1:
            return present
        real = valid[:, -1] != 0
        return [
            after if tensor.grows else torch.where(real.view(-1, *[1] * len(tensor.sizes)), after, before)
            for tensor, before, after in zip(state_tensors(self._states), past, present, strict=True)
        ]


@contextlib.contextmanager
def recorded_linears() -> Iterator[None]:
    """Record every ``nn.Linear`` as one semantic operator in the body."""
    original = nn.Linear.forward

    def forward(self: nn.Linear, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # torch's own name
        return operators.linear(input, self.weight, self.bias)

    nn.Linear.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Linear.forward = original  # type: ignore[method-assign]


@contextlib.contextmanager
def marked_layers(model: nn.Module, stack: LayerStack | None) -> Iterator[None]:
    """Mark the hidden states that enter and leave each traced decoder layer in the body."""
    if stack is None:
        yield
        return
    layers: Any = model.get_submodule(stack.path)
    with contextlib.ExitStack() as undo:
        for index, layer in zip(stack.traced, layers, strict=True):
            layer.forward = _marked(layer.forward, index)
            undo.callback(layer.__dict__.pop, "forward")
        yield


def _marked(forward: Callable[..., Any], index: int) -> Callable[..., Any]:
    def run(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = forward(operators.layer_input(hidden_states, index), *args, **kwargs)
        if isinstance(result, tuple):
            return (operators.layer_output(result[0], index), *result[1:])
        return operators.layer_output(result, index)

    return run


@contextlib.contextmanager
def traceable_formulas(model: PreTrainedModel) -> Iterator[None]:
    """Replace in the body what a trace can't follow: loops over experts, complex numbers, branches on the length."""
    with traceable_experts(model), complex_pairs(), dynamic_frequencies(model), both_sides(model):
        yield


@contextlib.contextmanager
def semantic_operators(model: PreTrainedModel, family: ModelFamily, stack: LayerStack | None) -> Iterator[None]:
    """Record norms, rotations, the family's wrappers and layer marks in the body; the model is restored after it.

    The family comes first: its wrappers are probed on untouched modules, and what they replace is no longer a norm.
    """
    with (
        restored_modules(model),
        family_wrappers(model, family),
        traceable_formulas(model),
        recorded_norms(model),
        recorded_rotations(model),
        marked_layers(model, stack),
    ):
        yield


def export_program(
    model: PreTrainedModel,
    family: ModelFamily,
    stack: LayerStack | None,
    states: Sequence[LayerState],
    mode: FakeTensorMode,
    *,
    one_token: bool,
    branches: LengthBranches,
) -> TracedProgram:
    """Trace the model once with dynamic batch, sequence and past.

    Args:
        model: the weightless model, reduced to the traced layers.
        family: whose overrides apply.
        stack: the decoder layers; None if they are not known.
        states: what the layers carry.
        mode: the fake tensor mode of the model's parameters.
        one_token: trace a step of exactly one token.
        branches: decides where the model's code asks for a length, and keeps where it did.

    Raises:
        UntraceableModelError: ``torch.export`` can't follow the model.
        PluginError: a wrapper of the family is wrong.
    """
    forward = DecoderForward(model, family, states, depth_of(model, stack)).eval()
    dtype = next(model.parameters()).dtype
    tensors = state_tensors(states)
    with mode:
        inputs = example_inputs(tensors, dtype, one_token=one_token)
    import_partitioners()
    with (
        refused_as_untraceable(type(model).__name__, "torch.export"),
        torch.no_grad(),
        semantic_operators(model, family, stack),
        branches.decided(),
    ):
        program = torch.export.export(
            forward,
            inputs,
            dynamic_shapes=_dynamic_shapes(model, tensors, one_token=one_token),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    return TracedProgram(
        program=program,
        input_names=("input_ids", "attention_mask", "position_ids", *(tensor.input_name for tensor in tensors)),
        output_names=("logits", *(tensor.output_name for tensor in tensors)),
    )


def example_inputs(tensors: Sequence[StateTensor], dtype: torch.dtype, *, one_token: bool) -> tuple[Any, ...]:
    """Return ids, mask, positions and past states for one forward; ``dtype`` is the model's."""
    seq = 1 if one_token else EXAMPLE_SEQ
    ids = torch.zeros(EXAMPLE_BATCH, seq, dtype=torch.long)
    mask = torch.ones(EXAMPLE_BATCH, EXAMPLE_PAST + seq, dtype=torch.long)
    past = [
        torch.zeros(EXAMPLE_BATCH, *(size or EXAMPLE_PAST for size in tensor.sizes), dtype=tensor.dtype or dtype)
        for tensor in tensors
    ]
    return ids, mask, ids.clone(), past


def _dynamic_shapes(model: PreTrainedModel, tensors: Sequence[StateTensor], *, one_token: bool) -> tuple[Any, ...]:
    context = context_length(model.config) or ANY_CONTEXT
    longest = max(context // 2 - 1, 16)  # past and seq together stay within it: slices of position tables are legal
    batch, seq = Dim("batch", min=1, max=64), Dim("seq", min=1, max=longest - 2)
    past, total = Dim("past", min=0, max=longest), Dim("total", min=1, max=2 * longest)
    ids = {0: batch} if one_token else {0: batch, 1: seq}
    states = [{0: batch, tensor.growing_axis: past} if tensor.grows else {0: batch} for tensor in tensors]
    return (ids, {0: batch, 1: total}, ids, states)
