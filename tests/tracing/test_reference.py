"""The formulas of the semantic operators, against torch's own functions and written-out loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from edgellm_core.tracing import operators
from edgellm_core.tracing.reference import FORMULAS

GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(shape, generator=GENERATOR)


@pytest.fixture(autouse=True)
def _computed():
    with operators.computed():
        yield


X, W, B = rand(2, 3, 8), rand(8), rand(8)
QUERY, KEY, VALUE = rand(2, 6, 3, 8), rand(2, 2, 7, 8), rand(2, 2, 7, 4)


def test_norms_are_torch_s():
    torch.testing.assert_close(operators.rms_norm(X, W, 1e-3), functional.rms_norm(X, (8,), W, 1e-3))
    torch.testing.assert_close(operators.layer_norm(X, W, B, 1e-3), functional.layer_norm(X, (8,), W, B, 1e-3))
    torch.testing.assert_close(operators.layer_norm(X, W, None, 1e-3), functional.layer_norm(X, (8,), W, None, 1e-3))


def test_a_norm_is_computed_in_float32():
    large = torch.full((1, 8), 300.0, dtype=torch.float16)
    assert torch.equal(operators.rms_norm(large, torch.ones(8, dtype=torch.float16), 1e-5), torch.ones_like(large))


@pytest.mark.parametrize("bias", [None, rand(5)])
def test_linear_is_torch_s(bias):
    weight = rand(5, 8)
    torch.testing.assert_close(operators.linear(X, weight, bias), functional.linear(X, weight, bias))


def test_append_joins_along_the_sequence():
    assert torch.equal(operators.append(KEY, VALUE.repeat(1, 1, 1, 2))[:, :, 7:], VALUE.repeat(1, 1, 1, 2))
    assert torch.equal(operators.append(KEY[:, :, :0], KEY), KEY)


@pytest.mark.parametrize(
    "mask", [None, torch.ones(2, 1, 3, 7).tril(4).bool(), rand(2, 1, 3, 7)], ids=["no", "bool", "sum"]
)
def test_attention_is_torch_s(mask):
    found = operators.attention(QUERY, KEY, VALUE, mask, None, scale=0.3, softcap=0.0)
    expected = functional.scaled_dot_product_attention(QUERY, KEY, VALUE, mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, expected)


def test_softcap_and_sinks_follow_their_formulas():
    mask, sinks = torch.ones(2, 1, 3, 7).tril(4).bool(), rand(6)
    found = operators.attention(QUERY, KEY, VALUE, mask, sinks, scale=0.3, softcap=1.5)
    for batch, head, query in [(0, 0, 0), (1, 5, 2), (0, 3, 1)]:
        keys, values = KEY[batch, head // 3], VALUE[batch, head // 3]
        scores = [1.5 * math.tanh(0.3 * float(QUERY[batch, head, query] @ key) / 1.5) for key in keys]
        weights = [math.exp(s) if mask[batch, 0, query, index] else 0.0 for index, s in enumerate(scores)]
        total = sum(weights) + math.exp(float(sinks[head]))
        expected = sum(w / total * value for w, value in zip(weights, values, strict=True))
        torch.testing.assert_close(found[batch, head, query], expected)


def test_a_mask_lets_every_position_see_itself():
    valid, ids = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]), torch.zeros(2, 3)
    mask = operators.attention_mask(valid, ids, causal=True, window=2, chunk=0)
    assert mask.int().tolist() == [
        [[[0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]],
        [[[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]],
    ]


def test_marks_change_nothing():
    assert operators.layer_input(X, 3) is operators.layer_output(X, 3) is X
    assert operators.full_length(X, 7) is X


def test_every_operator_has_a_formula():
    assert set(FORMULAS) >= {
        "RMSNorm",
        "LayerNorm",
        "Linear",
        "Rotary",
        "Append",
        "Attention",
        "AttentionMask",
        "Experts",
    }
