"""Packing for Marlin's kernels is undone by unpacking, and each number lies where the contract says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.targets.edge_llm.marlin_packing import marlin_shape, pack_marlin, scale_order, unpack_marlin


def codes_of(pairs):
    """Numbers plus 8 ``[outputs, inputs]`` of ModelOpt's pairs."""
    return np.stack([(pairs & 15) ^ 8, (pairs >> 4) ^ 8], axis=1).reshape(-1, pairs.shape[1])


@given(tiles=st.tuples(st.integers(1, 4), st.integers(1, 6)), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_unpacking_undoes_packing(tiles, seed):
    outputs, inputs = 64 * tiles[0], 16 * tiles[1]
    pairs = np.random.default_rng(seed).integers(0, 256, (outputs // 2, inputs), np.uint8)
    packed = pack_marlin(pairs)
    assert packed.shape == marlin_shape(outputs, inputs)
    np.testing.assert_array_equal(unpack_marlin(packed), pairs)


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 16), (192, 32)])
def test_each_number_lies_where_the_contract_says(outputs, inputs):
    pairs = np.random.default_rng(outputs).integers(0, 256, (outputs // 2, inputs), np.uint8)
    codes, words = codes_of(pairs), pack_marlin(pairs).view("<u4")
    for output, k in np.ndindex(outputs, inputs):
        tile, rest = divmod(output, 64)
        quarter, rest = divmod(rest, 16)
        right, column = divmod(rest, 8)
        row, rest = divmod(k, 16)
        far, rest = divmod(rest, 8)
        pair, odd = divmod(rest, 2)
        word = words[row, 128 * tile + 16 * column + 4 * pair + quarter]
        assert word >> (4 * (4 * odd + 2 * right + far)) & 15 == codes[output, k]


def test_the_order_of_scales():
    assert scale_order(128, groups=2)[[0, 1, 8, 63, 64]].tolist() == [0, 8, 1, 63, 64]
    assert scale_order(64, groups=1)[[0, 1, 2, 8, 32]].tolist() == [0, 1, 8, 2, 32]
    assert sorted(scale_order(192, groups=3)) == sorted(scale_order(192, groups=1)) == list(range(192))
