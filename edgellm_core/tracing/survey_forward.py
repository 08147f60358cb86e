"""The forward of a survey: runs a weightless model once, layer by layer as a trace does, and watches what it calls.

Importing this module imports torch and transformers.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from edgellm_core.tracing import experts, operators
from edgellm_core.tracing.layer_states import state_tensors
from edgellm_core.tracing.layers import depth_of
from edgellm_core.tracing.modeling_code import refused_as_untraceable
from edgellm_core.tracing.norms import recorded_kind
from edgellm_core.tracing.program import DecoderForward, example_inputs, semantic_operators
from edgellm_core.tracing.rope import replaced_rotations
from edgellm_core.tracing.survey import Form
from edgellm_core.tracing.trace import TORCH_TYPES, reduce_and_probe
from edgellm_core.tracing.weightless import build_weightless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.contract import ModelFamily
    from edgellm_core.tracing.layer_states import LayerState
    from edgellm_core.tracing.layers import LayerStack

ASPECTS: Final = ("mask", "attention", "state", "norm", "rope", "experts", "linear", "other")
"""Order in which the forms of a layer are told."""

_OPERATORS: Final[Mapping[str, str]] = {
    "Attention": "attention", "AttentionMask": "mask", "Append": "state", "RMSNorm": "norm", "LayerNorm": "norm",
    "Rotary": "rope", "Linear": "linear",
}  # fmt: skip
_MARKS: Final = frozenset({"LayerInput", "LayerOutput", "FullLength", "Experts"})
"""Operators that are no form, or whose module is told instead."""
_CORRECTED_BY: Final[Mapping[str, str]] = {"attention": "attention_attributes"}
_NAMED: Final[Mapping[str, str]] = {
    "norm": "norm", "experts": "expert|router", "attention": "attention|attn", "rope": "rotary",
}  # fmt: skip
"""Aspect → what the names of its classes have in them."""
_MIXER: Final = re.compile("attention|attn|mixer|conv|mamba|delta", re.IGNORECASE)


class Observer(operators.Recorder):
    """Collects the forms of one forward, by layer (None = outside the layers)."""

    def __init__(self, states: Sequence[LayerState] = ()) -> None:
        """Make one for layers that keep these states."""
        super().__init__()
        self.forms: Counter[tuple[int | None, Form]] = Counter()
        self._states = {state.layer: state for state in states}

    def count(self, operator: str, attributes: Mapping[str, Any]) -> None:
        """Count one semantic operator in the current layer."""
        super().count(operator, attributes)
        if operator in _MARKS:
            return
        aspect = _OPERATORS.get(operator, "other")
        if operator == "Append" and self.layer in self._states:
            attributes = _cache_shapes(self._states[self.layer])
        self.add(aspect, "captured", _spelled(operator, attributes), _CORRECTED_BY.get(aspect, ""))

    def add(self, aspect: str, status: Any, what: str, hook: str) -> None:
        """Count one call of a form in the current layer."""
        self.forms[self.layer, Form(aspect=aspect, status=status, what=what, count=1, hook=hook)] += 1

    def by_layer(self) -> dict[int | None, list[Form]]:
        """Return the forms of each layer with their counts, in the order of their aspects."""
        found: dict[int | None, list[Form]] = {}
        for (layer, form), count in self.forms.items():
            counted = Form(aspect=form.aspect, status=form.status, what=form.what, count=count, hook=form.hook)
            found.setdefault(layer, []).append(counted)
        return {
            layer: sorted(forms, key=lambda form: (ASPECTS.index(form.aspect), form.status, form.what))
            for layer, forms in found.items()
        }


def observe(config: PreTrainedConfig, family: ModelFamily, precision: str) -> dict[int | None, Sequence[Form]]:
    """Return the forms of every decoder layer, and under None those outside the layers.

    Raises:
        EdgellmError: the model can't be traced.
    """
    model = build_weightless(copy.deepcopy(config), TORCH_TYPES[precision])
    stack, states, mode = reduce_and_probe(model, family, full_depth=False)
    forms = _run(model, family, stack, states, mode)
    if stack is None:
        return dict(forms)
    found: dict[int | None, Sequence[Form]] = {
        layer: forms.get(twin, ()) for layer, twin in enumerate(stack.representative_of)
    }
    return {**found, None: forms.get(None, ())}


def _run(
    model: PreTrainedModel,
    family: ModelFamily,
    stack: LayerStack | None,
    states: Sequence[LayerState],
    mode: FakeTensorMode,
) -> dict[int | None, list[Form]]:
    forward = DecoderForward(model, family, states, depth_of(model, stack)).eval()
    observer = Observer(states)
    dtype = next(model.parameters()).dtype
    tensors = state_tensors(states)
    with (
        refused_as_untraceable(type(model).__name__, "a forward without weights"),
        torch.no_grad(),
        semantic_operators(model, family, stack),
        _watched_modules(model, observer, frozenset(family.module_forwards())),
        _watched_rotations(model, observer),
        operators.recording(observer),
        mode,
    ):
        forward(*example_inputs(tensors, dtype, one_token=not all(tensor.grows for tensor in tensors)))
    for tensor in tensors:
        if not tensor.grows:
            observer.layer = tensor.layer
            observer.add("state", "captured", f"{tensor.part} {'×'.join(map(str, tensor.sizes))}", "")
    return observer.by_layer()


@contextlib.contextmanager
def _watched_modules(model: nn.Module, observer: Observer, wrapped: frozenset[str]) -> Iterator[None]:
    """Note in the body which modules run under a family's wrapper, and which run as plain operators."""
    with contextlib.ExitStack() as undo:
        for module in model.modules():
            undo.callback(module.register_forward_hook(functools.partial(_note_module, observer, wrapped)).remove)
            name = type(module).__name__
            if _MIXER.search(name) and name not in wrapped and any(True for _ in module.children()):
                watch = _MixerWatch(observer, name)
                undo.callback(module.register_forward_pre_hook(watch.before).remove)
                undo.callback(module.register_forward_hook(watch.after).remove)
        yield


