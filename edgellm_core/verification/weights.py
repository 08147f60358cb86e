"""Compares the weights in the graph's data file with the original's, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import onnx
    import torch

CHUNK_ELEMENTS: Final = 1 << 22
"""Elements compared at a time."""


def differing_weights(
    model: onnx.ModelProto, folder: Path, state: dict[str, torch.Tensor], names: Iterable[str]
) -> list[str]:
    """Return the initializers that differ from the original's weight of the same name, cast to their type.

    Args:
        model: the graph without external data.
        folder: where the data lies.
        state: the original's weights by name.
        names: initializers to look at; those that are not external, or that the original has no weight for, are passed
            over.
    """
    wanted = set(names)
    return [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name in wanted and tensor.external_data and tensor.name in state
        if not _equal(tensor, folder, state[tensor.name])
    ]


def _equal(tensor: onnx.TensorProto, folder: Path, original: torch.Tensor) -> bool:
    import numpy as np
    import torch

    types = {1: torch.float32, 10: torch.float16, 16: torch.bfloat16, 7: torch.int64}  # onnx.TensorProto.DataType
    if tuple(tensor.dims) != tuple(original.shape) or tensor.data_type not in types:
        return False
    dtype: Any = types[tensor.data_type]
    place = {entry.key: entry.value for entry in tensor.external_data}
    flat = original.detach().reshape(-1)
    with (folder / place["location"]).open("rb") as stream:
        stream.seek(int(place.get("offset", 0)))
        for start in range(0, flat.numel(), CHUNK_ELEMENTS):
            expected = flat[start : start + CHUNK_ELEMENTS].to(dtype).view(torch.uint8).numpy()
            found = np.frombuffer(stream.read(expected.size), np.uint8)
            if not np.array_equal(found, expected):
                return False
    return True
