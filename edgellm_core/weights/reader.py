"""Reads tensors from safetensors files front to back, in pieces of any size, in constant memory."""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm_core.settings import ELEMENT_BYTES
from edgellm_core.weights.cast import NUMBERS, to_float32
from edgellm_core.weights.errors import TruncatedTensorError, UnreadableFileError, WeightOverflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorEntry

Bytes = NDArray[np.uint8]


class SourceFiles(contextlib.ExitStack):
    """The files of a checkpoint, each opened once."""

    def __init__(self) -> None:
        super().__init__()
        self._descriptors: dict[Path, int] = {}

    def read_into(self, entry: TensorEntry, start: int, out: Bytes) -> None:
        """Fill ``out`` with the bytes of a tensor from its byte ``start`` on.

        Raises:
            UnreadableFileError: the system refuses.
            TruncatedTensorError: the file ends too early.
        """
        view = out.data
        position = entry.offset + start
        try:
            descriptor = self._descriptor(entry.file)
            while view:
                count = os.preadv(descriptor, [view], position)
                if not count:
                    raise TruncatedTensorError(entry.name, entry.file)
                view, position = view[count:], position + count
        except OSError as error:
            raise UnreadableFileError(entry.file, error) from error

    def _descriptor(self, file: Path) -> int:
        if file not in self._descriptors:
            descriptor = os.open(file, os.O_RDONLY)
            self.callback(os.close, descriptor)
            if hasattr(os, "posix_fadvise"):  # not on macOS
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self._descriptors[file] = descriptor
        return self._descriptors[file]


class TensorStream(Protocol):
    """Hands out the bytes of a tensor in the order in which they are to be written."""

    def read_into(self, out: Bytes) -> None:
        """Fill ``out`` with the next bytes; its size is a multiple of the element size."""


class RowMajorStream:
    """A tensor as it lies in the file, from one of its bytes on."""

    def __init__(self, files: SourceFiles, entry: TensorEntry, start: int = 0) -> None:
        self._files = files
        self._entry = entry
        self._position = start

    def read_into(self, out: Bytes) -> None:
        """Fill ``out`` with the next bytes."""
        self._files.read_into(self._entry, self._position, out)
        self._position += out.size


class ReorderedStream:
    """A tensor whose rows (axis 0) come in another order; each row is one read."""

    def __init__(self, files: SourceFiles, entry: TensorEntry, order: Sequence[int]) -> None:
        self._files = files
        self._entry = entry
        self._order = order
        self._row_bytes = entry.nbytes // max(1, len(order))
        self._position = 0

    def read_into(self, out: Bytes) -> None:
        """Fill ``out`` with the next bytes of the reordered tensor."""
        filled = 0
        while filled < out.size:
            row, start = divmod(self._position, self._row_bytes)
            count = min(out.size - filled, self._row_bytes - start)
            place = self._order[row] * self._row_bytes + start
            self._files.read_into(self._entry, place, out[filled : filled + count])
            filled += count
            self._position += count


class TransposedStream:
    """A two-dimensional tensor with its axes swapped.

    A block of as many columns as fit in ``block_bytes`` is held at a time, so the file is read once for each block:
    reading single columns would take a system call for each element.
    """

    def __init__(self, files: SourceFiles, entry: TensorEntry, *, block_bytes: int) -> None:
        self._files = files
        self._entry = entry
        self._rows, self._columns = entry.shape
        self._dtype: np.dtype[Any] = np.dtype(f"V{entry.nbytes // max(1, math.prod(entry.shape))}")
        self._width = max(1, block_bytes // max(1, self._rows * self._dtype.itemsize))
        self._panel = max(1, block_bytes // 4 // max(1, self._columns * self._dtype.itemsize))
        self._next_column = 0
        self._block: Bytes = np.empty(0, np.uint8)

    def read_into(self, out: Bytes) -> None:
        """Fill ``out`` with the next bytes of the transposed tensor."""
        filled = 0
        while filled < out.size:
            if not self._block.size:
                self._block = self._read_columns()
            count = min(out.size - filled, self._block.size)
            out[filled : filled + count] = self._block[:count]
            self._block = self._block[count:]
            filled += count

    def _read_columns(self) -> Bytes:
        first, last = self._next_column, min(self._next_column + self._width, self._columns)
        self._next_column = last
        row_bytes = self._columns * self._dtype.itemsize
        block = np.empty((last - first, self._rows), self._dtype)
        raw = np.empty(self._panel * row_bytes, np.uint8)
        for row in range(0, self._rows, self._panel):
            count = min(self._panel, self._rows - row)
            self._files.read_into(self._entry, row * row_bytes, raw[: count * row_bytes])
            panel = raw[: count * row_bytes].view(self._dtype).reshape(count, self._columns)
            block[:, row : row + count] = panel[:, first:last].T
        return block.reshape(-1).view(np.uint8)


class Float32Stream:
    """Numbers of another type than F32, F16 and BF16, handed out as F32."""

    def __init__(self, stream: TensorStream, entry: TensorEntry, place: Callable[[int], int]) -> None:
        """Wrap the stream of a tensor; ``place`` tells where in the tensor an element lies from where it is written."""
        self._stream = stream
        self._entry = entry
        self._place = place
        self._handed = 0

    def read_into(self, out: Bytes) -> None:
        """Fill ``out`` with the next numbers.

        Raises:
            WeightOverflowError: F32 can't hold one.
        """
        count, element_type = out.size // 4, self._entry.element_type
        raw: Bytes = np.empty(count * ELEMENT_BYTES[element_type], np.uint8)
        self._stream.read_into(raw)
        made = to_float32(raw, element_type)
        if element_type == "F64":
            numbers = raw.view(NUMBERS[element_type])
            lost = np.flatnonzero(np.isinf(made.view(np.float32)) & np.isfinite(numbers))
            if lost.size:
                index, value = self._place(self._handed + int(lost[0])), float(numbers[lost[0]])
                raise WeightOverflowError(self._entry.name, index, value, "F32")
        out[:] = made.view(np.uint8)
        self._handed += count
