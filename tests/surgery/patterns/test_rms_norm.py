"""Root-mean-square norms as exporters write them."""

from __future__ import annotations

import numpy as np
import pytest
from pattern_graphs import assert_same, graph, numbers, rewritten

from edgellm_core.surgery.patterns.rms_norm import PlainRMSNorm

EPSILON = 1e-3
CONSTANTS = {
    "two": np.float32(2), "half": np.float32(0.5), "minus_half": np.float32(-0.5), "one": np.float32(1),
    "eps": np.float32(EPSILON), "axis": np.array([-1]), "last": np.array([2]), "w": numbers(6, seed=9),
}  # fmt: skip
MEAN = """
    square = Pow(x, two)
    mean = ReduceMean(square, axis)
    shifted = Add(mean, eps)
    root = Sqrt(shifted)
"""
FORMS = {
    "divided": MEAN + "normed = Div(x, root)\n y = Mul(normed, w)",
    "reciprocal": MEAN + "inverse = Reciprocal(root)\n normed = Mul(x, inverse)\n y = Mul(w, normed)",
    "one over": MEAN + "inverse = Div(one, root)\n normed = Mul(inverse, x)\n y = Mul(normed, w)",
    "multiplied": MEAN.replace("Pow(x, two)", "Mul(x, x)").replace("Add(mean, eps)", "Add(eps, mean)")
    + "normed = Div(x, root)\n y = Mul(normed, w)",
    "last axis": MEAN.replace("axis", "last") + "normed = Div(x, root)\n y = Mul(normed, w)",
    "powers": MEAN.replace("Sqrt(shifted)", "Pow(shifted, minus_half)") + "normed = Mul(x, root)\n y = Mul(normed, w)",
    "root as a power": MEAN.replace("Sqrt(shifted)", "Pow(shifted, half)")
    + "normed = Div(x, root)\n y = Mul(normed, w)",
}


def norm(text, **changes):
    outputs = {"y": np.float32, **changes.pop("outputs", {})}
    return graph(text, {"x": (np.float32, ("batch", "seq", 6))}, outputs, CONSTANTS | changes)


def reference(x, weight=CONSTANTS["w"]):
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide**2).mean(-1, keepdims=True) + EPSILON) * weight


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_one_node(form):
    model = norm(FORMS[form])
    changed, operators, [result] = rewritten(model, PlainRMSNorm())
    assert (operators, result.applied) == (["RMSNormalization"], 1)
    x = numbers(2, 3, 6)
    assert_same(model, changed, reference(x), x=x)


def test_a_norm_in_float32_of_a_float16_input():
    text = """
        wide = Cast(x) to=1
        square = Pow(wide, two)
        mean = ReduceMean(square, axis)
        shifted = Add(mean, eps)
        root = Sqrt(shifted)
        inverse = Reciprocal(root)
        normed = Mul(wide, inverse)
        rounded = Cast(normed) to=10
        y = Mul(w, rounded)
    """
    weight = CONSTANTS["w"].astype(np.float16)
    model = graph(text, {"x": (np.float16, (2, 6))}, {"y": np.float16}, CONSTANTS | {"w": weight})
    changed, operators, _ = rewritten(model, PlainRMSNorm())
    assert operators == ["RMSNormalization"]
    x = numbers(2, 6, dtype=np.float16)
    assert_same(model, changed, reference(x, weight.astype(np.float64)), tolerance=5e-3, x=x)


def test_a_norm_of_a_float32_input_that_is_rounded_before_its_weight():
    text = MEAN + "inverse = Reciprocal(root)\n normed = Mul(x, inverse)\n rounded = Cast(normed) to=10"
    weight = CONSTANTS["w"].astype(np.float16)
    constants = CONSTANTS | {"w": weight}
    model = graph(text + "\n y = Mul(w, rounded)", {"x": (np.float32, (2, 6))}, {"y": np.float16}, constants)
    changed, operators, _ = rewritten(model, PlainRMSNorm())
    assert operators == ["Cast", "RMSNormalization", "Cast"]
    x = numbers(2, 6)
    assert_same(model, changed, reference(x, weight.astype(np.float64)), tolerance=5e-3, x=x)


def test_a_result_in_a_wider_type_than_the_input_is_left_alone():
    text = MEAN + "normed = Div(x, root)\n wide = Cast(normed) to=1\n y = Mul(wide, w)"
    constants = {name: v.astype(np.float16) if v.dtype == np.float32 else v for name, v in CONSTANTS.items()}
    constants["w"] = CONSTANTS["w"]
    model = graph(text, {"x": (np.float16, (2, 6))}, {"y": np.float32}, constants)
    _, operators, [result] = rewritten(model, PlainRMSNorm())
    assert "RMSNormalization" not in operators
    assert result.near_misses[0].reason == "its result has a wider type than its input"


PLAIN = FORMS["divided"]


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        (PLAIN + "\n z = Neg(root)", {"outputs": {"z": np.float32}}, "its inner value 'root' has a second consumer"),
        (PLAIN, {"outputs": {"normed": np.float32}}, "its inner value 'normed' has a second consumer"),
        (PLAIN, {"axis": np.array([1])}, "its mean is not over the last axis alone"),
        (PLAIN, {"axis": np.array([1, 2])}, "its mean is not over the last axis alone"),
        (PLAIN, {"w": numbers(1)}, "its parameter 'w' is not of shape [6]"),
        (PLAIN, {"w": numbers(1, 1, 6)}, "its parameter 'w' is not of shape [6]"),
    ],
)
def test_near_misses_stay_as_they_are(text, changes, reason):
    model = norm(text, **changes)
    _, operators, [result] = rewritten(model, PlainRMSNorm())
    assert [miss.reason for miss in result.near_misses] == [reason]
    assert operators == [item.op_type for item in model.graph.node]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("Pow(x, two)", "Pow(x, one)"),
        PLAIN.replace("Div(x, root)", "Div(w, root)"),
        PLAIN.replace("Div(x, root)", "Div(root, x)"),
        PLAIN.replace("Sqrt(shifted)", "Exp(shifted)"),
    ],
)
def test_other_formulas_are_no_norms(text):
    model = norm(text)
    _, operators, [result] = rewritten(model, PlainRMSNorm())
    assert (result.applied, operators) == (0, [item.op_type for item in model.graph.node])


def test_float64_stays():
    wide = {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in CONSTANTS.items()}
    model = graph(PLAIN, {"x": (np.float64, (2, 6))}, {"y": np.float64}, wide)
    _, _, [result] = rewritten(model, PlainRMSNorm())
    assert result.near_miss.reason == "it computes in float64, the standard operator in float32"
