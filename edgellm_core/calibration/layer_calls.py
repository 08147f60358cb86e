"""How a model calls its decoder layers: the arguments besides the hidden states, which are the same for every text.

All samples have one length and no padding, so masks, positions and RoPE tables don't depend on the tokens. That is not
taken for granted: two batches of different tokens must give equal arguments, and the input of each layer must be the
output of the one before it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgellm_core.calibration.errors import NotLayerwiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from torch import nn

    from edgellm_core.calibration.stack import DecoderStack

HIDDEN = "hidden_states"


class StopForwardError(Exception):
    """Ends a forward early; never leaves this package."""


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One call of a decoder layer without its hidden states.

    Attributes:
        arguments: positional arguments after the hidden states.
        named: named arguments.
        by_name: the hidden states are passed by name.
    """

    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    by_name: bool

    def arguments_for(self, hidden: torch.Tensor, *, floats: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the named arguments of a call with these hidden states [batch, seq, hidden].

        Args:
            hidden: the hidden states.
            floats: give the other tensors in float32 too.
        """
        rest = self.arguments if not floats else tuple(map(_as_floats, self.arguments))
        named = dict(self.named) if not floats else {name: _as_floats(value) for name, value in self.named.items()}
        return ((), {HIDDEN: hidden, **named}) if self.by_name else ((hidden, *rest), named)

    def run(self, layer: nn.Module, hidden: torch.Tensor, **replaced: Any) -> torch.Tensor:
        """Run a layer on hidden states [batch, seq, hidden]; return its output of that shape."""
        arguments, named = self.arguments_for(hidden)
        named |= {name: value for name, value in replaced.items() if name in named}
        output = layer(*arguments, **named)
        result: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return result


@dataclass(frozen=True, kw_only=True)
class LayerCalls:
    """How a model calls all of its decoder layers.

    Attributes:
        calls: one call for each layer.
        in_tuple: layers return a tuple that holds the hidden states.
    """

    calls: tuple[LayerCall, ...]
    in_tuple: bool


@dataclass
class _Recording:
    """What one forward through passing layers showed.

    Attributes:
        calls: call of each layer by index.
        last: what left the latest layer.
        in_tuple: the first layer returns a tuple.
    """

    calls: dict[int, LayerCall] = field(default_factory=dict)
    last: Any = None
    in_tuple: bool = False


def first_hidden_states(stack: DecoderStack, ids: torch.Tensor) -> torch.Tensor:
    """Return what enters the first decoder layer for token ids [batch, seq]; its parameters must be loaded."""
    found: list[torch.Tensor] = []

    def stop(*args: Any, **kwargs: Any) -> Any:
        hidden, _call = _split(args, kwargs)
        found.append(hidden)
        raise StopForwardError

    with replaced_forwards({stack.layers[0]: stop}), contextlib.suppress(StopForwardError):
        stack.model(input_ids=ids, use_cache=False)
    return found[0]


def record_calls(stack: DecoderStack, ids: torch.Tensor) -> LayerCalls:
    """Return how the model calls each layer for batches of the shape of ``ids`` [batch, seq].

    The parameters outside of the layers, and those of the first layer, must be loaded.

    Raises:
        NotLayerwiseError: what the layers are given depends on the tokens, or on more than the layer before them.
    """
    other = (ids + 1) % int(stack.model.config.get_text_config().vocab_size)
    recordings = [_record(stack, batch) for batch in (ids, other)]
    name = type(stack.model).__name__
    for index in range(len(stack.layers)):
        if any(index not in recording.calls for recording in recordings):
            raise NotLayerwiseError(name, f"it never calls layer {index}")
        for argument, one, another in _pairs(*(recording.calls[index] for recording in recordings)):
            if not _same(one, another):
                raise NotLayerwiseError(name, f"argument {argument!r} of layer {index} depends on the tokens")
    recording = recordings[0]
    ordered = tuple(recording.calls[index] for index in range(len(stack.layers)))
    return LayerCalls(calls=ordered, in_tuple=recording.in_tuple)


def _record(stack: DecoderStack, ids: torch.Tensor) -> _Recording:
    recording = _Recording()
    first = stack.layers[0]
    original = first.forward
    name = type(stack.model).__name__

    def passing(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden, call = _split(args, kwargs)
            if index == 0:
                recording.in_tuple = isinstance(original(*args, **kwargs), tuple)
            elif hidden is not recording.last:
                raise NotLayerwiseError(name, f"the input of layer {index} is not what layer {index - 1} returns")
            recording.calls[index] = call
            recording.last = hidden.view_as(hidden)
            return (recording.last,) if recording.in_tuple else recording.last

        return forward

    forwards = {layer: passing(index) for index, layer in enumerate(stack.layers)}
    with replaced_forwards(forwards), stopped_at_head(stack):
        stack.model(input_ids=ids, use_cache=False)
    return recording


@contextlib.contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another forward while the body runs; their attributes stay readable."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.__dict__["forward"]


@contextlib.contextmanager
def stopped_at_head(stack: DecoderStack, seen: list[torch.Tensor] | None = None) -> Iterator[None]:
    """End a forward of the body where the head would compute logits; ``seen`` takes its input."""
    head = stack.model.get_output_embeddings()

    def stop(*args: Any, **_kwargs: Any) -> Any:
        if seen is not None:
            seen.append(args[0])
        raise StopForwardError

    with replaced_forwards({head: stop} if head is not None else {}), contextlib.suppress(StopForwardError):
        yield


def head_inputs(stack: DecoderStack, ids: torch.Tensor, hidden: torch.Tensor, *, in_tuple: bool) -> torch.Tensor:
    """Return what enters the head for token ids [batch, seq] whose last layer returned ``hidden`` [batch, seq, width].

    The parameters outside of the layers must be loaded; ``in_tuple`` is that of the ``LayerCalls``.
    """
    seen: list[torch.Tensor] = []

    def returning(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = hidden if index == 0 else _split(args, kwargs)[0]
            return (output,) if in_tuple else output

        return forward

    forwards = {layer: returning(index) for index, layer in enumerate(stack.layers)}
    with replaced_forwards(forwards), stopped_at_head(stack, seen):
        stack.model(input_ids=ids, use_cache=False)
    return seen[0]


def _split(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[torch.Tensor, LayerCall]:
    """Separate the hidden states from the other arguments of a call."""
    if args:
        return args[0], LayerCall(arguments=args[1:], named=dict(kwargs), by_name=False)
    named = {name: value for name, value in kwargs.items() if name != HIDDEN}
    return kwargs[HIDDEN], LayerCall(arguments=(), named=named, by_name=True)


def _as_floats(value: Any) -> Any:
    import torch

    if isinstance(value, tuple):
        return tuple(map(_as_floats, value))
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _pairs(one: LayerCall, another: LayerCall) -> Iterator[tuple[str, Any, Any]]:
    """Yield name and values of each argument of two calls of one layer."""
    for index, values in enumerate(zip(one.arguments, another.arguments, strict=True)):
        yield str(index + 1), *values
    for name in {*one.named, *another.named}:
        yield name, one.named.get(name), another.named.get(name)


def _same(one: Any, another: Any) -> bool:
    """Say whether two arguments are equal and can be passed again; what holds state never is."""
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(another, torch.Tensor) and torch.equal(one, another)
    if isinstance(one, tuple):
        return isinstance(another, tuple) and len(one) == len(another) and all(map(_same, one, another))
    return (one is None or isinstance(one, (bool, int, float, str, torch.dtype))) and one == another
