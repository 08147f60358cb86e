"""Norm modules: recognised by probing them on random numbers, then recorded as one semantic operator."""

from __future__ import annotations

import contextlib
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from edgellm_core.tracing import operators

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WEIGHT_NAMES = ("weight", "scale", "gamma")
_BIAS_NAMES = ("bias", "beta")
_USUAL_EPSILONS = (1e-5, 1e-6, 1e-8)
_PROBE_SCALE = 0.02
"""Inputs this small make an epsilon of 1e-6 visible: their mean square is 4e-4."""
_PROBE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class NormKind:
    """What a norm module computes.

    Attributes:
        kind: ``rms`` or ``layer``.
        offset: constant that is added to the weight: 0, or 1 for Gemma's ``1 + w``.
        epsilon: added to the mean square or variance.
    """

    kind: Literal["rms", "layer"]
    offset: float
    epsilon: float


def classify_norm(module: nn.Module) -> NormKind | None:
    """Return what a norm module computes, or None if it is not a plain norm with a 1-D weight."""
    parameters = {name: p for name, p in module.named_parameters(recurse=False) if p is not None}
    weight = _first(parameters, _WEIGHT_NAMES)
    if any(True for _ in module.children()) or weight is None or weight.dim() != 1:
        return None
    if set(parameters) - {*_WEIGHT_NAMES, *_BIAS_NAMES}:
        return None
    with _disable_current_modes(), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, int(weight.shape[0]), generator=generator) * _PROBE_SCALE
        values = {name: torch.randn(tuple(p.shape), generator=generator) for name, p in parameters.items()}
        try:
            expected = torch.func.functional_call(module, values, (x,))
        except (TypeError, RuntimeError, AttributeError):  # takes a second tensor (gated norms), or other shapes
            return None
        if not isinstance(expected, torch.Tensor) or expected.shape != x.shape:
            return None
        return _best_fit(module, x, values, expected)


def _best_fit(
    module: nn.Module, x: torch.Tensor, values: dict[str, torch.Tensor], expected: torch.Tensor
) -> NormKind | None:
    weight, bias = _first(values, _WEIGHT_NAMES), _first(values, _BIAS_NAMES)
    assert weight is not None
    own = {float(value) for value in vars(module).values() if isinstance(value, float) and 0 < value < 1}
    fits = []
    for epsilon in sorted(own | set(_USUAL_EPSILONS)):
        rms = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
        layer = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=epsilon)
        for offset in (0.0, 1.0):
            for kind, normed in (("rms", rms), ("layer", layer)):
                result = normed * (weight + offset)
                shifted = result if bias is None else result + bias
                error = float((shifted - expected).abs().max())
                fits.append((error, NormKind(kind, offset, epsilon)))  # type: ignore[arg-type]  # a literal above
    error, best = min(fits, key=lambda fit: fit[0])
    return best if error < _PROBE_TOLERANCE else None


def _first(tensors: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> torch.Tensor | None:
    return next((tensors[name] for name in names if tensors.get(name) is not None), None)


def _structure(module: nn.Module) -> tuple[object, ...]:
    scalars = tuple(
        sorted((key, repr(value)) for key, value in vars(module).items() if isinstance(value, (bool, int, float, str)))
    )
    return type(module), scalars, tuple((name, tuple(p.shape)) for name, p in module.named_parameters(recurse=False))


def _forward(module: nn.Module, norm: NormKind, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    if args or kwargs:
        result: torch.Tensor = type(module).forward(module, x, *args, **kwargs)
        return result
    parameters = {name: p for name, p in module._parameters.items() if p is not None}  # noqa: SLF001
    weight, bias = _first(parameters, _WEIGHT_NAMES), _first(parameters, _BIAS_NAMES)
    assert weight is not None
    if norm.offset:
        weight = weight + norm.offset
    if norm.kind == "layer":
        return operators.layer_norm(x, weight, bias, norm.epsilon)
    normed = operators.rms_norm(x, weight, norm.epsilon)
    return normed if bias is None else normed + bias


def recorded_kind(module: nn.Module) -> NormKind | None:
    """Return what a module is being recorded as; None for one that is not recorded as a norm."""
    forward = vars(module).get("forward")
    return forward.args[1] if isinstance(forward, functools.partial) and forward.func is _forward else None


@contextlib.contextmanager
def recorded_norms(model: nn.Module) -> Iterator[None]:
    """Record recognised norm modules as semantic operators in the body."""
    known: dict[tuple[object, ...], NormKind | None] = {}
    replaced: list[nn.Module] = []
    for module in model.modules():
        if not re.search("norm", type(module).__name__, re.IGNORECASE) or "forward" in vars(module):
            continue  # "forward": a family's wrapper took it already
        structure = _structure(module)
        if structure not in known:
            known[structure] = classify_norm(module)
        norm = known[structure]
        if norm is None:
            continue
        module.forward = functools.partial(_forward, module, norm)
        replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward
