"""Four-bit weights: taken out of the 32-bit integers that other tools pack them into, and put into ModelOpt's pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.quantization.importers.source import ForeignCheckpoint, NewTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

IN_ORDER: Final = (0, 1, 2, 3, 4, 5, 6, 7)
"""Which of eight neighbours each group of four bits holds, from the lowest on."""

MIDDLE: Final = np.uint8(8)
"""The zero point of symmetric weights: an unsigned code minus this is the signed one."""

LARGEST: Final = 15

ALGORITHM: Final = "W4A16_AWQ"
"""ModelOpt's name of weights in blocks of four bits, whichever method chose them."""


def unpack_columns(packed: NDArray[np.int32], order: Sequence[int] = IN_ORDER) -> NDArray[np.uint8]:
    """Return ``[rows, 8 · columns]`` numbers of four bits from ``[rows, columns]`` integers."""
    rows, columns = packed.shape
    codes = np.empty((rows, columns, 8), np.uint8)
    for position, neighbour in enumerate(order):
        codes[:, :, neighbour] = (packed >> (4 * position)) & 15
    return codes.reshape(rows, 8 * columns)


def unpack_rows(packed: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return ``[8 · rows, columns]`` numbers of four bits from ``[rows, columns]`` integers."""
    rows, columns = packed.shape
    codes = np.empty((rows, 8, columns), np.uint8)
    for position in range(8):
        codes[:, position] = (packed >> (4 * position)) & 15
    return codes.reshape(8 * rows, columns)


def pair_outputs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``[out / 2, in]`` bytes from ``[out, in]`` numbers: the even output in the low half."""
    pairs: NDArray[np.uint8] = codes[::2] | (codes[1::2] << np.uint8(4))
    return pairs


@dataclass(frozen=True, kw_only=True)
class FourBitLayer:
    """One weight-only layer ``[outputs, inputs]``.

    Attributes:
        outputs: number of outputs; even.
        inputs: number of inputs; a multiple of the number of groups.
        codes: reads the unsigned numbers ``[outputs, inputs]``.
        zeros: zero point of each group ``[outputs, groups]``.
        scale_type: element type of the scales.
        scales: reads the bits of the scales ``[outputs, groups]``.
        order: input that each column of ``codes`` belongs to once sorted by group; None where it is in order.
    """

    outputs: int
    inputs: int
    codes: Callable[[], NDArray[np.uint8]]
    zeros: NDArray[np.uint8]
    scale_type: str
    scales: Callable[[], NDArray[Any]]
    order: NDArray[np.int64] | None = None

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle."""
        return bool((self.zeros == MIDDLE).all())

    def tensors(self) -> dict[str, NewTensor]:
        """Return the canonical tensors by suffix: int4 without zero points, else uint4 with them."""
        found = {
            "weight": NewTensor(element_type="U8", shape=(self.outputs // 2, self.inputs), make=self._weight),
            "weight_scale": NewTensor(element_type=self.scale_type, shape=self.zeros.shape, make=self.scales),
        }
        if not self.symmetric:
            zeros = self.zeros
            found["weight_zero_point"] = NewTensor(element_type="U8", shape=zeros.shape, make=lambda: zeros)
        if self.order is not None:
            order = self.order
            found["input_order"] = NewTensor(element_type="I64", shape=order.shape, make=lambda: order)
        return found

    def _weight(self) -> NDArray[np.uint8]:
        codes = self.codes()
        if self.order is not None:
            codes = codes[:, self.order]
        # an unsigned code minus eight, in two's complement of four bits, is the code with its highest bit turned over
        return pair_outputs(codes ^ MIDDLE if self.symmetric else codes)


def input_order(
    source: ForeignCheckpoint, name: str, *, module: str, inputs: int, groups: int
) -> NDArray[np.int64] | None:
    """Return the inputs of a layer sorted by group, stable; None where they are sorted.

    Args:
        source: the checkpoint.
        name: tensor with the group of each input; where there is none, they are sorted.
        module: path of the layer.
        inputs: number of inputs.
        groups: number of groups.

    Raises:
        UnsupportedQuantizationError: the groups are not of one size.
        QuantizedTensorMismatchError: the tensor is malformed.
    """
    if not groups or inputs % groups:
        source.refuse(f"{groups} groups of the {inputs} inputs of {module!r}")
    if name not in source.tensors:
        return None
    source.require_shape(source.require(name, ("I32", "I64"), 1), (inputs,))
    found = source.read(name)
    sizes = np.bincount(found) if found.min() >= 0 else np.zeros(0)
    if len(sizes) != groups or (sizes != inputs // groups).any():
        source.refuse(f"groups of different sizes in {name!r}")
    order = np.argsort(found, kind="stable").astype(np.int64)
    return None if (order == np.arange(inputs)).all() else order
