"""Compensated rounding, against the algorithm written out with explicit inverses, and against rounding to nearest."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.calibration import compensation
from edgellm_core.calibration.compensation import (
    CLIPS,
    DAMPING,
    NEAREST,
    clipped_int4_steps,
    nearest_e2m1,
    nearest_e4m3,
    round_compensated,
)

KINDS = sorted(NEAREST)


def case(kind, *, outputs=12, inputs=48, block=16, seed=0):
    """Return a weight, its steps and the Gram matrix of correlated inputs with outliers."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    mixing = torch.randn(inputs, inputs, generator=generator) * (1 + 9 * (torch.arange(inputs) % 7 == 0))
    tokens = torch.randn(400, inputs, generator=generator) @ mixing
    largest = {"int4": 7, "int8": 127, "fp8": 448, "nvfp4": 6}[kind]
    steps = weight.reshape(outputs, -1, block).abs().amax(-1) / largest
    return weight, steps, tokens.T @ tokens


def loss(error, gram):
    return float(((error @ gram) * error).sum())


def written_out(weight, steps, gram, nearest):
    """Return GPTQ's result by its definition: after each input, its row and column leave the inverse Hessian."""
    weight, inputs = weight.double().clone(), weight.shape[1]
    damped = gram.double() + DAMPING * gram.double().diagonal().mean() * torch.eye(inputs, dtype=torch.float64)
    left = gram.diagonal().argsort(descending=True, stable=True).tolist()
    inverse = torch.linalg.inv(damped[left][:, left])
    rounded = torch.empty_like(weight)
    while left:
        column, rest = left[0], left[1:]
        step = steps[:, column // (inputs // steps.shape[1])].double()
        rounded[:, column] = nearest((weight[:, column] / step).float()).double() * step
        error = (weight[:, column] - rounded[:, column]) / inverse[0, 0]
        weight[:, rest] -= torch.outer(error, inverse[0, 1:])
        inverse = inverse[1:, 1:] - torch.outer(inverse[1:, 0], inverse[0, 1:]) / inverse[0, 0]
        left = rest
    return rounded


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_algorithm_written_out(kind, monkeypatch):
    monkeypatch.setattr(compensation, "PANEL", 20)  # more than one panel, and a short last one
    weight, steps, gram = case(kind)
    found = round_compensated(weight, steps, gram, NEAREST[kind])
    wanted = written_out(weight, steps, gram, NEAREST[kind]).float()
    same = (found - wanted).abs() <= 1e-5 * steps.max()
    assert same.float().mean() > 0.98  # a value between two numbers may fall either way
    assert loss(found - weight, gram) == pytest.approx(loss(wanted - weight, gram), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_it_loses_less_than_the_nearest_numbers(kind):
    weight, steps, gram = case(kind)
    wide = steps.repeat_interleave(16, 1)
    nearest = NEAREST[kind](weight / wide) * wide
    found = round_compensated(weight, steps, gram, NEAREST[kind])
    assert loss(found - weight, gram) < 0.7 * loss(nearest - weight, gram)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_do_not_go_together_are_rounded_to_nearest(kind):
    weight, steps, _gram = case(kind)
    wide = steps.repeat_interleave(16, 1)
    found = round_compensated(weight, steps, torch.eye(48), NEAREST[kind])
    assert torch.allclose(found, NEAREST[kind](weight / wide) * wide, atol=1e-6)


def test_a_wide_layer_is_cut_into_parts(monkeypatch):
    monkeypatch.setattr(compensation, "WIDEST", 32)
    weight, steps, gram = case("int4")
    found = round_compensated(weight, steps, gram, NEAREST["int4"])
    first = round_compensated(weight[:, :32], steps[:, :2], gram[:32, :32], NEAREST["int4"])
    last = round_compensated(weight[:, 32:], steps[:, 2:], gram[32:, 32:], NEAREST["int4"])
    assert torch.equal(found, torch.cat([first, last], 1))


def test_inputs_that_no_sample_showed_are_rounded_to_nearest():
    weight, steps, _gram = case("int8")
    wide = steps.repeat_interleave(16, 1)
    found = round_compensated(weight, steps, torch.zeros(48, 48), NEAREST["int8"])
    assert torch.allclose(found, (weight / wide).round() * wide, atol=1e-6)


def test_clipped_steps_are_the_best_of_all_candidates():
    weight, _steps, gram = case("int4", outputs=5, inputs=32)
    found = clipped_int4_steps(weight, gram, 16)
    for row, part in itertools.product(range(5), range(2)):
        block, inside = weight[row, part * 16 :][:16], gram[part * 16 :][:16, part * 16 : part * 16 + 16]
        steps = [float(block.abs().max()) / 7 * clip for clip in CLIPS]
        losses = [loss(((block / step).round().clamp(-8, 7) * step - block)[None], inside) for step in steps]
        assert float(found[row, part]) == pytest.approx(steps[int(np.argmin(losses))], rel=1e-6)


def test_an_empty_block_has_a_step():
    steps = clipped_int4_steps(torch.zeros(2, 32), torch.eye(32), 16)
    assert bool((steps > 0).all())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40))
def test_the_nearest_numbers_are_those_of_ml_dtypes(values):
    array = np.array(values, np.float32)
    e2m1 = array.clip(-6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert np.array_equal(nearest_e2m1(torch.from_numpy(array)).numpy(), e2m1)
    e4m3 = (array * 50).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(nearest_e4m3(torch.from_numpy(array * 50)).numpy(), e4m3)


def test_sums_that_were_rounded_to_bfloat16_still_compensate():
    """Inputs that are nearly one and the same: rounded to 8 bits, their Gram matrix has eigenvalues far below zero."""
    generator = torch.Generator().manual_seed(0)
    weight, steps, _gram = case("int4")
    tokens = (
        torch.randn(400, 1, generator=generator) * (1 + torch.arange(48) % 5)
        + torch.randn(400, 48, generator=generator) / 1000
    )
    exact = tokens.T @ tokens
    rounded = exact.bfloat16().float()
    assert torch.linalg.eigvalsh(rounded.double()).min() < -DAMPING * rounded.diagonal().mean()
    found = round_compensated(weight, steps, rounded, NEAREST["int4"])
    wide = steps.repeat_interleave(16, 1)
    plain = NEAREST["int4"](weight / wide) * wide
    assert loss(weight - found, exact) < loss(weight - plain, exact)
