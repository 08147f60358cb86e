"""Reads runs of rows out of a GGUF file and dequantizes them; memory is that of one run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from edgellm_core.checkpoint.gguf.header import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgellm_core.checkpoint.gguf.header import GgufTensor
    from edgellm_core.checkpoint.gguf.plan import Target

CHUNK_ELEMENTS: Final = 1 << 21
"""Elements that are dequantized at once: 8 MB of float32, which a processor's cache and the memory budget like."""

DTYPES: Final[Mapping[str, torch.dtype]] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Element types that are numbers, not blocks."""

_TYPE_IDS: Final = {name: number for number, (name, _elements, _bytes) in BLOCKS.items()}
_BLOCK_SIZES: Final = {name: (elements, size) for name, elements, size in BLOCKS.values()}
_MXFP4_LEVELS: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""What the four bits of an MXFP4 number mean (OCP Microscaling Formats v1.0, section 5.3.3)."""


def row_chunks(target: Target) -> Iterator[torch.Tensor]:
    """Yield the rows of a tensor of the checkpoint, in order.

    Yields:
        tensors [rows, columns] of the element type of the source where it is a number, else float32. One-dimensional
        tensors have one column. A transposed tensor is yielded matrix by matrix.
    """
    if not target.sources:
        yield torch.zeros(math.prod(target.shape), 1)
        return
    if len(target.sources) > 1 or target.transposed:
        yield from _matrices(target)
        return
    (source,) = target.sources
    columns = _columns(source)
    rows = math.prod(target.shape) // columns
    step = max(1, CHUNK_ELEMENTS // columns)
    for begin in range(0, rows, step):
        order = row_order(target, begin, min(rows, begin + step), rows)
        values = read_rows(source, order)
        yield values.float().sub_(target.offset).to(values.dtype) if target.offset else values


def row_order(target: Target, begin: int, end: int, rows: int) -> np.ndarray[Any, Any]:
    """Return which rows of the source the rows ``begin`` to ``end`` of a tensor are, of ``rows`` in all.

    llama.cpp rotates pairs of neighbours, transformers pairs of the two halves of a head; its converter reorders rows.
    """
    order = np.arange(begin, end)
    if target.paired_heads:
        head = rows // target.paired_heads
        within = order % head
        half, pair = within // (head // 2), within % (head // 2)
        order = order - within + 2 * pair + half
    return order + target.first_row


def read_rows(source: GgufTensor, order: np.ndarray[Any, Any]) -> torch.Tensor:
    """Read rows of a tensor of the file: [rows, columns], numbers as they are, blocks as float32.

    Args:
        source: the tensor.
        order: numbers of the rows; those between the first and the last are read too.
    """
    low, high = int(order.min()), int(order.max()) + 1
    width = _row_bytes(source)
    with source.file.open("rb") as stream:
        stream.seek(source.offset + low * width)
        raw = np.fromfile(stream, np.uint8, count=(high - low) * width).reshape(high - low, width)
    if not np.array_equal(order, np.arange(low, high)):
        raw = raw[order - low]
    packed = torch.from_numpy(raw)
    dtype = DTYPES.get(source.element_type)
    return packed.view(dtype) if dtype is not None else dequantize(packed, source.element_type)


def dequantize(packed: torch.Tensor, element_type: str) -> torch.Tensor:
    """Return what blocks mean: uint8 [rows, bytes] → float32 [rows, columns].

    transformers' kernels do most types; of those that it lacks, the common ones are here, and the ``gguf`` package does
    the rest.
    """
    elements, size = _BLOCK_SIZES[element_type]
    rows = packed.shape[0]
    blocks = packed.reshape(-1, size)
    if element_type in _OWN:
        return _OWN[element_type](blocks).reshape(rows, -1)
    from transformers.integrations.gguf.dequant import GGML_BLOCK
    from transformers.integrations.gguf.dequant import dequantize as dequantize_blocks

    number = _TYPE_IDS[element_type]
    if number in GGML_BLOCK:
        return dequantize_blocks(blocks.reshape(-1), number).reshape(rows, -1)
    import gguf

    values = gguf.dequantize(blocks.numpy(), gguf.GGMLQuantizationType(number))
    return torch.from_numpy(values).reshape(rows, elements * (packed.shape[1] // size))


def _matrices(target: Target) -> Iterator[torch.Tensor]:
    """Yield the matrices of a tensor whose rows take turns, or which is transposed."""
    if len(target.shape) == 2:  # a bias of each expert: a row of numbers
        for index in range(target.shape[0]):
            parts = [read_rows(source, np.arange(index, index + 1)).reshape(-1) for source in target.sources]
            yield torch.stack(parts, dim=1).reshape(-1, 1)
        return
    rows = target.sources[0].shape[-2]
    for index in range(math.prod(target.shape[:-2])):
        order = np.arange(index * rows, (index + 1) * rows)
        parts = [read_rows(source, order) for source in target.sources]
        matrix = torch.stack(parts, dim=1).reshape(-1, parts[0].shape[1]) if len(parts) > 1 else parts[0]
        yield matrix.T.contiguous() if target.transposed else matrix


def _columns(source: GgufTensor) -> int:
    return source.shape[-1] if len(source.shape) > 1 else 1


def _row_bytes(source: GgufTensor) -> int:
    elements, size = _BLOCK_SIZES[source.element_type]
    return _columns(source) * size // elements


def _half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _five_bits(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """Return 32 numbers of five bits: the fifth bits in four bytes, then the low four bits of 16 pairs."""
    high = blocks[:, start : start + 4]
    bits = ((high[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1).reshape(-1, 32)
    low = blocks[:, start + 4 : start + 20]
    return torch.cat([low & 15, low >> 4], dim=1) | (bits << 4)


def _q5_0(blocks: torch.Tensor) -> torch.Tensor:
    return _half(blocks, 0) * (_five_bits(blocks, 2).to(torch.int8) - 16)


def _q5_1(blocks: torch.Tensor) -> torch.Tensor:
    return _half(blocks, 0) * _five_bits(blocks, 4) + _half(blocks, 2)


def _mxfp4(blocks: torch.Tensor) -> torch.Tensor:
    scale = torch.ldexp(torch.ones(()), blocks[:, :1].int() - 127)
    numbers = torch.cat([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], dim=1)
    return torch.tensor(_MXFP4_LEVELS)[numbers.long()] * scale


_OWN: Final[Mapping[str, Callable[[torch.Tensor], torch.Tensor]]] = {"Q5_0": _q5_0, "Q5_1": _q5_1, "MXFP4": _mxfp4}
"""Element types that transformers' kernels lack. Source of the layouts: ggml, ``ggml-common.h``."""
