"""Initializers of a foreign graph as safetensors files of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.bundle.files import sync
from edgellm_core.weights.cast import as_float, first_non_finite, multiplied
from edgellm_core.weights.errors import ScaledWeightOverflowError
from edgellm_core.weights.tables import table_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

    from edgellm_core.contract import Table
    from edgellm_core.pipeline.foreign.reading import ForeignGraph

_PIECE: Final = 1 << 22
"""Bytes that are read at once."""


def write_table(foreign: ForeignGraph, table: Table, path: Path, name: str) -> None:
    """Write a float16 initializer, times its factor, into a safetensors file, in pieces.

    Args:
        foreign: the graph that it belongs to.
        table: the initializer's name there, and its factor.
        path: file to write.
        name: its name in the file.

    Raises:
        OSError: the system refuses to read or write.
        ScaledWeightOverflowError: float16 can't hold a product with the factor.
    """
    from edgellm_core.pipeline.foreign.reading import size_of

    tensor = foreign.initializers[table.parameter]
    with path.open("wb") as file:
        file.write(table_header(name, "F16", tensor.dims, size_of(tensor)))
        written = 0
        for piece in _pieces(tensor, foreign.path.parent):
            file.write(piece if table.factor == 1 else _products(piece, table, start=written))
            written += len(piece) // 2
    sync(path)


def _products(piece: bytes, table: Table, *, start: int) -> bytes:
    """Return float16 numbers times a factor, as they are stored; ``start`` numbers stand before them."""
    numbers = np.frombuffer(piece, np.uint16)
    products = multiplied(numbers, "F16", table.factor)
    index = first_non_finite(products, "F16")
    if index is not None:
        value = as_float(int(numbers[index]), "F16")
        raise ScaledWeightOverflowError(table.parameter, start + index, value, table.factor, "F16")
    return products.tobytes()


def _pieces(tensor: onnx.TensorProto, folder: Path) -> Iterator[bytes]:
    """Yield the bytes of a tensor, from the graph itself or its data file."""
    from onnx import numpy_helper

    from edgellm_core.pipeline.foreign.reading import size_of

    fields: dict[str, Any] = {entry.key: entry.value for entry in tensor.external_data}
    if not fields:
        yield numpy_helper.to_array(tensor).tobytes()
        return
    left = size_of(tensor)
    with (folder / fields["location"]).open("rb") as file:
        file.seek(int(fields.get("offset", 0)))
        while left:
            piece = file.read(min(_PIECE, left))
            yield piece
            left -= len(piece) or left
