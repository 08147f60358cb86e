"""A checkpoint file whose layout is written out by hand, independent of the reader under test."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex

if TYPE_CHECKING:
    import torch

WriteTensors = Callable[..., TensorIndex]

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "uint8": "U8", "bool": "BOOL",
         "int8": "I8", "float64": "F64", "int32": "I32", "int16": "I16", "float8_e4m3fn": "F8_E4M3"}  # fmt: skip


@pytest.fixture(scope="session")
def write_tensors(tmp_path_factory) -> WriteTensors:
    """Return a function that writes torch tensors one after the other, the first at byte 13."""
    numbers = itertools.count()

    def write(tensors: dict[str, torch.Tensor]) -> TensorIndex:
        import torch

        file = tmp_path_factory.mktemp("checkpoint") / f"model-{next(numbers)}.safetensors"
        data = bytearray(13)
        index = {}
        for name, tensor in tensors.items():
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            index[name] = TensorEntry(
                name=name,
                element_type=TYPES[str(tensor.dtype).removeprefix("torch.")],
                shape=tuple(tensor.shape),
                file=file,
                offset=len(data),
                nbytes=len(raw),
            )
            data += raw
        file.write_bytes(data)
        return index

    return write