def _note_module(observer: Observer, wrapped: frozenset[str], module: nn.Module, *_: object) -> None:
    name = type(module).__name__
    if name in wrapped:
        observer.add(_aspect(name), "wrapped", name, "module_forwards")
    elif _runs_dense_experts(module):
        observer.add("experts", "captured", f"dense experts of {name}", "module_forwards")
    elif _is_plain(module):
        observer.add(_aspect(name), "plain", name, "module_forwards")


def _runs_dense_experts(module: Any) -> bool:
    implementation = getattr(getattr(module, "config", None), "_experts_implementation", None)
    return (
        hasattr(module, "is_transposed") and hasattr(module, "down_proj") and implementation == experts.IMPLEMENTATION
    )


def _is_plain(module: nn.Module) -> bool:
    """Say whether a module computes with parameters of its own and is no operator; look-ups need none."""
    if not any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.children()):
        return False
    if isinstance(module, nn.Embedding) or type(module).forward is nn.Linear.forward:
        return False
    return recorded_kind(module) is None


def _aspect(name: str) -> str:
    """Return the aspect that a class name speaks of."""
    found = (aspect for aspect, pattern in _NAMED.items() if re.search(pattern, name, re.IGNORECASE))
    return next(found, "other")


class _MixerWatch:
    """Notes a token mixer (attention, convolution, recurrence) that ran without an attention operator."""

    def __init__(self, observer: Observer, name: str) -> None:
        self._observer, self._name = observer, name
        self._before = 0

    def _calls(self) -> int:
        return self._observer.calls["Attention", self._observer.layer]

    def before(self, *_: object) -> None:
        """Remember how many attention operators the layer had."""
        self._before = self._calls()

    def after(self, *_: object) -> None:
        """Compare."""
        if self._observer.layer is not None and self._calls() == self._before:
            self._observer.add("attention", "plain", self._name, "module_forwards")


def _watched_rotations(model: nn.Module, observer: Observer) -> contextlib.AbstractContextManager[None]:
    """Note in the body which ``apply_rotary…`` functions ran without a rotary operator; the outermost count."""
    running: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            before = observer.calls["Rotary", observer.layer]
            running.append(name)
            try:
                result = function(*args, **kwargs)
            finally:
                running.pop()
            if not running and observer.calls["Rotary", observer.layer] == before:
                observer.add("rope", "plain", f"{name}()", "module_forwards")
            return result

        return run

    return replaced_rotations(model, watched)


def _spelled(operator: str, attributes: Mapping[str, Any]) -> str:
    """Write an operator with the attributes that are not zero, for example ``Attention(scale=0.125)``."""
    shown = [
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in attributes.items()
        if value
    ]
    return f"{operator}({', '.join(shown)})" if shown else operator


def _cache_shapes(state: LayerState) -> dict[str, Any]:
    """Return what is kept for each token, as heads × width, and whether the layer is a windowed one."""
    keys, values = (f"{shape[0]}×{shape[1]}" if shape else "" for shape in (state.key, state.value))
    return {"keys": keys, "values": values, "indexer": state.indexer or 0, "windowed": int(state.sliding)}
