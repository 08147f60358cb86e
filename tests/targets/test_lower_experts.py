"""Experts in standard operators, against the sum over the chosen ones, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import apply, execute, model_of, operators, semantic

from edgellm_core.targets.onnx.lower_experts import ExpertsToMatMul

TOKENS, HIDDEN, INNER, EXPERTS, CHOSEN = 7, 8, 6, 5, 2


def written_out(x, index, weights, gate_up, down):
    total = np.zeros(x.shape)
    for token, place in np.ndindex(index.shape):
        expert = index[token, place]
        gate, up = np.split(gate_up[expert].astype(np.float64) @ x[token], 2)
        inner = gate / (1 + np.exp(-gate)) * up
        total[token] += weights[token, place] * (down[expert].astype(np.float64) @ inner)
    return total


@pytest.mark.parametrize(
    ("dtype", "weights_dtype", "tolerance"),
    [(np.float32, np.float32, 1e-5), (np.float16, np.float16, 1e-2), (np.float16, np.float32, 1e-2)],
)
def test_experts(dtype, weights_dtype, tolerance):
    random = np.random.default_rng(0)
    x = random.standard_normal((TOKENS, HIDDEN)).astype(dtype)
    index = np.stack([random.permutation(EXPERTS)[:CHOSEN] for _ in range(TOKENS)])
    weights = random.uniform(0.1, 1, index.shape).astype(weights_dtype)
    gate_up = random.standard_normal((EXPERTS, 2 * INNER, HIDDEN)).astype(dtype) / 2
    down = random.standard_normal((EXPERTS, HIDDEN, INNER)).astype(dtype) / 2
    model = model_of(
        [semantic("Experts", "x index weights gate_up down", "y")],
        {"x": (dtype, ["t", HIDDEN]), "index": (np.int64, ["t", CHOSEN]), "weights": (weights_dtype, ["t", CHOSEN])},
        {"y": (dtype, ["t", HIDDEN])},
        {"gate_up": gate_up, "down": down},
    )
    changed, [result] = apply(model, ExpertsToMatMul())
    assert result.applied == 1
    assert operators(changed).count("MatMul") == 2
    [found] = execute(changed, x=x, index=index, weights=weights)
    assert found.dtype == dtype
    expected = written_out(x, index, weights, gate_up, down)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
