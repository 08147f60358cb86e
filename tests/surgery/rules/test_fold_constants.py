"""Operators on small constants: their value, as ONNX Runtime computes it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from small_graphs import apply, execute, model_of, node, operators

from edgellm_core.surgery.rule import NearMiss
from edgellm_core.surgery.rules.fold_constants import FoldConstants

F = np.float32
A = np.arange(6, dtype=F).reshape(2, 3) - 2.5
I = np.array([-7, 7, 5])  # noqa: E741  # integers beside A


def folded(item, constants, dtype=F, before=()):
    """Return the folded value, the one that ONNX Runtime computes, and the result of the rule."""
    nodes = [*before, item, node("Identity", "a", "b"), node("Identity", "b", "y")]
    model = model_of(nodes, {}, {"y": (dtype, None)}, constants)
    changed, [result] = apply(model, FoldConstants())
    assert operators(changed) == ["Identity", "Identity"]
    return execute(changed)[0], execute(model)[0], result


@pytest.mark.parametrize(
    ("item", "constants"),
    [
        *[(node(op, "c d", "a"), {"c": A, "d": A[:1] + 1}) for op in ("Add", "Sub", "Mul", "Div")],
        *[(node(op, "c d", "a"), {"c": I, "d": np.array([2, -2, 3])}) for op in ("Add", "Sub", "Mul", "Div")],
        (node("Neg", "c", "a"), {"c": A}),
        (node("Unsqueeze", "c d", "a"), {"c": A, "d": np.array([0, -1])}),
        (node("Squeeze", "c d", "a"), {"c": A[None], "d": np.array([0])}), (node("Squeeze", "c", "a"), {"c": A[None]}),
        (node("Reshape", "c d", "a"), {"c": A, "d": np.array([-1, 2])}),
        (node("Reshape", "c d", "a"), {"c": A, "d": np.array([0, -1, 1])}),
        (node("Concat", "c d c", "a", axis=1), {"c": A, "d": A[:, :1]}),
        (node("Gather", "c d", "a", axis=1), {"c": A, "d": np.array([2, -1])}),
        (node("Transpose", "c", "a", perm=[1, 0]), {"c": A}), (node("Transpose", "c", "a"), {"c": A}),
        (node("Slice", "c d e f g", "a"),
         {"c": A, "d": np.array([0]), "e": np.array([2**62]), "f": np.array([1]), "g": np.array([2])}),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)  # fmt: skip
def test_an_operator_on_constants_becomes_its_value(item, constants):
    dtype = constants["c"].dtype
    found, expected, result = folded(item, constants, dtype)
    assert result.applied == 1
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.shape == expected.shape


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_the_type_is_kept(dtype):
    found, expected, _result = folded(node("Mul", "c c", "a"), {"c": np.array([3, 5], dtype)}, dtype)
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_is_folded_in_bfloat16():
    """ONNX Runtime has no such kernels on the CPU; ml_dtypes rounds as the standard says."""
    values = np.array([1.01, 3.3]).astype(ml_dtypes.bfloat16)
    nodes = [node("Mul", "c c", "a"), node("Add", "x a", "y")]
    kind = (ml_dtypes.bfloat16, [2])
    changed, [result] = apply(model_of(nodes, {"x": kind}, {"y": kind}, {"c": values}), FoldConstants())
    assert (operators(changed), result.applied) == (["Add"], 1)
    found = numpy_helper.to_array(changed.graph.initializer[0])
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found, (values.astype(F) ** 2).astype(ml_dtypes.bfloat16))


def test_chains_are_folded_in_one_run():
    before = [node("Add", "c c", "p"), node("Neg", "p", "q")]
    found, expected, result = folded(node("Mul", "q c", "a"), {"c": A}, before=before)
    assert result.applied == 3
    np.testing.assert_allclose(found, expected)


def test_a_graph_output_is_kept():
    changed, [result] = apply(model_of([node("Neg", "c", "y")], {}, {"y": (F, [2, 3])}, {"c": A}), FoldConstants())
    assert operators(changed) == ["Neg"]
    assert result.near_miss == NearMiss("Neg:y", "it produces a graph output")


TOO_MANY = "its inputs or its result have more than 65536 elements"


@pytest.mark.parametrize(
    "constants",
    [
        {"c": np.zeros(65537, F), "d": np.zeros((), F)},
        {"c": np.zeros((300, 1), F), "d": np.zeros((1, 300), F)},
    ],
    ids=["inputs", "result"],
)
def test_large_constants_are_not_multiplied_out(constants):
    model = model_of([node("Add", "c d", "a"), node("Neg", "a", "y")], {}, {"y": (F, None)}, constants)
    changed, [result] = apply(model, FoldConstants())
    assert operators(changed) == ["Add", "Neg"]
    assert result.near_miss == NearMiss("Add:a", TOO_MANY)


@pytest.mark.parametrize(
    "item",
    [node("Exp", "c", "a"), node("Add", "c x", "a"), node("Cast", "c", "a", to=1), node("Shape", "x", "a")],
    ids=lambda item: item.op_type,
)
def test_other_operators_and_variables_stay(item):
    model = model_of([item, node("Identity", "a", "y")], {"x": (F, [2, 3])}, {"y": (F, None)}, {"c": A})
    if item.op_type == "Shape":
        model.graph.output[0].type.tensor_type.elem_type = 7
    changed, [result] = apply(model, FoldConstants())
    assert (operators(changed), result.applied, result.near_miss) == ([item.op_type, "Identity"], 0, None)


def test_an_operator_of_another_domain_stays():
    model = model_of([node("Add", "c c", "y", domain="edgellm")], {}, {"y": (F, [2, 3])}, {"c": A})
    changed, [result] = apply(model, FoldConstants())
    assert (operators(changed), result.applied) == (["Add"], 0)


SHAPES = st.lists(st.integers(1, 3), min_size=0, max_size=3)


@given(SHAPES, st.sampled_from(["Add", "Sub", "Mul", "Div"]), st.integers(0, 2**31), st.booleans())
@settings(max_examples=40, deadline=None)
def test_random_arithmetic_equals_onnx_runtime(shape, op, seed, integers):
    random = np.random.default_rng(seed)
    first = random.integers(-50, 50, shape) if integers else random.standard_normal(shape).astype(F)
    second = random.integers(1, 9, shape[-1:]) if integers else random.uniform(0.5, 2, shape[-1:]).astype(F)
    second = second * random.choice([-1, 1], shape[-1:]).astype(second.dtype)
    found, expected, _result = folded(node(op, "c d", "a"), {"c": first, "d": second}, first.dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
