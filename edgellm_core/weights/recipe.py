"""How one initializer of the graph is made from tensors of the checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgellm_core.settings import PAIRED_TYPES, stored_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Packing(Protocol):
    """Puts bytes ``[rows, columns]`` into the order of a kernel, a block of rows at a time."""

    @property
    def block_rows(self) -> int:
        """Rows that are packed without the others; the last block may have fewer."""

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the dimensions of what ``[rows, columns]`` becomes."""

    def pack(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the packed bytes of a block, in one dimension."""


class StackPacking(Protocol):
    """Puts the parts of one item of a stack, joined along axis 0, into the order of a kernel."""

    def shape(self, joined: tuple[int, ...]) -> tuple[int, ...]:
        """Return the dimensions of what ``[rows, columns]`` becomes."""

    def pack(self, joined: NDArray[Any]) -> NDArray[Any]:
        """Return the packed item; bytes stay bytes, and floats have the type of the recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Each source is cast to ``element_type``, optionally transposed, and appended along axis 0.

    A stack ``[n, rows, …]`` is its parts ``[rows, …]`` appended: both lie in memory alike. Types of which a byte holds
    two elements are made from bytes (``U8``): from pairs as they are, or from single numbers that are joined to pairs.

    Attributes:
        name: name of the initializer in the graph.
        element_type: element type of the initializer in safetensors' spelling, for example ``F16``, or one of
            ``PAIRED_TYPES``.
        shape: dimensions of the initializer; ``()`` for a scalar.
        sources: names of checkpoint tensors, in the order in which they are appended.
        packing: how the one source, of bytes (``U8``), is put into another order; the other settings then don't apply.
        transpose: swap the two axes of every source before appending; all sources then have two dimensions. Pairs stay
            together: ``[rows / 2, columns]`` bytes, whose pairs lie along the rows, become ``[columns, rows]``.
        join: sources hold one four-bit number a byte; after the swap, neighbours along the last axis become pairs.
        factor: what every number is multiplied with after it was cast; only of F32, F16 and BF16.
        positive: every element must be above 0 in its new type, as divisors must.
        row_orders: for each source the order in which its rows (axis 0) are taken, empty for that of the file; ``()``
            where all lie as in the file. Not with ``transpose`` or ``join``.
        stack_order: order in which the rows of each item of a stack ``[n, rows, …]`` are taken; empty for that of the
            sources. Not with any of the others.
        stack_packing: how each item of a stack ``[n, …]`` is put into another order, all its sources together: bytes
            (``U8``), or floats after their cast; the other settings then don't apply.
    """

    name: str
    element_type: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    packing: Packing | None = None
    transpose: bool = False
    join: bool = False
    factor: float = 1.0
    positive: bool = False
    row_orders: tuple[tuple[int, ...], ...] = ()
    stack_order: tuple[int, ...] = ()
    stack_packing: StackPacking | None = None

    @property
    def written_shape(self) -> tuple[int, ...]:
        """Dimensions in what the sources count, which is pairs where they hold pairs."""
        if self.element_type in PAIRED_TYPES and not self.join and self.shape:
            return (*self.shape[:-1], -(-self.shape[-1] // 2))
        return self.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the initializer, without padding."""
        return stored_bytes(self.element_type, math.prod(self.shape))
