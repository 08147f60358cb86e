"""The packings of other tools, against integers that are packed bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.quantization.errors import UnsupportedQuantizationError
from edgellm_core.quantization.importers import find_importer
from edgellm_core.quantization.importers.autoawq import ORDER
from edgellm_core.quantization.importers.four_bits import (
    FourBitLayer,
    input_order,
    pair_outputs,
    unpack_columns,
    unpack_rows,
)
from edgellm_core.quantization.importers.source import ForeignCheckpoint
from tests.packed_checkpoints import awq_integers, plain_integers, write_checkpoint


@st.composite
def numbers(draw):
    """Draw ``[rows, columns]`` numbers from 0 to 15, eight times as many columns as integers."""
    rows, columns = draw(st.integers(1, 6)), 8 * draw(st.integers(1, 3))
    return np.random.default_rng(draw(st.integers(0, 2**31))).integers(0, 16, (rows, columns))


@settings(max_examples=80, deadline=None)
@given(numbers())
def test_what_is_packed_comes_back(codes):
    np.testing.assert_array_equal(unpack_columns(plain_integers(codes)), codes)
    np.testing.assert_array_equal(unpack_columns(awq_integers(codes), ORDER), codes)
    np.testing.assert_array_equal(unpack_rows(plain_integers(codes).T), codes.T)


@settings(max_examples=40, deadline=None)
@given(numbers(), st.booleans(), st.booleans())
def test_a_layer_becomes_pairs_of_outputs(codes, symmetric, ordered):
    codes = codes.T.astype(np.uint8)  # an even number of outputs
    outputs, inputs = codes.shape
    zeros = np.full((outputs, 1), 8 if symmetric else 7, np.uint8)
    order = np.arange(inputs)[::-1].copy() if ordered else None
    layer = FourBitLayer(
        outputs=outputs, inputs=inputs, codes=lambda: codes, zeros=zeros, scale_type="F16", order=order,
        scales=lambda: np.zeros((outputs, 1), np.uint16),
    )  # fmt: skip
    tensors = layer.tensors()
    assert set(tensors) == {"weight", "weight_scale"} | ({"input_order"} if ordered else set()) | (
        set() if symmetric else {"weight_zero_point"}
    )
    found = tensors["weight"].make()
    assert (found.shape, found.dtype) == (tensors["weight"].shape, np.uint8)
    for row in range(outputs):
        for column in range(inputs):
            code = int(codes[row, order[column] if ordered else column])
            stored = code - 8 & 15 if symmetric else code
            assert found[row // 2, column] >> (4 * (row % 2)) & 15 == stored


def test_pairs_hold_the_even_output_in_the_low_half():
    assert pair_outputs(np.array([[1], [2], [3], [15]], np.uint8)).tolist() == [[0x21], [0xF3]]


def source_of(folder, member):
    write_checkpoint(folder / "made", {}, {"g": np.array(member, np.int32)}, {})
    return ForeignCheckpoint(directory=folder, settings={}, tensors=index_tensors(read_headers(folder / "made")))


@pytest.mark.parametrize(("member", "wanted"), [
    ([0, 0, 1, 1], None), ([1, 0, 1, 0], [1, 3, 0, 2]), ([1, 1, 0, 0], [2, 3, 0, 1]),
])  # fmt: skip
def test_inputs_are_sorted_by_group(tmp_path, member, wanted):
    found = input_order(source_of(tmp_path, member), "g", module="up", inputs=4, groups=2)
    assert (None if found is None else found.tolist()) == wanted


@pytest.mark.parametrize("member", [[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 2, 2], [-1, 0, 1, 1]])
def test_groups_of_different_sizes_are_refused(tmp_path, member):
    with pytest.raises(UnsupportedQuantizationError, match="groups of different sizes in 'g'"):
        input_order(source_of(tmp_path, member), "g", module="up", inputs=4, groups=2)


def test_groups_that_do_not_divide_the_inputs_are_refused(tmp_path):
    with pytest.raises(UnsupportedQuantizationError, match="3 groups of the 4 inputs of 'up'"):
        input_order(source_of(tmp_path, [0, 0, 1, 1]), "g", module="up", inputs=4, groups=3)


@pytest.mark.parametrize("quantization", [None, {}, {"quant_method": "modelopt"}, {"quant_method": "aqlm"},
                                          {"quant_method": "gptq", "quant_algo": "FP8"}])  # fmt: skip
def test_nothing_imports_what_is_not_another_tools(quantization):
    assert find_importer({"quantization_config": quantization} if quantization is not None else {}) is None
