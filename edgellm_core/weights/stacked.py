"""Streams a stack through a packing, one item at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from edgellm_core.weights.cast import BITS, NUMBERS, as_float, converted, first_non_finite, to_float32
from edgellm_core.weights.errors import (
    NonFiniteWeightError,
    RecipeMismatchError,
    UnsupportedCastError,
    WeightOverflowError,
)
from edgellm_core.weights.reader import Bytes, RowMajorStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex
    from edgellm_core.weights.reader import SourceFiles
    from edgellm_core.weights.recipe import Recipe, StackPacking
    from edgellm_core.weights.sink import DigestedFile


T = TypeVar("T")


def check_stack(recipe: Recipe, packing: StackPacking, entries: Sequence[TensorEntry]) -> None:
    """Refuse a recipe whose packing does not make its initializer.

    Raises:
        UnsupportedCastError: a source has neither bytes nor floats, whichever the recipe makes.
        RecipeMismatchError: sources don't divide among the items, or make another shape.
    """
    floats = recipe.element_type in BITS
    for entry in entries:
        if entry.element_type not in ((*BITS, *NUMBERS) if floats else ("U8",)):
            raise UnsupportedCastError(entry.name, entry.element_type, recipe.element_type)
    items = recipe.shape[0]
    parts = len(entries) // max(1, items)
    whole = bool(parts) and len(entries) == items * parts and all(len(entry.shape) == 2 for entry in entries)
    made = {_joined(item) for item in _groups(entries, parts)} if whole else set()
    if len(made) != 1 or (items, *packing.shape(made.pop())) != recipe.shape:
        raise RecipeMismatchError(recipe.name, recipe.shape, [(entry.name, entry.shape) for entry in entries])


def _groups(sequence: Sequence[T], size: int) -> list[Sequence[T]]:
    return [sequence[start : start + size] for start in range(0, len(sequence), size)]


def _joined(entries: Sequence[TensorEntry]) -> tuple[int, ...]:
    """Return the shape of tensors under each other; one that none has where their rows differ."""
    rest = {entry.shape[1:] for entry in entries}
    return (sum(entry.shape[0] for entry in entries), *(rest.pop() if len(rest) == 1 else ()))


def copy_stack(
    recipe: Recipe,
    packing: StackPacking,
    tensors: TensorIndex,
    files: SourceFiles,
    sink: DigestedFile,
    tell: Callable[[int], None],
) -> None:
    """Stream all sources into the data file; one item is held at a time.

    Args:
        recipe: of the stack.
        packing: puts an item into order.
        tensors: the checkpoint.
        files: its files.
        sink: the data file.
        tell: is told the position in the data file.
    """
    parts = len(recipe.sources) // recipe.shape[0]
    for names in _groups(recipe.sources, parts):
        read = [_read(recipe, tensors[name], files) for name in names]
        packed = np.ascontiguousarray(packing.pack(np.concatenate(read))).reshape(-1).view(np.uint8)
        for start in range(0, packed.size, len(sink.buffer())):
            piece = packed[start : start + len(sink.buffer())]
            sink.buffer()[: piece.size] = piece
            sink.commit(piece.size)
        tell(sink.position)


def _read(recipe: Recipe, entry: TensorEntry, files: SourceFiles) -> NDArray[Any]:
    """Return a source: bytes, or the bits of floats in the type of the recipe."""
    raw: Bytes = np.empty(entry.nbytes, np.uint8)
    RowMajorStream(files, entry).read_into(raw)
    if recipe.element_type not in BITS:
        return raw.reshape(entry.shape)
    if entry.element_type in NUMBERS:
        raw, entry = to_float32(raw, entry.element_type).view(np.uint8), replace(entry, element_type="F32")
    values = raw.view(BITS[entry.element_type])
    _refuse_non_finite(values, entry)
    made = values
    if entry.element_type != recipe.element_type:
        made = converted(raw, entry.element_type, recipe.element_type)
        index = first_non_finite(made, recipe.element_type)
        if index is not None:
            raise WeightOverflowError(
                entry.name, index, as_float(int(values[index]), entry.element_type), recipe.element_type
            )
    return made.reshape(entry.shape)


def _refuse_non_finite(values: NDArray[Any], entry: TensorEntry) -> None:
    index = first_non_finite(values, entry.element_type)
    if index is not None:
        raise NonFiniteWeightError(entry.name, index, as_float(int(values[index]), entry.element_type), entry.file)
