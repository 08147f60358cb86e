"""Streams weights from the checkpoint into the graph's data file, one chunk at a time, each through its recipe."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from edgellm_core.settings import ELEMENT_BYTES, PAIRED_TYPES
from edgellm_core.weights.cast import (
    BITS,
    NUMBERS,
    Bits,
    as_float,
    can_cast,
    find_cast,
    first_e4m3_nan,
    first_non_finite,
    first_not_positive,
    join_pairs,
    multiplied,
    one_torch_thread,
)
from edgellm_core.weights.errors import (
    FourBitRangeError,
    NonFiniteWeightError,
    RecipeMismatchError,
    ScaledWeightOverflowError,
    ScaleNotPositiveError,
    UnsupportedCastError,
    WeightOverflowError,
)
from edgellm_core.weights.packed import check_packed, copy_packed
from edgellm_core.weights.pieces import Piece, pieces_of
from edgellm_core.weights.reader import (
    Bytes,
    Float32Stream,
    ReorderedStream,
    RowMajorStream,
    SourceFiles,
    TensorStream,
    TransposedStream,
)
from edgellm_core.weights.sink import DigestedFile
from edgellm_core.weights.stacked import check_stack, copy_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex
    from edgellm_core.events import Reporter
    from edgellm_core.weights.recipe import Recipe

ALIGNMENT: Final = 4096
"""Offsets are multiples of a page, so that runtimes can map each tensor (ONNX, ``TensorProto.external_data``)."""

CHUNK_BYTES: Final = 1 << 20
"""Bytes read or written at a time."""

BLOCK_CHUNKS: Final = 16
"""Chunks that a block of columns of a transposed tensor may take."""

PROGRESS_SECONDS: Final = 0.2
"""Least time between two progress reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Where one initializer lies in the data file, in bytes."""

    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where all initializers lie.

    Attributes:
        slots: slot of each initializer by name.
        total: size of the data file in bytes.
    """

    slots: Mapping[str, Slot]
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BindResult:
    """What was written.

    Attributes:
        nbytes: size of the data file.
        sha256: digest of the data file in hexadecimal digits.
        seconds: wall-clock time.
        layout: where the initializers lie.
    """

    nbytes: int
    sha256: str
    seconds: float
    layout: Layout


def plan_layout(recipes: Sequence[Recipe], start: int = 0) -> Layout:
    """Place initializers one after the other, each at a multiple of ``ALIGNMENT``, from byte ``start`` on."""
    slots: dict[str, Slot] = {}
    end = start
    for recipe in recipes:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        slots[recipe.name] = Slot(offset=offset, nbytes=recipe.nbytes)
        end = offset + recipe.nbytes
    return Layout(slots=slots, total=end)


def bind(
    recipes: Sequence[Recipe],
    tensors: TensorIndex,
    path: Path,
    *,
    report: Reporter,
    header: bytes = b"",
    chunk_bytes: int = CHUNK_BYTES,
) -> BindResult:
    """Write the data file of all initializers, in constant memory whatever its size.

    Args:
        recipes: how each initializer is made.
        tensors: the checkpoint.
        path: file to write; removed again on any error.
        report: receives bytes written so far and in all.
        header: what the file begins with; at most one chunk.
        chunk_bytes: bytes read or written at a time; at least 8.

    Raises:
        NonFiniteWeightError: a weight is NaN or infinite.
        WeightOverflowError: a weight is too large for its new element type.
        ScaledWeightOverflowError: a weight times the recipe's factor is.
        ScaleNotPositiveError: a divisor is not above 0 in its new element type.
        FourBitRangeError: a number to be joined to pairs has more than four bits.
        TruncatedTensorError: a file of the checkpoint is too short.
        UnreadableFileError: a file of the checkpoint can't be read.
        WeightsNotWrittenError: the data file can't be written.
        RecipeMismatchError: sources don't add up to the shape of an initializer.
        UnsupportedCastError: the element type of a source can't become that of the initializer.
    """
    started = time.perf_counter()
    for recipe in recipes:
        _check_recipe(recipe, tensors)
    layout = plan_layout(recipes, len(header))
    tell = _rate_limited(report, layout.total)
    with (
        SourceFiles() as files,
        one_torch_thread(),
        DigestedFile(path, layout.total, chunk_bytes=chunk_bytes) as sink,
    ):
        sink.buffer()[: len(header)] = np.frombuffer(header, np.uint8)
        sink.commit(len(header))
        for recipe in recipes:
            sink.pad_to(layout.slots[recipe.name].offset)
            if recipe.stack_packing is not None:
                copy_stack(recipe, recipe.stack_packing, tensors, files, sink, tell)
                continue
            for piece in pieces_of(recipe, [tensors[name] for name in recipe.sources]):
                _copy_piece(recipe, piece, files, sink, chunk_bytes, tell)
        digest = sink.finish()
    report.progress(layout.total, layout.total)
    seconds = time.perf_counter() - started
    return BindResult(nbytes=layout.total, sha256=digest, seconds=seconds, layout=layout)


