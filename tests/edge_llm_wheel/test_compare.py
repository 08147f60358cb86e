"""Comparison of arrays and configs, and the undoing of the packing; none of it needs the wheel."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_core.targets.edge_llm.fragment_packing import pack_fragments
from tests.edge_llm_wheel.compare import compare_arrays, compare_configs, compare_weights
from tests.edge_llm_wheel.weights import unpacked

ONE = np.array([1.0, -2.0, 0.0], np.float16)


def categories(ours, theirs):
    return [one.category for one in compare_arrays("x", ours, theirs)]


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (192, 128)])
def test_the_packing_is_undone(outputs, inputs):
    pairs = np.random.default_rng(3).integers(0, 256, (outputs // 2, inputs), np.uint8)
    numbers = unpacked(pack_fragments(pairs), outputs, inputs)
    assert numbers.min() == -8
    assert numbers.max() == 7
    np.testing.assert_array_equal(numbers[::2] & 15, pairs & 15)
    np.testing.assert_array_equal(numbers[1::2] & 15, pairs >> 4)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (ONE, []),
        (ONE.astype(np.float32), ["rounding"]),
        (np.nextafter(ONE, np.float16(9)), ["rounding"]),
        (np.array([1.0, -2.0, -0.0], np.float16), ["rounding"]),
        (ONE + np.float16(0.01), ["weight"]),
        (-ONE, ["weight"]),
    ],
)
def test_floats_differ_by_places(other, expected):
    assert categories(other, ONE) == expected


def test_codes_differ_or_not():
    codes = np.arange(6, dtype=np.uint8)
    assert categories(codes, codes.copy()) == []
    assert categories(codes[::-1], codes) == ["weight"]


def test_a_missing_role_and_another_shape_are_told():
    found = compare_weights({"a": {"weight": ONE}, "b": {"weight": ONE[:2]}}, {"b": {"weight": ONE}})
    assert [str(one) for one in found] == [
        "weight a weight: float16[3] instead of nothing",
        "weight b weight: float16[2] instead of float16[3]",
    ]


def test_keys_of_our_own_are_no_difference():
    found = list(compare_configs({"a": 1, "c": 3}, {"a": 1, "b": 2}))
    assert [str(one) for one in found] == ["config b: nothing instead of 2"]
