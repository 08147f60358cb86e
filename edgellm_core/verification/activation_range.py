"""Whether float16 can hold the original's activations.

ONNX Runtime's CPU kernels compute most float16 operators in float32 and drop the casts between them, so a value beyond
float16's range can pass through unharmed there and become infinite on a device. So the range is measured where it is
certain: in the original, in float32, at the inputs and outputs of its innermost modules.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Excess:
    """A value that is too large.

    Attributes:
        module: path of the module that takes or makes it.
        takes: True for an input of the module, False for its output.
        largest: largest absolute value.
    """

    module: str
    takes: bool
    largest: float


@contextlib.contextmanager
def watched_range(model: nn.Module, limit: float) -> Iterator[list[Excess]]:
    """Collect values beyond ``limit`` that the body's forward passes make, in order of execution."""
    found: list[Excess] = []
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def watch(path: str, module: nn.Module) -> None:
        def before(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            _collect(found, path, arguments, limit, takes=True)

        def after(_module: nn.Module, _arguments: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            _collect(found, path, outputs, limit, takes=False)

        handles.extend((module.register_forward_pre_hook(before), module.register_forward_hook(after)))

    for path, module in model.named_modules():
        if next(module.children(), None) is None:
            watch(path, module)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _collect(found: list[Excess], path: str, values: tuple[Any, ...], limit: float, *, takes: bool) -> None:
    import torch

    for value in values:
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            low, high = torch.aminmax(value)
            largest = max(-float(low), float(high))
            if largest > limit:
                found.append(Excess(module=path, takes=takes, largest=largest))
