"""Stacks are packed item by item, from all tensors that make an item; what does not fit is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.events import Reporter
from edgellm_core.weights.binder import bind
from edgellm_core.weights.errors import (
    NonFiniteWeightError,
    RecipeMismatchError,
    UnsupportedCastError,
    WeightOverflowError,
)
from edgellm_core.weights.recipe import Recipe


@dataclass(frozen=True)
class Turned:
    def shape(self, joined):
        return joined[::-1]

    def pack(self, joined):
        return joined.T


def bound(tmp_path, tensors, element_type, shape, chunk_bytes=1 << 20):
    save_file(tensors, tmp_path / "model.safetensors")
    index = index_tensors(read_headers(tmp_path))
    recipe = Recipe(
        name="stack", element_type=element_type, shape=shape, sources=tuple(tensors), stack_packing=Turned()
    )
    bind([recipe], index, tmp_path / "data", report=Reporter("bind"), chunk_bytes=chunk_bytes)
    return (tmp_path / "data").read_bytes()


@pytest.mark.parametrize("chunk_bytes", [8, 1 << 20])
@pytest.mark.parametrize(("dtype", "element_type"), [(np.uint8, "I8"), (np.float32, "F16"), (np.float16, "F16")])
def test_each_item_is_packed_from_its_tensors(tmp_path, dtype, element_type, chunk_bytes):
    random = np.random.default_rng(0)
    rows = {"0.a": 2, "0.b": 3, "1.a": 2, "1.b": 3}
    tensors = {name: random.integers(0, 99, (count, 7)).astype(dtype) for name, count in rows.items()}
    items = [np.concatenate([tensors[f"{item}.a"], tensors[f"{item}.b"]]).T for item in range(2)]
    wanted = np.stack(items).astype(np.float16 if element_type == "F16" else np.uint8)
    assert bound(tmp_path, tensors, element_type, (2, 7, 5), chunk_bytes) == wanted.tobytes()


@pytest.mark.parametrize(
    ("tensors", "element_type", "error"),
    [
        ({"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 3), np.float32)}, "I8", UnsupportedCastError),
        ({"a": np.zeros((2, 3), np.uint8), "b": np.zeros((4, 3), np.uint8)}, "I8", RecipeMismatchError),
        ({"a": np.zeros((2, 4), np.uint8), "b": np.zeros((2, 4), np.uint8)}, "I8", RecipeMismatchError),
        ({name: np.zeros((2, 3), np.uint8) for name in "abc"}, "I8", RecipeMismatchError),
        ({"a": np.zeros((2, 3), np.float32), "b": np.full((2, 3), np.nan, np.float32)}, "F16", NonFiniteWeightError),
        ({"a": np.zeros((2, 3), np.float32), "b": np.full((2, 3), 1e6, np.float32)}, "F16", WeightOverflowError),
    ],
    ids=["floats", "uneven", "another width", "left over", "nan", "overflow"],
)
def test_what_does_not_fit_is_refused(tmp_path, tensors, element_type, error):
    with pytest.raises(error):
        bound(tmp_path, tensors, element_type, (2, 3, 2))
