"""Initializers of a foreign graph as safetensors files of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.bundle.files import sync
from edgellm_core.weights.tables import table_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

    from edgellm_core.pipeline.foreign.reading import ForeignGraph

_PIECE: Final = 1 << 22
"""Bytes that are read at once."""


def write_table(foreign: ForeignGraph, initializer: str, path: Path, name: str) -> None:
    """Copy a float16 initializer into a safetensors file, in pieces.

    Args:
        foreign: the graph that it belongs to.
        initializer: its name there.
        path: file to write.
        name: its name in the file.

    Raises:
        OSError: the system refuses to read or write.
    """
    from edgellm_core.pipeline.foreign.reading import size_of

    tensor = foreign.initializers[initializer]
    with path.open("wb") as file:
        file.write(table_header(name, "F16", tensor.dims, size_of(tensor)))
        for piece in _pieces(tensor, foreign.path.parent):
            file.write(piece)
    sync(path)


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
