"""Norms and linear layers in standard operators, against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import NOTHING, apply, execute, model_of, node, operators, semantic

from edgellm_core.contract import GraphDimensions
from edgellm_core.surgery.errors import RuleCountError
from edgellm_core.surgery.run import run_rules
from edgellm_core.targets.onnx.lower_linear import LinearToMatMul
from edgellm_core.targets.onnx.lower_norms import LayerNormToLayerNormalization, RMSNormToRMSNormalization
from edgellm_core.tracing.graph_import import import_graph

TYPES = [(np.float32, 1e-6), (np.float16, 2e-3)]


def random(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def dimensions(**counts):
    return GraphDimensions(layers=1, attentions=0, **counts)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_rms_norm(dtype, tolerance, epsilon):
    x, w = random(2, 3, 8, dtype=dtype), random(8, dtype=dtype)
    model = model_of(
        [semantic("RMSNorm", "x w", "y", epsilon=epsilon)],
        {"x": (dtype, ["b", "s", 8])},
        {"y": (dtype, ["b", "s", 8])},
        {"w": w},
    )
    changed, [result] = apply(model, RMSNormToRMSNormalization(), dimensions=dimensions(norms={"rms": 1}))
    assert (operators(changed), result.applied) == (["RMSNormalization"], 1)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon) * w
    np.testing.assert_allclose(execute(changed, x=x)[0], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("inputs", ["x w", "x w b"])
def test_layer_norm(dtype, tolerance, inputs):
    x, w, b = random(2, 3, 8, dtype=dtype), random(8, dtype=dtype), random(8, dtype=dtype, seed=1)
    kind = (dtype, ["b", "s", 8])
    item = semantic("LayerNorm", inputs, "y", epsilon=1e-3)
    changed, [result] = apply(
        model_of([item], {"x": kind}, {"y": kind}, {"w": w, "b": b}),
        LayerNormToLayerNormalization(),
        dimensions=dimensions(norms={"layer": 1}),
    )
    assert (operators(changed), result.applied) == (["LayerNormalization"], 1)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3) * w + (b if "b" in inputs else 0)
    np.testing.assert_allclose(execute(changed, x=x)[0], expected, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("rule", [RMSNormToRMSNormalization, LayerNormToLayerNormalization])
def test_norms_are_counted_by_kind(rule):
    kind, other = ("rms", "layer") if rule is RMSNormToRMSNormalization else ("layer", "rms")
    graph = import_graph(model_of([node("Neg", "x", "y")], {"x": (np.float32, [2])}, {"y": (np.float32, [2])}))
    run_rules(graph, [rule()], dimensions(norms={other: 3}))
    run_rules(graph, [rule()], NOTHING)
    with pytest.raises(RuleCountError, match=rf"Rule {rule.name} must apply 2 times .* applied 0 times"):
        run_rules(graph, [rule()], dimensions(norms={kind: 2}))


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_linear(dtype, tolerance, bias):
    x, w, b = random(2, 3, 8, dtype=dtype), random(5, 8, dtype=dtype), random(5, dtype=dtype)
    item = semantic("Linear", "x w b" if bias else "x w", "y")
    model = model_of([item], {"x": (dtype, ["b", "s", 8])}, {"y": (dtype, ["b", "s", 5])}, {"w": w, "b": b})
    changed, [result] = apply(model, LinearToMatMul(), dimensions=dimensions(linears=1))
    assert operators(changed) == ["Transpose", "MatMul", *(["Add"] if bias else [])]
    assert result.applied == 1
    expected = x.astype(np.float64) @ w.astype(np.float64).T + (b if bias else 0)
    np.testing.assert_allclose(execute(changed, x=x)[0], expected, rtol=tolerance, atol=10 * tolerance)


def test_linears_may_be_more_than_the_modules_and_not_fewer():
    nodes = [semantic("Linear", "x w", "a"), semantic("Linear", "a w", "y")]
    kind = (np.float32, [2, 4])
    model = model_of(nodes, {"x": kind}, {"y": kind}, {"w": random(4, 4)})
    apply(model, LinearToMatMul(), dimensions=dimensions(linears=1))
    with pytest.raises(RuleCountError, match=r"LinearToMatMul must apply ≥ 3 times .* applied 2 times"):
        run_rules(import_graph(model), [LinearToMatMul()], dimensions(linears=3))


@pytest.mark.parametrize("rule", [RMSNormToRMSNormalization(), LayerNormToLayerNormalization(), LinearToMatMul()])
def test_operators_of_other_domains_stay(rule):
    op = rule.name.partition("To")[0]
    model = model_of([node(op, "x x", "y", domain="other")], {"x": (np.float32, [2])}, {"y": (np.float32, [2])})
    model.opset_import.add(domain="other", version=1)
    _changed, [result] = apply(model, rule)
    assert (result.applied, result.near_miss) == (0, None)
