"""Four-bit initializers and scales, against numpy that writes each number out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.events import Reporter
from edgellm_core.weights.binder import bind
from edgellm_core.weights.errors import (
    FourBitRangeError,
    NonFiniteWeightError,
    RecipeMismatchError,
    ScaleNotPositiveError,
    UnsupportedCastError,
)
from edgellm_core.weights.recipe import Recipe


def bound(write_tensors, folder, tensor, *, chunk_bytes=64, **fields):
    """Bind one tensor and return its bytes."""
    index = write_tensors({"x": torch.from_numpy(tensor) if isinstance(tensor, np.ndarray) else tensor})
    bind([Recipe(name="x", sources=("x",), **fields)], index, folder / "data", report=Reporter("bind"),
         chunk_bytes=chunk_bytes)  # fmt: skip
    return (folder / "data").read_bytes()


def onnx_bytes(numbers):
    """Return four-bit numbers in ONNX's order: two a byte along the last axis, the first in the low half."""
    flat = [int(number) & 15 for number in numbers.reshape(-1)]
    return bytes(low | high << 4 for low, high in zip(flat[::2], flat[1::2], strict=True))


@st.composite
def four_bit_matrices(draw):
    """Draw ``[outputs, inputs]`` of numbers from 0 to 15, with an even number of each."""
    outputs, inputs = (2 * draw(st.integers(1, 20)) for _ in range(2))
    seed = draw(st.integers(0, 2**31))
    return np.random.default_rng(seed).integers(0, 16, (outputs, inputs), dtype=np.uint8)


@settings(max_examples=100, deadline=None)
@given(four_bit_matrices(), st.sampled_from(["I4", "U4"]), st.sampled_from([8, 10, 64, 4096]))
def test_pairs_of_outputs_become_the_transposed_weight(write_tensors, tmp_path_factory, codes, kind, chunk_bytes):
    """As ModelOpt packs int4: byte ``[r, c]`` holds output 2r in its low half and output 2r + 1 in its high half."""
    outputs, inputs = codes.shape
    stored = np.empty((outputs // 2, inputs), np.uint8)
    for row in range(outputs // 2):
        stored[row] = codes[2 * row] + 16 * codes[2 * row + 1]
    folder = tmp_path_factory.mktemp("out")
    found = bound(write_tensors, folder, stored, chunk_bytes=chunk_bytes, element_type=kind, shape=(inputs, outputs),
                  transpose=True)  # fmt: skip
    assert found == onnx_bytes(codes.T)


@settings(max_examples=60, deadline=None)
@given(four_bit_matrices(), st.booleans(), st.sampled_from([8, 10, 64, 4096]))
def test_single_numbers_are_joined_to_pairs(write_tensors, tmp_path_factory, codes, transpose, chunk_bytes):
    folder = tmp_path_factory.mktemp("out")
    wanted = codes.T if transpose else codes
    found = bound(write_tensors, folder, codes, chunk_bytes=chunk_bytes, element_type="U4", shape=wanted.shape,
                  transpose=transpose, join=True)  # fmt: skip
    assert found == onnx_bytes(wanted)


@settings(max_examples=40, deadline=None)
@given(four_bit_matrices())
def test_pairs_of_inputs_are_copied(write_tensors, tmp_path_factory, codes):
    """As ModelOpt packs nvfp4, which is ONNX's own order."""
    stored = codes[:, ::2] + 16 * codes[:, 1::2]
    folder = tmp_path_factory.mktemp("out")
    assert bound(write_tensors, folder, stored, element_type="F4_E2M1", shape=codes.shape) == onnx_bytes(codes)


def test_a_scale_that_is_stored_as_one_element_is_a_scalar(write_tensors, tmp_path):
    assert bound(write_tensors, tmp_path, torch.tensor([0.5]), element_type="F16", shape=()) == b"\x00\x38"


@pytest.mark.parametrize(("shape", "options"), [((3, 3), {}), ((4, 4), {}), ((4, 3), {"join": True})])
def test_shapes_that_pairs_do_not_fill_are_refused(write_tensors, tmp_path, shape, options):
    stored = np.zeros((4, 3) if options else (3, 2), np.uint8)
    with pytest.raises(RecipeMismatchError):
        bound(write_tensors, tmp_path, stored, element_type="U4", shape=shape, **options)


def test_a_number_of_more_than_four_bits_is_named(write_tensors, tmp_path):
    numbers = np.zeros((40, 6), np.uint8)
    numbers[17, 3] = 16
    with pytest.raises(
        FourBitRangeError, match=f"'x' must hold numbers from 0 to 15; it has 16 at flat index {17 * 6 + 3}"
    ):
        bound(write_tensors, tmp_path, numbers, element_type="U4", shape=(6, 40), transpose=True, join=True)


def test_floats_do_not_become_pairs(write_tensors, tmp_path):
    with pytest.raises(UnsupportedCastError, match="element type F32, which can't be turned into I4"):
        bound(write_tensors, tmp_path, torch.zeros(2, 2), element_type="I4", shape=(2, 4))


@pytest.mark.parametrize("bits", [0x7F, 0xFF])
def test_nan_in_fp8_is_named(write_tensors, tmp_path, bits):
    values = np.full(300, 0x7E, np.uint8)  # 448, the largest
    values[201] = bits
    tensor = torch.from_numpy(values).view(torch.float8_e4m3fn)
    with pytest.raises(NonFiniteWeightError, match="value nan at flat index 201"):
        bound(write_tensors, tmp_path, tensor, element_type="F8_E4M3", shape=(300,))


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, 1e-9])
def test_a_divisor_must_stay_above_zero(write_tensors, tmp_path, value):
    with pytest.raises(ScaleNotPositiveError, match=r"must be above 0 in F16, .*Build with --precision bf16"):
        bound(write_tensors, tmp_path, torch.tensor(value), element_type="F16", shape=(), positive=True)


def test_a_small_divisor_stays_in_float32(write_tensors, tmp_path):
    tensor = torch.tensor(1e-9)
    assert (
        bound(write_tensors, tmp_path, tensor, element_type="F32", shape=(), positive=True) == tensor.numpy().tobytes()
    )
