"""GELU and SiLU as exporters write them."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from pattern_graphs import assert_same, graph, numbers, rewritten
from small_graphs import NOTHING, export, operators

from edgellm_core.surgery.patterns.gelu import PlainGelu
from edgellm_core.surgery.patterns.swish import PlainSwish
from edgellm_core.surgery.run import run_rules
from edgellm_core.tracing.graph_import import import_graph

CONSTANTS = {
    "one": np.float32(1), "half": np.float32(0.5), "two": np.float32(2), "three": np.float32(3),
    "root2": np.float32(math.sqrt(2)), "inverse": np.float32(math.sqrt(0.5)), "c": np.float32(0.044715),
    "k": np.float32(math.sqrt(2 / math.pi)), "alpha": np.float32(1.702), "near": np.float32(0.71),
}  # fmt: skip
EXACT = {
    "torch": "a = Div(x, root2)\n e = Erf(a)\n g = Add(e, one)\n p = Mul(x, g)\n y = Mul(p, half)",
    "half first": "h = Mul(x, half)\n a = Mul(x, inverse)\n e = Erf(a)\n g = Add(one, e)\n y = Mul(h, g)",
    "half of the gate": "a = Mul(inverse, x)\n e = Erf(a)\n g = Add(e, one)\n h = Mul(half, g)\n y = Mul(h, x)",
    "divided by two": "a = Div(x, root2)\n e = Erf(a)\n g = Add(e, one)\n p = Mul(x, g)\n y = Div(p, two)",
}
TANH = {
    "power": "q = Pow(x, three)\n s = Mul(q, c)\n i = Add(x, s)\n a = Mul(i, k)\n t = Tanh(a)\n g = Add(t, one)\n"
    "h = Mul(x, half)\n y = Mul(h, g)",
    "products": "u = Mul(x, x)\n q = Mul(u, x)\n s = Mul(c, q)\n i = Add(s, x)\n a = Mul(k, i)\n t = Tanh(a)\n"
    "g = Add(one, t)\n p = Mul(x, g)\n y = Mul(p, half)",
    "factored": "q = Mul(x, x)\n s = Mul(q, c)\n i = Add(s, one)\n b = Mul(x, k)\n a = Mul(b, i)\n t = Tanh(a)\n"
    "g = Add(t, one)\n h = Mul(half, x)\n y = Mul(h, g)",
}
OTHER_ERF = "the argument of its Erf is not that of a GELU of the same input"
OTHER_TANH = OTHER_ERF.replace("Erf", "Tanh")
GELUS = [
    *((form, text, "none") for form, text in EXACT.items()),
    *((form, text, "tanh") for form, text in TANH.items()),
]


def activation(text, **outputs):
    return graph(text, {"x": (np.float32, (3, 5))}, {"y": np.float32, **outputs}, CONSTANTS)


@pytest.mark.parametrize(("form", "text", "approximate"), GELUS)
def test_gelu(form, text, approximate):
    model = activation(text)
    changed, kinds, [result] = rewritten(model, PlainGelu())
    assert (kinds, result.applied) == (["Gelu"], 1)
    assert onnx.helper.get_node_attr_value(changed.graph.node[0], "approximate").decode() == approximate
    x = numbers(3, 5) * 3
    expected = torch.nn.functional.gelu(torch.from_numpy(x).double(), approximate=approximate).numpy()
    assert_same(model, changed, expected, x=x)


@pytest.mark.parametrize(
    ("text", "outputs", "reason"),
    [
        (EXACT["torch"].replace("root2", "two"), {}, OTHER_ERF),
        (EXACT["half first"].replace("inverse", "near"), {}, OTHER_ERF),
        (EXACT["torch"].replace("(p, half)", "(p, near)"), {}, "its factor is 0.71, not 0.5"),
        (TANH["power"].replace("(q, c)", "(q, k)"), {}, OTHER_TANH),
        (TANH["power"].replace("three", "two"), {}, OTHER_TANH),
        (EXACT["torch"], {"e": np.float32}, "its inner value 'e' has a second consumer"),
    ],
)  # fmt: skip
def test_what_is_almost_gelu_stays(text, outputs, reason):
    model = activation(text, **outputs)
    _, kinds, [result] = rewritten(model, PlainGelu())
    assert {miss.reason for miss in result.near_misses} == {reason}
    assert kinds == [item.op_type for item in model.graph.node]


SWISH = {
    "silu": ("s = Sigmoid(x)\n y = Mul(x, s)", 1.0),
    "quick": ("a = Mul(x, alpha)\n s = Sigmoid(a)\n y = Mul(s, x)", 1.702),
}


@pytest.mark.parametrize(("text", "alpha"), SWISH.values(), ids=SWISH)
def test_swish_in_opset_24(text, alpha):
    model = activation(text)
    changed = import_graph(model)
    run_rules(changed, [PlainSwish(24)], NOTHING)
    changed = export(changed)
    changed.opset_import[0].version = 24
    assert operators(changed) == ["Swish"]
    x = numbers(3, 5)
    assert_same(model, changed, x / (1 + np.exp(-alpha * x.astype(np.float64))), x=x)


@pytest.mark.parametrize("opset", [23, 25])
def test_swish_needs_an_opset_that_onnx_runtime_computes(opset):
    _, kinds, [result] = rewritten(activation(SWISH["silu"][0]), PlainSwish(opset))
    assert result.near_miss.reason == f"Swish needs opset 24, the graph has {opset}"
    assert kinds == ["Sigmoid", "Mul"]
