"""What a trace would capture, layer by layer, from one forward without weights; nothing is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edgellm_core.contract import ModelFamily
from edgellm_core.errors import EdgellmError
from edgellm_core.tracing.errors import (
    FailedWrapperError,
    UnreadConfigKeysError,
    UnsupportedArchitectureError,
    UntraceableModelError,
    UntrustedCodeError,
    UnusedWrapperError,
    WrongWrapperError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from transformers import PreTrainedConfig

Status = Literal["captured", "wrapped", "plain"]
"""A semantic operator; the family's wrapper; or plain operators, which are exported as the model computes them."""

HOOKS: Final = ("module_forwards", "attention_attributes", "prepare_config", "rules")
"""Methods of ``ModelFamily`` that change a graph."""

REFUSAL_HOOKS: Final[Mapping[type[EdgellmError], str]] = {
    UnsupportedArchitectureError: "modeled_as",
    UntrustedCodeError: "modeled_as",
    UnreadConfigKeysError: "harmless_config_keys",
    UntraceableModelError: "module_forwards",
    WrongWrapperError: "module_forwards",
    FailedWrapperError: "module_forwards",
    UnusedWrapperError: "module_forwards",
}
"""Refusal → the member of ``ModelFamily`` that handles it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One form of computation in a layer.

    Attributes:
        aspect: ``attention``, ``state``, ``norm``, ``rope``, ``experts``, ``linear``, ``mask`` or ``other``.
        status: how it enters the graph.
        what: operator with its attributes, or class of the module.
        count: calls in one forward.
        hook: method of ``ModelFamily`` that handles or corrects it; empty where none is needed.
    """

    aspect: str
    status: Status
    what: str
    count: int
    hook: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerGroup:
    """Decoder layers with equal forms.

    Attributes:
        layers: their indices, ascending; empty for what runs outside the layers.
        forms: what they compute, in a fixed order.
    """

    layers: tuple[int, ...]
    forms: tuple[Form, ...]

    @property
    def label(self) -> str:
        """Return for example ``layers 0–4, 6``."""
        if not self.layers:
            return "outside the layers"
        runs: list[list[int]] = []
        for index in self.layers:
            if runs and runs[-1][-1] == index - 1:
                runs[-1].append(index)
            else:
                runs.append([index])
        spans = [f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
        return f"layer{'s' if len(self.layers) > 1 else ''} {', '.join(spans)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a trace would capture.

    Attributes:
        model: class of the model; empty where it was refused before there was one.
        family_hooks: hooks that the family overrides.
        groups: the layers by what they compute, and last what runs outside them; empty when refused.
        refusal: why the model can't be traced; None where nothing speaks against it. ``torch.export`` and the parity
            gate still decide.
        refusal_hook: member of ``ModelFamily`` that would handle the refusal; empty where none does.
    """

    model: str
    family_hooks: tuple[str, ...]
    groups: tuple[LayerGroup, ...] = ()
    refusal: str | None = None
    refusal_hook: str = ""

    def plain(self) -> tuple[Form, ...]:
        """Return the forms that stay plain operators, each once."""
        return tuple(dict.fromkeys(form for group in self.groups for form in group.forms if form.status == "plain"))


def survey(load: Callable[[], PreTrainedConfig], family: ModelFamily, precision: str) -> Survey:
    """Run one forward without weights and say what was captured.

    Args:
        load: returns the transformers config, as the family prepared it; what it refuses is part of the answer.
        family: the family that was selected.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """
    from edgellm_core.tracing.modeling_code import quiet_libraries

    hooks = tuple(name for name in HOOKS if getattr(type(family), name) is not getattr(ModelFamily, name))
    model = ""
    try:
        with quiet_libraries():
            config = load()
            from edgellm_core.tracing.survey_forward import observe
            from edgellm_core.tracing.weightless import causal_lm_class

            model = causal_lm_class(config).__name__
            forms = observe(config, family, precision)
    except EdgellmError as error:
        hook = next((hook for kind, hook in REFUSAL_HOOKS.items() if isinstance(error, kind)), "")
        return Survey(model=model, family_hooks=hooks, refusal=str(error), refusal_hook=hook)
    return Survey(model=model, family_hooks=hooks, groups=tuple(_grouped(forms)))


def _grouped(forms: Mapping[int | None, Sequence[Form]]) -> Iterator[LayerGroup]:
    """Yield the layers with equal forms together, in the order of their first layer, and last what is outside."""
    layers: dict[tuple[Form, ...], list[int]] = {}
    for layer in sorted(index for index in forms if index is not None):
        layers.setdefault(tuple(forms[layer]), []).append(layer)
    for equal, indices in layers.items():
        yield LayerGroup(layers=tuple(indices), forms=equal)
    if forms.get(None):
        yield LayerGroup(layers=(), forms=tuple(forms[None]))
