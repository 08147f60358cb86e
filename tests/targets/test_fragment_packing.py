"""Fragment order of int4 weights, against the formula of the contract written out number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.targets.edge_llm.fragment_packing import (
    TILE_OUTPUTS,
    UnalignedInt4Error,
    pack_fragments,
    packed_shape,
    require_alignment,
    unpack_fragments,
)

PLACES = ((0, 0), (0, 8), (32, 0), (32, 8), (0, 1), (0, 9), (32, 1), (32, 9))
"""Offsets of output and input of the eight numbers of a word, from the lowest four bits on."""


@st.composite
def pairs(draw):
    """Draw a weight as ModelOpt stores it: uint8 [outputs / 2, inputs]."""
    shape = 32 * draw(st.integers(1, 6)), 64 * draw(st.integers(1, 4))
    return np.random.default_rng(draw(st.integers(0, 2**31))).integers(0, 256, shape, np.uint8)


def number(stored, output, column):
    """Return one weight plus 8; 8 beyond the last output."""
    if output >= 2 * len(stored):
        return 8
    return (int(stored[output // 2, column]) >> (4 * (output % 2)) & 15) ^ 8


def by_formula(stored):
    """Pack word by word."""
    outputs, inputs = 2 * len(stored), stored.shape[1]
    tiles = inputs // 64
    words = np.zeros(((outputs + 127) // 128 * tiles * 8, 128), np.dtype("<u4"))
    for row in range(len(words)):
        tile, (step, half) = row // 8, divmod(row % 8, 2)
        for thread in range(128):
            low = tile // tiles * 128 + thread // 4 + 64 * half
            first = tile % tiles * 64 + 16 * step + 2 * (thread % 4)
            eight = [number(stored, low + output, first + column) for output, column in PLACES]
            words[row, thread] = sum(value << (4 * place) for place, value in enumerate(eight))
    return words.view(np.int8)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_what_is_packed_comes_back(stored):
    packed = pack_fragments(stored)
    assert packed.shape == packed_shape(2 * len(stored), stored.shape[1])
    np.testing.assert_array_equal(unpack_fragments(packed, 2 * len(stored), stored.shape[1]), stored)


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (128, 128), (192, 64), (256, 192)])
def test_each_number_is_where_the_contract_says(outputs, inputs):
    stored = np.random.default_rng(outputs).integers(0, 256, (outputs // 2, inputs), np.uint8)
    np.testing.assert_array_equal(pack_fragments(stored), by_formula(stored))


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_tiles_of_outputs_are_packed_one_by_one(stored):
    step = TILE_OUTPUTS // 2
    parts = [pack_fragments(stored[start : start + step]) for start in range(0, len(stored), step)]
    np.testing.assert_array_equal(np.concatenate(parts), pack_fragments(stored))


def test_the_size_is_that_of_the_contract():
    assert packed_shape(256, 256) == (64, 512)


def test_outputs_that_fill_up_a_tile_are_zeros():
    packed = pack_fragments(np.zeros((32, 64), np.uint8))
    assert packed.shape == (8, 512)
    assert set(packed.view(np.uint8).ravel()) == {0x88}


@pytest.mark.parametrize(("outputs", "inputs"), [(96, 128), (128, 96)])
def test_a_size_that_the_plugin_does_not_take_is_refused_by_name(outputs, inputs):
    with pytest.raises(UnalignedInt4Error, match=rf"'mlp\.up_proj' must be multiples of 64 .* \[{outputs}, {inputs}\]"):
        require_alignment("mlp.up_proj", outputs, inputs)


def test_a_size_that_the_plugin_takes_is_not_refused():
    require_alignment("mlp.up_proj", 192, 64)
