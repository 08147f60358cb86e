"""Rotations are recognised by their numbers, in every layout that models use; what is not stays plain."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.tracing.rope import Rotation, _read_call, classify_rotation, rotate

HEAD = 12


def classify(function, cos_width=HEAD, *, name="apply_rotary_pos_emb", head_dim=HEAD, heads_axis=1, **others):
    shape = (2, 3, 5, head_dim) if heads_axis == 1 else (2, 5, 3, head_dim)
    q, k = torch.zeros(shape), torch.zeros(shape)
    table = torch.zeros(2, 5, cos_width)
    call = _read_call(name, function, (q, k, table, table), others)
    return None if call is None else classify_rotation(call)


def rotate_half(x):
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


def rotate_every_two(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def neox(q, k, cos, sin, unsqueeze_dim=1):
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def partial(q, k, cos, sin, unsqueeze_dim=1):
    width = cos.shape[-1]
    turned = neox(q[..., :width], k[..., :width], cos, sin, unsqueeze_dim)
    return tuple(torch.cat((t, x[..., width:]), -1) for t, x in zip(turned, (q, k), strict=True))


def gptj(q, k, cos, sin, unsqueeze_dim=1):
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + rotate_every_two(q) * sin, k * cos + rotate_every_two(k) * sin


def regrouped(q, k, cos, sin, unsqueeze_dim=1):
    """DeepSeek V3: pairs are neighbours, the result lies in halves."""
    q, k = (torch.cat((x[..., ::2], x[..., 1::2]), -1) for x in (q, k))
    return neox(q, k, cos, sin, unsqueeze_dim)


def half_tables(q, k, cos, sin, unsqueeze_dim=1):
    return neox(q, k, torch.cat((cos, cos), -1), torch.cat((sin, sin), -1), unsqueeze_dim)


def reversed_sign(q, k, cos, sin, unsqueeze_dim=1):
    return neox(q, k, cos, -sin, unsqueeze_dim)


def only_query(q, k, cos, sin, unsqueeze_dim=1):
    return neox(q, k, cos, sin, unsqueeze_dim)[0], k


def scaled_key(q, k, cos, sin, unsqueeze_dim=1):
    """XPos scales queries and keys against one another."""
    turned_q, turned_k = neox(q, k, cos, sin, unsqueeze_dim)
    return turned_q, turned_k * 1.1


def swapped_tables(q, k, cos, sin, unsqueeze_dim=1):
    return neox(q, k, sin, cos, unsqueeze_dim)


def with_scale(q, k, cos, sin, scale=1.0, unsqueeze_dim=1):
    return neox(q * scale, k * scale, cos, sin, unsqueeze_dim)


@pytest.mark.parametrize(
    ("function", "width", "rotation"),
    [
        (neox, HEAD, Rotation("repeated", False, False, HEAD)),
        (partial, 8, Rotation("repeated", False, False, 8)),
        (gptj, HEAD, Rotation("interleaved", True, False, HEAD)),
        (regrouped, HEAD, Rotation("repeated", True, True, HEAD)),
        (half_tables, HEAD // 2, Rotation("half", False, False, HEAD)),
    ],
)
@pytest.mark.parametrize("heads_axis", [1, 2])
def test_rotations_are_recognised(function, width, rotation, heads_axis):
    others = {"unsqueeze_dim": heads_axis}
    assert classify(function, width, heads_axis=heads_axis, **others) == rotation


@pytest.mark.parametrize(
    ("module", "rotation"),
    [
        ("llama", Rotation("repeated", False, False, HEAD)),
        ("cohere", Rotation("interleaved", True, False, HEAD)),
        ("glm", Rotation("repeated", True, False, HEAD)),
        ("gpt_neox", Rotation("repeated", False, False, HEAD)),
    ],
)
def test_functions_of_transformers_are_recognised(module, rotation):
    modeling = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    assert classify(modeling.apply_rotary_pos_emb) == rotation


@pytest.mark.parametrize("function", [reversed_sign, only_query, scaled_key, swapped_tables])
def test_near_misses_are_no_rotations(function):
    assert classify(function) is None


def test_arguments_that_are_no_tensors_reach_the_probe():
    assert classify(with_scale, scale=1.0) == Rotation("repeated", False, False, HEAD)
    assert classify(with_scale, scale=0.5) is None


def test_another_tensor_is_not_probed_away():
    def masked(q, k, cos, sin, keep=None, unsqueeze_dim=1):
        return neox(q, k, cos if keep is None else cos * keep, sin, unsqueeze_dim)

    assert classify(masked) is not None
    assert classify(masked, keep=torch.ones(1)) is None


def rounded_back(q, k, cos, sin, unsqueeze_dim=1):
    """OLMo 2 turns float16 by float32 tables."""
    return tuple(turned.to(q.dtype) for turned in neox(q, k, cos, sin, unsqueeze_dim))


@pytest.mark.parametrize(("function", "recognised"), [(rounded_back, True), (neox, False)])
def test_a_rotation_gives_back_the_type_that_it_rotates(function, recognised):
    q = torch.zeros(2, 3, 5, HEAD, dtype=torch.float16)
    table = torch.zeros(2, 5, HEAD)
    call = _read_call("apply_rotary_pos_emb", function, (q, q, table, table), {})
    assert (classify_rotation(call) is not None) == recognised


@pytest.mark.parametrize("width", [HEAD + 2, 5])
def test_tables_that_do_not_fit_are_no_rotation(width):
    assert classify(neox, width) is None


def test_a_call_of_another_form_is_not_read():
    q = torch.zeros(2, 3, 5, HEAD)
    table = torch.zeros(2, 5, HEAD)
    assert _read_call("apply_rotary", neox, (q,), {}) is None
    assert _read_call("apply_rotary", lambda a, b, cos, sin: a, (q, q, table, table), {}) is None
    assert _read_call("apply_rotary", neox, (q[0], q[0], table, table), {}) is None
    assert _read_call("apply_rotary", neox, (q, q, table[0], table[0]), {}) is None


def complex_rotation(x, angles, *, interleaved):
    """RoFormer's formula in complex numbers, float64: an independent reference."""
    x = x.double()
    pairs = torch.complex(x[..., ::2], x[..., 1::2]) if interleaved else torch.complex(*x.chunk(2, -1))
    turned = pairs * torch.polar(torch.ones_like(angles.double()), angles.double()).unsqueeze(1)
    if interleaved:
        return torch.view_as_real(turned).flatten(-2)
    return torch.cat((turned.real, turned.imag), -1)


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 5), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_rotate_equals_complex_numbers_and_keeps_lengths(batch, heads, seq, half, passing, interleaved, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, heads, seq, 2 * half + passing, generator=generator)
    angles = torch.randn(batch, seq, half, generator=generator) * 10
    result = rotate(x, angles.cos(), angles.sin(), interleaved=interleaved, rotary_dim=2 * half)
    expected = complex_rotation(x[..., : 2 * half], angles, interleaved=interleaved)
    torch.testing.assert_close(result[..., : 2 * half].double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(result[..., 2 * half :], x[..., 2 * half :])
    torch.testing.assert_close(result.norm(dim=-1), x.norm(dim=-1))
