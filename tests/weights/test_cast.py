"""Casts equal torch's bit for bit, over all patterns of the 16-bit types and over random floats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.weights.cast import (
    BITS,
    TORCH_NAMES,
    as_float,
    can_cast,
    converted,
    first_non_finite,
    has_non_finite,
    numpy_cast,
    one_torch_thread,
    torch_cast,
)

PAIRS = [(source, target) for source in BITS for target in BITS if source != target]
PATHS = [pytest.param(numpy_cast, id="numpy"), pytest.param(torch_cast, id="torch")]


def as_torch(bits: np.ndarray, element_type: str) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.uint8)).view(getattr(torch, TORCH_NAMES[element_type]))


def finite_patterns(element_type: str) -> np.ndarray:
    """Return all patterns of a 16-bit type, or for F32 random ones and the neighbours of every rounding boundary."""
    if element_type != "F32":
        patterns = np.arange(1 << 16, dtype=np.uint16)
    else:
        random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 17, dtype=np.uint32)
        upper = np.arange(1 << 16, dtype=np.uint32) << 16
        edges = [upper + np.uint32(low) for low in (0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
        patterns = np.concatenate([random, *edges])
    return patterns[torch.isfinite(as_torch(patterns, element_type)).numpy()]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_cast_equals_torch_bit_for_bit(path, source, target):
    values = finite_patterns(source)
    out = np.empty(values.shape, BITS[target])
    path(source, target)(values, out)
    expected = as_torch(values, source).to(getattr(torch, TORCH_NAMES[target]))
    assert np.array_equal(out.view(np.uint8), expected.view(torch.uint8).numpy())


@pytest.mark.parametrize("element_type", list(BITS))
def test_non_finite_values_are_found_wherever_they_are(element_type):
    special = torch.tensor([math.nan, math.inf, -math.inf, -math.nan], dtype=getattr(torch, TORCH_NAMES[element_type]))
    for bits in special.view(torch.uint8).numpy().view(BITS[element_type]):
        for position in (0, 5, 10):
            values = np.zeros(11, BITS[element_type])
            values[position] = bits
            assert first_non_finite(values, element_type) == position


@pytest.mark.parametrize("element_type", list(BITS))
def test_finite_values_pass(element_type):
    assert not has_non_finite(finite_patterns(element_type), element_type)
    assert not has_non_finite(np.empty(0, BITS[element_type]), element_type)


@given(st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=40))
def test_search_agrees_with_torch_on_any_float32(patterns):
    values = np.array(patterns, np.uint32)
    bad = (~torch.isfinite(as_torch(values, "F32"))).nonzero().flatten().tolist()
    assert first_non_finite(values, "F32") == (bad[0] if bad else None)


@pytest.mark.parametrize(("bits", "element_type", "value"), [
    (0x3F80, "BF16", 1.0), (0xC2F7, "BF16", -123.5), (0x7BFF, "F16", 65504.0), (0x40490FDB, "F32", 3.1415927410125732),
])  # fmt: skip
def test_as_float_reads_a_pattern(bits, element_type, value):
    assert as_float(bits, element_type) == value


@pytest.mark.parametrize(("source", "target", "possible"), [
    ("F16", "BF16", True), ("I64", "I64", True), ("F8_E4M3", "F8_E4M3", True),
    ("I64", "F16", True), ("F64", "BF16", True), ("BOOL", "F32", True), ("U8", "U4", True),
    ("F8_E4M3", "F16", False), ("F32", "I64", False), ("I32", "I64", False),
])  # fmt: skip
def test_numbers_are_cast_to_floats_alone(source, target, possible):
    assert can_cast(source, target) is possible


SEVERAL = [3.0, -7.5, 0.0, 1.0, 16777217.0, 65519.999999999, 1 + 2**-40, -1e-320]


@pytest.mark.parametrize("target", list(BITS))
@pytest.mark.parametrize("source", ["float64", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_other_numbers_are_cast_as_torch_casts_them(source, target):
    values = torch.tensor(SEVERAL, dtype=torch.float64).clamp(0 if source in ("uint8", "bool") else -100, None)
    if source in ("int16", "int8", "uint8"):
        values = values.clamp(None, 127)
    values = values.to(getattr(torch, source))
    names = {"float64": "F64", "bool": "BOOL", "uint8": "U8"}
    found = converted(values.view(torch.uint8).numpy(), names.get(source, f"I{source[3:]}"), target)
    expected = values.to(torch.float32).to(getattr(torch, TORCH_NAMES[target]))  # as transformers loads into float32
    assert np.array_equal(found.view(np.uint8), expected.view(torch.uint8).numpy())


def test_thread_count_of_torch_is_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
