"""Layer norms as exporters write them."""

from __future__ import annotations

import numpy as np
import pytest
from pattern_graphs import assert_same, graph, numbers, rewritten

from edgellm_core.surgery.patterns.layer_norm import PlainLayerNorm

EPSILON = 1e-3
CONSTANTS = {
    "two": np.float32(2), "eps": np.float32(EPSILON), "axis": np.array([-1]), "w": numbers(6, seed=9),
    "b": numbers(6, seed=8), "wide_bias": numbers(2, 3, 6, seed=7),
}  # fmt: skip
CORE = """
    mean = ReduceMean(x, axis)
    centered = Sub(x, mean)
    square = Pow(centered, two)
    variance = ReduceMean(square, axis)
    shifted = Add(variance, eps)
    root = Sqrt(shifted)
    normed = Div(centered, root)
    y = Mul(normed, w)
"""
BIASED = CORE.replace("y = Mul", "scaled = Mul") + "y = Add(scaled, b)"
PRODUCTS = BIASED.replace("Pow(centered, two)", "Mul(centered, centered)").replace("(scaled, b)", "(b, scaled)")


def norm(text, **changes):
    outputs = {"y": np.float32, **changes.pop("outputs", {})}
    return graph(text, {"x": (np.float32, (2, 3, 6))}, outputs, CONSTANTS | changes)


def reference(x, bias=0.0):
    wide = x.astype(np.float64)
    centered = wide - wide.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + EPSILON) * CONSTANTS["w"] + bias


@pytest.mark.parametrize(
    ("text", "bias"),
    [
        (CORE, 0.0),
        (BIASED, CONSTANTS["b"]),
        (PRODUCTS, CONSTANTS["b"]),
        (CORE.replace("square = Pow(centered", "again = Sub(x, mean)\n square = Pow(again"), 0.0),
    ],
    ids=["without bias", "with bias", "products", "centered twice"],
)  # fmt: skip
def test_every_form_becomes_one_node(text, bias):
    model = norm(text)
    changed, operators, [result] = rewritten(model, PlainLayerNorm())
    assert (operators, result.applied) == (["LayerNormalization"], 1)
    x = numbers(2, 3, 6)
    assert_same(model, changed, reference(x, bias), x=x)


def test_what_is_added_and_is_no_bias_stays():
    model = norm(BIASED.replace("(scaled, b)", "(scaled, wide_bias)"))
    changed, operators, _ = rewritten(model, PlainLayerNorm())
    assert operators == ["LayerNormalization", "Add"]
    x = numbers(2, 3, 6)
    assert_same(model, changed, reference(x, CONSTANTS["wide_bias"]), x=x)


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        (BIASED, {"outputs": {"centered": np.float32}}, "its inner value 'centered' has a second consumer"),
        (BIASED + "\n z = Neg(mean)", {"outputs": {"z": np.float32}}, "its inner value 'mean' has a second consumer"),
        (CORE, {"axis": np.array([1])}, "its mean is not over the last axis alone"),
        (BIASED, {"b": numbers(1)}, "its parameter 'b' is not of shape [6]"),
    ],
)
def test_near_misses_stay_as_they_are(text, changes, reason):
    model = norm(text, **changes)
    _, operators, [result] = rewritten(model, PlainLayerNorm())
    assert result.near_misses[-1].reason == reason
    assert operators == [item.op_type for item in model.graph.node]
