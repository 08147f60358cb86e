"""Complex numbers as pairs of real tensors while a model is traced: neither ONNX nor TensorRT has a complex type.

Some models turn queries and keys as complex numbers (``torch.polar`` and ``torch.view_as_complex``). What a pair can't
do raises, so that such a model is refused.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, eq=False)
class ComplexPair:
    """A complex tensor in two real ones of the same shape.

    Attributes:
        real: real part.
        imaginary: imaginary part.
    """

    real: torch.Tensor
    imaginary: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Return the device of both parts."""
        return self.real.device

    @property
    def shape(self) -> torch.Size:
        """Return the shape, which is that of either part."""
        return self.real.shape

    def __mul__(self, other: ComplexPair | torch.Tensor | float) -> ComplexPair:
        """Multiply by a complex or real tensor or a number, with broadcasting."""
        if not isinstance(other, ComplexPair):
            return ComplexPair(self.real * other, self.imaginary * other)
        return ComplexPair(
            self.real * other.real - self.imaginary * other.imaginary,
            self.real * other.imaginary + self.imaginary * other.real,
        )

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> ComplexPair:
        """Index both parts."""
        return ComplexPair(self.real[index], self.imaginary[index])

    def unsqueeze(self, dim: int) -> ComplexPair:
        """Insert an axis of length 1."""
        return ComplexPair(self.real.unsqueeze(dim), self.imaginary.unsqueeze(dim))

    def to(self, device: torch.device) -> ComplexPair:
        """Move to a device.

        Raises:
            TypeError: asked for an element type, which a pair can't change into.
        """
        if not isinstance(device, torch.device):
            msg = f"a pair of real tensors can't become {device}"
            raise TypeError(msg)
        return ComplexPair(self.real.to(device), self.imaginary.to(device))


def _polar(absolute: torch.Tensor, angle: torch.Tensor) -> ComplexPair:
    return ComplexPair(absolute * torch.cos(angle), absolute * torch.sin(angle))


def _view_as_complex(parts: torch.Tensor) -> ComplexPair:
    return ComplexPair(parts[..., 0], parts[..., 1])


def _view_as_real(number: ComplexPair) -> torch.Tensor:
    return torch.stack((number.real, number.imaginary), -1)


@contextlib.contextmanager
def complex_pairs() -> Iterator[None]:
    """Let torch's functions that make and unmake complex tensors work on pairs in the body."""
    replaced = {"polar": _polar, "view_as_complex": _view_as_complex, "view_as_real": _view_as_real}
    saved = {name: getattr(torch, name) for name in replaced}
    for name, function in replaced.items():
        setattr(torch, name, function)
    try:
        yield
    finally:
        for name, function in saved.items():
            setattr(torch, name, function)
