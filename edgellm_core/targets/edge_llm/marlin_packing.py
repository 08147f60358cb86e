"""Four-bit weights and their scales in the order of Marlin's kernels, which ``trt_edgellm::Int4MoePlugin`` reads.

The weight ``[outputs, inputs]`` is cut into tiles of 16 inputs and 64 outputs, the tiles of the same inputs one after
the other. A tile becomes 128 little-endian words of eight numbers: number ``4 · odd + 2 · right + far`` of word
``16 · column + 4 · pair + quarter`` belongs to input ``8 · far + 2 · pair + odd`` and output ``16 · quarter +
8 · right + column``. Numbers are stored plus 8.

Scales ``[outputs, groups]`` become ``[groups, outputs]``. Of each 64 outputs number ``row + 8 · column`` is at
``8 · row + column``; where one group spans all inputs, of each 32 number ``8 · part + 2 · row + odd`` is at
``8 · row + 2 · part + odd``.

Layout: Marlin (https://github.com/IST-DASLab/marlin), as TensorRT-Edge-LLM 0.11 has it in ``checkpoint/repacking.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

TILE_INPUTS: Final = 16
TILE_OUTPUTS: Final = 64
"""What inputs and outputs have to be multiples of."""

_BIAS: Final = np.uint8(0x88)
"""Turns both numbers of a byte from two's complement into what is stored plus 8, and back."""


def marlin_shape(outputs: int, inputs: int) -> tuple[int, int]:
    """Return the shape of a packed weight ``[outputs, inputs]``: ``[inputs / 16, 8 · outputs]`` bytes."""
    return inputs // TILE_INPUTS, 8 * outputs


def pack_marlin(pairs: Bytes) -> NDArray[np.int8]:
    """Pack a weight.

    Args:
        pairs: ``[outputs / 2, inputs]``, the low four bits hold the even output, two's complement, as ModelOpt writes
            them; outputs are a multiple of 64, inputs of 16.

    Returns:
        ``[inputs / 16, 8 · outputs]``.
    """
    outputs, inputs = 2 * pairs.shape[0], pairs.shape[1]
    packed = np.empty((inputs // TILE_INPUTS, outputs // TILE_OUTPUTS, 8, 4, 4, 2, 2), np.uint8)
    near, far = np.moveaxis(_by_place(pairs), 5, 0)
    for parity, joined in enumerate((near & 0x0F | far << 4, near >> 4 | far & 0xF0)):
        # [tiles of outputs, quarters, right, columns / 2, tiles of inputs, pairs, odd] → the order of the words
        packed[:, :, parity::2] = joined.transpose(4, 0, 3, 5, 1, 6, 2)
    np.bitwise_xor(packed, _BIAS, out=packed)
    return packed.reshape(marlin_shape(outputs, inputs)).view(np.int8)


def unpack_marlin(packed: NDArray[np.int8]) -> Bytes:
    """Return the weight ``[outputs / 2, inputs]`` that :func:`pack_marlin` packed."""
    inputs, outputs = TILE_INPUTS * packed.shape[0], packed.shape[1] // 8
    words = (packed.view(np.uint8) ^ _BIAS).reshape(packed.shape[0], outputs // TILE_OUTPUTS, 8, 4, 4, 2, 2)
    pairs = np.empty((outputs // 2, inputs), np.uint8)
    near, far = np.moveaxis(_by_place(pairs), 5, 0)
    even, odd = (words[:, :, parity::2].transpose(1, 4, 6, 2, 0, 3, 5) for parity in range(2))
    near[:] = even & 0x0F | odd << 4
    far[:] = even >> 4 | odd & 0xF0
    return pairs


def _by_place(pairs: Bytes) -> NDArray[Any]:
    """View pairs of outputs as ``[tiles, quarters, right, columns / 2, tiles of inputs, near or far, pairs, odd]``."""
    tiles = pairs.shape[1] // TILE_INPUTS
    return pairs.reshape(-1, 4, 2, 4, tiles, 2, 4, 2)


def scale_order(outputs: int, *, groups: int) -> NDArray[np.int64]:
    """Return which output each column of the packed scales belongs to."""
    parts = (-1, 8, 8) if groups > 1 else (-1, 4, 4, 2)
    order: NDArray[np.int64] = np.arange(outputs).reshape(parts).swapaxes(1, 2).reshape(-1)
    return order
