"""The numbers of one compared row, against their definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgellm_core.verification.comparison import RowName, compare_row, divergence, relative_difference

NAME = RowName("check", 1, "prefill")
LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.floats(-30, 30, width=32))


def compare(wanted, found, *, tolerance=0.02, chooses=True):
    arrays = (np.array(values, np.float32) for values in (wanted, found))
    return compare_row(NAME, *arrays, tolerance=tolerance, chooses=chooses)


def test_the_error_is_relative_to_the_largest_logit_of_the_row():
    row = compare([[1.0, -4.0], [2.0, 0.0]], [[1.0, -4.0], [2.0, 0.2]])
    assert row.max_rel_err == pytest.approx(0.05)
    assert (row.case, row.prompt, row.step, row.positions) == ("check", 1, "prefill", 2)


@pytest.mark.parametrize(
    ("wanted", "found", "ties", "flips", "equal"),
    [
        ([[0, 9, 10.0]], [[0, 9, 10.0]], 0, 0, True),
        ([[0, 9.9, 10.0]], [[0, 10.0, 9.9]], 1, 0, False),
        ([[0, 9, 10.0]], [[0, 10.0, 9]], 0, 1, False),
        ([[0, 9, 10.0], [0, 1, 10.0]], [[0, 10.0, 9], [0, 1, 10.0]], 0, 1, True),
    ],
    ids=["same", "tie", "flip", "flip inside the prompt"],
)
def test_a_flip_within_the_tolerance_is_a_tie(wanted, found, ties, flips, equal):
    row = compare(wanted, found)
    assert (row.ties, row.flips, row.token_equal) == (ties, flips, equal)
    assert row.agreeing == row.positions - ties - flips
    assert not row.passes(0.005) or not (ties or flips)


def test_a_flip_beyond_the_tolerance_fails_whatever_the_error():
    row = compare([[0, 9, 10.0]], [[0, 9.6, 9.5]])
    assert row.max_rel_err == pytest.approx(0.06)
    assert not row.passes(1.0)


def test_where_no_token_is_chosen_none_is_unequal():
    row = compare([[0, 9.9, 10.0]], [[0, 10.0, 9.9]], chooses=False)
    assert row.token is None
    assert row.token_equal


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_do_not_pass(value):
    row = compare([[1.0, 2.0]], [[1.0, value]])
    assert np.isnan(row.max_rel_err)
    assert not row.passes(np.inf)


@given(LOGITS)
def test_equal_logits_have_no_error(logits):
    row = compare(logits, logits.copy())
    assert (row.max_rel_err, row.kl, row.flips, row.ties) == (0, 0, 0, 0)
    assert row.passes(0)


@given(LOGITS, st.integers(0, 2**32 - 1))
def test_the_divergence_is_that_of_the_distributions(wanted, seed):
    found = wanted + np.random.default_rng(seed).normal(size=wanted.shape).astype(np.float32)
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(-1, keepdims=True) for x in (wanted, found))
    expected = (p * np.log(p / q)).sum(-1)
    assert divergence(wanted, found) == pytest.approx(expected, abs=1e-9)
    assert (divergence(wanted, found) >= 0).all()


@given(LOGITS, st.floats(-5, 5))
def test_a_common_shift_changes_no_distribution(logits, shift):
    assert divergence(logits, logits + np.float32(shift)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("found", "expected"), [([0.0, 0.0], 0.0), ([0.0, 1e-30], 85070596.0)])
def test_a_difference_from_zeros_is_a_number(found, expected):
    assert relative_difference(np.array(found, np.float32), np.zeros(2, np.float32)) == pytest.approx(expected)
