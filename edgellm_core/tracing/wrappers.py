"""A family's layer wrappers: applied by class name, and probed on random numbers where that is possible."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from edgellm_core.tracing import operators
from edgellm_core.tracing.errors import FailedWrapperError, UnusedWrapperError, WrongWrapperError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgellm_core.contract import ModelFamily, ModuleForward

_PROBE_TOLERANCE = 1e-4
_PROBE_LIMIT = 1 << 24
"""Elements of the largest module that is probed; above it the parity gate alone judges."""


def wrapper_error(module: nn.Module, forward: ModuleForward) -> float | None:
    """Return the relative error of a wrapper on random numbers, or None if the module can't be called alone.

    Args:
        module: the module whose forward is replaced.
        forward: the replacement, called as ``forward(module, x)``. What it raises on the input that the module takes
            is raised.
    """
    parameters = dict(module.named_parameters())
    width = next((int(p.shape[-1]) for p in parameters.values()), 0)
    if not width or sum(p.numel() for p in parameters.values()) > _PROBE_LIMIT:
        return None
    with _disable_current_modes(), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, width, generator=generator)
        values = {name: torch.randn(tuple(p.shape), generator=generator) * 0.1 for name, p in parameters.items()}
        try:
            expected = torch.func.functional_call(module, values, (x,))
            if not isinstance(expected, torch.Tensor):
                return None
        except (TypeError, RuntimeError, ValueError):  # needs more than one hidden state; the parity gate judges it
            return None
        with _forward_replaced(module, forward), operators.computed():
            result: Any = torch.func.functional_call(module, values, (x,))
        if not isinstance(result, torch.Tensor) or result.shape != expected.shape:
            return math.inf
        return float((result - expected).abs().max() / expected.abs().max().clamp_min(1e-9))


@contextlib.contextmanager
def _forward_replaced(module: nn.Module, forward: ModuleForward) -> Iterator[None]:
    module.forward = functools.partial(forward, module)
    try:
        yield
    finally:
        del module.forward


def _probe(module: nn.Module, forward: ModuleForward, family: str) -> float | None:
    try:
        return wrapper_error(module, forward)
    except Exception as error:  # a plugin's code can raise anything
        raise FailedWrapperError(family, type(module).__name__, error) from error


def _module_classes(model: nn.Module) -> set[str]:
    """Return the class names of a model's modules, and of those that its modeling file has for other configs."""
    file = vars(sys.modules[type(model).__module__]).values()
    others = {item.__name__ for item in file if isinstance(item, type) and issubclass(item, nn.Module)}
    return others | {type(module).__name__ for module in model.modules()}


@contextlib.contextmanager
def family_wrappers(model: nn.Module, family: ModelFamily) -> Iterator[None]:
    """Replace forwards as the family says in the body.

    Raises:
        UnusedWrapperError: a wrapper is for a class that the model does not have.
        WrongWrapperError: a wrapper does not equal the module that it replaces on random numbers.
        FailedWrapperError: a wrapper raises on random numbers.
    """
    wrappers = family.module_forwards()
    known = _module_classes(model)
    for name in wrappers:
        if name not in known:
            raise UnusedWrapperError(family.name, name, type(model).__name__, known)
    probed: set[str] = set()
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            name = type(module).__name__
            if name not in wrappers:
                continue
            if name not in probed:
                probed.add(name)
                error = _probe(module, wrappers[name], family.name)
                if error is not None and not error < _PROBE_TOLERANCE:
                    raise WrongWrapperError(family.name, name, error)
            stack.enter_context(_forward_replaced(module, wrappers[name]))
        yield
