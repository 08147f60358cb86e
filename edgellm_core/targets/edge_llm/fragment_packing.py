"""Four-bit weights in the order in which the threads of ``trt_edgellm::Int4GroupwiseGemmPluginV2`` read them.

The weight ``[outputs, inputs]`` is cut into tiles of 128 outputs and 64 inputs, the tiles of the same outputs one after
the other. A tile becomes 8 rows of 512 bytes: row ``2 · step + half`` holds the 16 inputs from ``16 · step`` on, of the
64 outputs from ``64 · half`` on. Thread ``t`` of 128 reads the four bytes from ``4 · t`` on: byte ``2 · odd + upper``
belongs to output ``32 · upper + t // 4``, its low four bits to input ``2 · (t % 4) + odd``, its high four bits to the
input 8 further. Numbers are stored plus 8; outputs that fill the last tile up are zeros.

Layout: TensorRT-Edge-LLM 0.11, ``checkpoint/repacking.py``, for the plugin's ``bN = 128`` and ``bK = 64``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgellm_core.errors import UserError

if TYPE_CHECKING:
    from typing import Any

TILE_OUTPUTS: Final = 128
"""Outputs of a tile. Tiles of the same outputs lie together, so 128 outputs can be packed without the others."""

TILE_INPUTS: Final = 64
"""Inputs of a tile."""

ALIGNMENT: Final = 64
"""What the plugin asks outputs and inputs to be multiples of."""

ROW_BYTES: Final = 512
"""Bytes that the 128 threads read at a time."""

_TILE_ROWS: Final = TILE_OUTPUTS * TILE_INPUTS // 2 // ROW_BYTES
_BIAS: Final = np.uint8(0x88)
"""Turns both numbers of a byte from two's complement into what is stored plus 8, and back."""

Bytes = NDArray[np.uint8]


class UnalignedInt4Error(UserError):
    """The plugin for int4 weights takes no layer of this size."""

    def __init__(self, module: str, outputs: int, inputs: int) -> None:
        """Name the layer and its size."""
        super().__init__(
            f"Outputs and inputs of int4 layer {module!r} must be multiples of {ALIGNMENT} for target edge-llm; it is "
            f"[{outputs}, {inputs}]. Leave it unquantized (edgellm quantize --skip {module!r}), or use target onnx."
        )


def require_alignment(module: str, outputs: int, inputs: int) -> None:
    """Refuse a layer ``[outputs, inputs]`` that the plugin does not take.

    Raises:
        UnalignedInt4Error: a size is no multiple of ``ALIGNMENT``.
    """
    if outputs % ALIGNMENT or inputs % ALIGNMENT:
        raise UnalignedInt4Error(module, outputs, inputs)


def packed_shape(outputs: int, inputs: int) -> tuple[int, int]:
    """Return the shape ``[rows, 512]`` of a packed weight ``[outputs, inputs]``."""
    return -(-outputs // TILE_OUTPUTS) * (inputs // TILE_INPUTS) * _TILE_ROWS, ROW_BYTES


def pack_fragments(pairs: Bytes) -> NDArray[np.int8]:
    """Pack a weight, or any whole tiles of outputs of it: the results of parts, joined, are the result of the whole.

    Args:
        pairs: ``[outputs / 2, inputs]``, the low four bits hold the even output, two's complement, as ModelOpt writes
            them; outputs and inputs are multiples of 64.

    Returns:
        ``[rows, 512]``.
    """
    outputs, inputs = 2 * pairs.shape[0], pairs.shape[1]
    rows = packed_shape(outputs, inputs)[0]
    missing = -outputs % TILE_OUTPUTS
    if missing:
        pairs = np.concatenate([pairs, np.zeros((missing // 2, inputs), np.uint8)])
    near, far = np.moveaxis(_by_place(pairs, inputs), 6, 0)
    packed = np.empty((*_thread_shape(pairs.shape[0], inputs), 2, 4, 2, 2), np.uint8)
    for even_or_odd, joined in enumerate((near & 0x0F | far << 4, near >> 4 | far & 0xF0)):
        # [blocks, halves, upper, rows, tiles, steps, columns, odd] → the order of the threads and of their bytes
        packed[:, :, :, :, :, even_or_odd] = joined.transpose(0, 4, 5, 1, 3, 6, 7, 2)
    np.bitwise_xor(packed, _BIAS, out=packed)
    return packed.reshape(rows, ROW_BYTES).view(np.int8)


def unpack_fragments(packed: NDArray[np.int8], outputs: int, inputs: int) -> Bytes:
    """Return the weight ``[outputs / 2, inputs]`` that ``pack_fragments`` packed.

    Args:
        packed: ``[rows, 512]``.
        outputs: outputs of the layer, without what fills the last tile up.
        inputs: inputs of the layer.
    """
    half_rows = packed_shape(outputs, TILE_INPUTS)[0] // _TILE_ROWS * TILE_OUTPUTS // 2
    threads = (packed.view(np.uint8) ^ _BIAS).reshape(*_thread_shape(half_rows, inputs), 2, 4, 2, 2)
    even, odd = (threads[:, :, :, :, :, parity].transpose(0, 3, 7, 4, 1, 2, 5, 6) for parity in range(2))
    pairs = np.empty((half_rows, inputs), np.uint8)
    near, far = np.moveaxis(_by_place(pairs, inputs), 6, 0)
    near[:] = even & 0x0F | odd << 4
    far[:] = even >> 4 | odd & 0xF0
    return pairs[: outputs // 2]


def _by_place(pairs: Bytes, inputs: int) -> NDArray[Any]:
    """View pairs of outputs as ``[blocks, halves, upper, rows, tiles, steps, near or far, columns, odd]``."""
    return pairs.reshape(-1, 2, 2, 16, inputs // TILE_INPUTS, 4, 2, 4, 2)


def _thread_shape(half_rows: int, inputs: int) -> tuple[int, ...]:
    """Return ``(blocks, tiles, steps, halves, pairs of outputs)``, which order the threads' reads."""
    return 2 * half_rows // TILE_OUTPUTS, inputs // TILE_INPUTS, 4, 2, 16


@dataclass(frozen=True)
class FragmentPacking:
    """The packing as a recipe takes it: ModelOpt's pairs of outputs → fragments."""

    @property
    def block_rows(self) -> int:
        """Pairs of the outputs of a tile."""
        return TILE_OUTPUTS // 2

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``[rows, 512]``."""
        pairs, inputs = stored
        return packed_shape(2 * pairs, inputs)

    def pack(self, rows: Bytes) -> Bytes:
        """Return the packed bytes of a block."""
        return pack_fragments(rows).reshape(-1).view(np.uint8)