def _check_recipe(recipe: Recipe, tensors: TensorIndex) -> None:
    entries = [tensors[name] for name in recipe.sources]
    if recipe.packing is not None:
        check_packed(recipe, recipe.packing, entries)
        return
    if recipe.stack_packing is not None:
        check_stack(recipe, recipe.stack_packing, entries)
        return
    for entry in entries:
        if not can_cast(entry.element_type, recipe.element_type):
            raise UnsupportedCastError(entry.name, entry.element_type, recipe.element_type)
    shapes = [entry.shape[::-1] if recipe.transpose else entry.shape for entry in entries]
    made = shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes if shape), *shapes[0][1:])
    fits = _fits(made, recipe.written_shape) and all(shape[1:] == shapes[0][1:] for shape in shapes)
    two_dimensional = all(len(shape) == 2 for shape in shapes)
    whole_bytes = recipe.element_type not in PAIRED_TYPES or recipe.shape[-1] % 2 == 0
    if not fits or not whole_bytes or (recipe.transpose and not two_dimensional):
        raise RecipeMismatchError(recipe.name, recipe.shape, [(entry.name, entry.shape) for entry in entries])


def _fits(made: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Say whether joined parts are a parameter, a stack whose first two dimensions were joined, or one number."""
    if made == (1,) and wanted == ():
        return True
    if len(wanted) == len(made) + 1 and len(made) > 0:
        return (wanted[0] * wanted[1], *wanted[2:]) == made
    return made == wanted


def _rate_limited(report: Reporter, total: int) -> Callable[[int], None]:
    latest = time.perf_counter()

    def tell(completed: int) -> None:
        nonlocal latest
        now = time.perf_counter()
        if now - latest >= PROGRESS_SECONDS:
            latest = now
            report.progress(completed, total)

    return tell


def _copy_piece(
    recipe: Recipe,
    piece: Piece,
    files: SourceFiles,
    sink: DigestedFile,
    chunk_bytes: int,
    tell: Callable[[int], None],
) -> None:
    """Stream one source, or a run of its rows, into the data file."""
    stream: TensorStream
    entry = piece.entry
    if recipe.packing is not None:
        copy_packed(recipe.packing, entry, RowMajorStream(files, entry), sink, chunk_bytes, tell)
        return
    if order := _row_order(recipe, entry):
        stream = ReorderedStream(files, entry, order)
    elif recipe.transpose:
        stream = TransposedStream(files, entry, block_bytes=BLOCK_CHUNKS * chunk_bytes)
    else:
        stream = RowMajorStream(files, entry, piece.first * ELEMENT_BYTES[entry.element_type])
    if entry.element_type in NUMBERS and recipe.element_type in BITS:
        stored = entry
        stream = Float32Stream(stream, stored, lambda index: _index_in_file(recipe, stored, piece.first + index))
        entry = replace(entry, element_type="F32")
    count_per_unit, source_size, target_size = _unit(recipe, entry)
    same = not recipe.join and (entry.element_type not in BITS or entry.element_type == recipe.element_type)
    scratch = np.empty(0 if same else chunk_bytes, np.uint8)
    units = piece.count // count_per_unit
    step = chunk_bytes // max(source_size, target_size)
    for start in range(0, units, step):
        count = min(step, units - start)
        target = sink.buffer()[: count * target_size]
        source = target if same else scratch[: count * source_size]
        stream.read_into(source)
        _convert(recipe, entry, source, target, piece.first + start * count_per_unit)
        sink.commit(target.size)
        tell(sink.position)


def _unit(recipe: Recipe, entry: TensorEntry) -> tuple[int, int, int]:
    """Return the elements of a source that are converted together, and their bytes before and after."""
    if recipe.join:
        return 2, 2, 1
    size = ELEMENT_BYTES[entry.element_type]
    return 1, size, ELEMENT_BYTES.get(recipe.element_type, size)


def _convert(recipe: Recipe, entry: TensorEntry, source: Bytes, target: Bytes, start: int) -> None:
    """Cast one chunk and refuse values that are out of range, before or after.

    Args:
        recipe: recipe of the initializer.
        entry: the tensor that the chunk is of.
        source: bytes read.
        target: where the cast goes; ``source`` itself where both element types are the same.
        start: index of the chunk's first element in the order of writing.
    """
    if entry.element_type not in BITS:
        _convert_small(recipe, entry, source, target, start)
        return
    values = source.view(BITS[entry.element_type])
    index = first_non_finite(values, entry.element_type)
    if index is not None:
        value = as_float(int(values[index]), entry.element_type)
        raise NonFiniteWeightError(entry.name, _index_in_file(recipe, entry, start + index), value, entry.file)
    made = target.view(BITS[recipe.element_type])
    if source is not target:
        find_cast(entry.element_type, recipe.element_type)(values, made)
        index = first_non_finite(made, recipe.element_type)
        if index is not None:
            value = as_float(int(values[index]), entry.element_type)
            position = _index_in_file(recipe, entry, start + index)
            raise WeightOverflowError(entry.name, position, value, recipe.element_type)
    if recipe.factor != 1:
        _multiply(recipe, entry, made, start)
    index = first_not_positive(made) if recipe.positive else None
    if index is not None:
        value = as_float(int(values[index]), entry.element_type)
        raise ScaleNotPositiveError(entry.name, value, recipe.element_type)


def _multiply(recipe: Recipe, entry: TensorEntry, made: Bits, start: int) -> None:
    """Multiply one converted chunk by the factor of its recipe, in place."""
    products = multiplied(made, recipe.element_type, recipe.factor)
    index = first_non_finite(products, recipe.element_type)
    if index is not None:
        value = as_float(int(made[index]), recipe.element_type)
        position = _index_in_file(recipe, entry, start + index)
        raise ScaledWeightOverflowError(entry.name, position, value, recipe.factor, recipe.element_type)
    made[:] = products


def _convert_small(recipe: Recipe, entry: TensorEntry, source: Bytes, target: Bytes, start: int) -> None:
    """Join four-bit numbers to pairs, or check 8-bit numbers that are copied."""
    if recipe.join:
        if source.size and source.max() > 15:
            index = int(np.argmax(source > 15))
            raise FourBitRangeError(entry.name, _index_in_file(recipe, entry, start + index), int(source[index]))
        join_pairs(source, target)
    elif entry.element_type == "F8_E4M3":
        nan = first_e4m3_nan(source)
        if nan is not None:
            position = _index_in_file(recipe, entry, start + nan)
            raise NonFiniteWeightError(entry.name, position, math.nan, entry.file)


def _row_order(recipe: Recipe, entry: TensorEntry) -> tuple[int, ...]:
    """Return the order in which the rows of a source are taken; empty for that of the file."""
    return dict(zip(recipe.sources, recipe.row_orders, strict=True)).get(entry.name, ()) if recipe.row_orders else ()


def _index_in_file(recipe: Recipe, entry: TensorEntry, index: int) -> int:
    """Return the flat index in the checkpoint's tensor of the element that is written as number ``index``."""
    if order := _row_order(recipe, entry):
        columns = math.prod(entry.shape[1:])
        return order[index // columns] * columns + index % columns
    if not recipe.transpose:
        return index
    rows, columns = entry.shape
    column, row = divmod(index, rows)
    return row * columns + column
