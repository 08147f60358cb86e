"""Streams a tensor through a packing, block by block of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.weights.errors import RecipeMismatchError, UnsupportedCastError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgellm_core.checkpoint.tensors import TensorEntry
    from edgellm_core.weights.reader import TensorStream
    from edgellm_core.weights.recipe import Packing, Recipe
    from edgellm_core.weights.sink import DigestedFile


def check_packed(recipe: Recipe, packing: Packing, entries: Sequence[TensorEntry]) -> None:
    """Refuse a recipe whose packing does not make its initializer.

    Raises:
        UnsupportedCastError: the source holds no bytes.
        RecipeMismatchError: several sources, or another shape.
    """
    other = next((entry for entry in entries if entry.element_type != "U8"), None)
    if other is not None:
        raise UnsupportedCastError(other.name, other.element_type, recipe.element_type)
    if len(entries) != 1 or packing.shape(entries[0].shape) != recipe.shape:
        raise RecipeMismatchError(recipe.name, recipe.shape, [(entry.name, entry.shape) for entry in entries])


def copy_packed(
    packing: Packing,
    entry: TensorEntry,
    stream: TensorStream,
    sink: DigestedFile,
    chunk_bytes: int,
    tell: Callable[[int], None],
) -> None:
    """Stream one source ``[rows, columns]`` into the data file; a block of rows is held at a time.

    Args:
        packing: puts a block into order.
        entry: the source.
        stream: its bytes.
        sink: the data file.
        chunk_bytes: bytes written at a time.
        tell: is told the position in the data file.
    """
    rows, columns = entry.shape
    block = np.empty((min(packing.block_rows, rows), columns), np.uint8)
    for first in range(0, rows, len(block)):
        part = block[: rows - first]
        stream.read_into(part.reshape(-1))
        packed = packing.pack(part)
        for start in range(0, packed.size, chunk_bytes):
            piece = packed[start : start + chunk_bytes]
            sink.buffer()[: piece.size] = piece
            sink.commit(piece.size)
        tell(sink.position)
