"""Arithmetic with neutral numbers and transposes that move nothing."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from small_graphs import apply, execute, model_of, node, operators

from edgellm_core.surgery.rule import NearMiss
from edgellm_core.surgery.rules.remove_noop import RemoveNoOp

F = np.float32
VALUE = np.array([[1.5, -2, 0]], F)
ONE, ZERO = np.array(1, F), np.array(0, F)


def graph_of(item, constants=None, dtype=F):
    model = model_of([item, node("Neg", "a", "y")], {"x": (dtype, [1, 3])}, {"y": (dtype, None)}, constants)
    return apply(model, RemoveNoOp())


@pytest.mark.parametrize(
    ("item", "constant"),
    [
        (node("Mul", "x c", "a"), ONE), (node("Mul", "c x", "a"), ONE), (node("Div", "x c", "a"), ONE),
        (node("Add", "x c", "a"), ZERO), (node("Add", "c x", "a"), ZERO), (node("Sub", "x c", "a"), ZERO),
        (node("Add", "x c", "a"), np.array(-0.0, F)),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)  # fmt: skip
def test_a_neutral_operand_is_removed(item, constant):
    changed, [result] = graph_of(item, {"c": constant})
    assert (operators(changed), result.applied) == (["Neg"], 1)
    np.testing.assert_array_equal(execute(changed, x=VALUE)[0], -VALUE)


def test_a_transpose_in_order_is_removed():
    changed, [result] = graph_of(node("Transpose", "x", "a", perm=[0, 1]))
    assert (operators(changed), result.applied) == (["Neg"], 1)


@pytest.mark.parametrize("dtype", [np.int64, np.float16, ml_dtypes.bfloat16])
def test_other_types_count_too(dtype):
    changed, [result] = graph_of(node("Mul", "x c", "a"), {"c": np.array(1).astype(dtype)}, dtype)
    assert (operators(changed), result.applied) == (["Neg"], 1)


@pytest.mark.parametrize(
    ("item", "constant"),
    [
        (node("Sub", "c x", "a"), ZERO), (node("Div", "c x", "a"), ONE), (node("Mul", "x c", "a"), ZERO),
        (node("Add", "x c", "a"), ONE), (node("Mul", "x c", "a"), np.array(1 + 1e-6, F)),
        (node("Mul", "x c", "a"), np.ones((1, 3), F)), (node("Add", "x c", "a"), np.zeros((5, 1), F)),
        (node("Pow", "x c", "a"), ONE), (node("Mul", "x x", "a"), ONE), (node("Transpose", "x", "a"), ONE),
        (node("Transpose", "x", "a", perm=[1, 0]), ONE),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)  # fmt: skip
def test_what_changes_value_or_shape_stays(item, constant):
    changed, [result] = graph_of(item, {"c": constant})
    assert (operators(changed), result.applied) == ([item.op_type, "Neg"], 0)


@pytest.mark.parametrize("item", [node("Mul", "a c", "y"), node("Transpose", "a", "y", perm=[0, 1])])
def test_a_graph_output_is_kept(item):
    model = model_of([node("Neg", "x", "a"), item], {"x": (F, [1, 3])}, {"y": (F, [1, 3])}, {"c": ONE})
    changed, [result] = apply(model, RemoveNoOp())
    assert operators(changed) == ["Neg", item.op_type]
    assert result.near_miss == NearMiss(item.name, "it produces a graph output")
    np.testing.assert_array_equal(execute(changed, x=VALUE)[0], -VALUE)


def test_chains_are_removed_in_one_run():
    nodes = [node("Mul", "x one", "a"), node("Add", "a zero", "b"), node("Div", "b one", "c"), node("Neg", "c", "y")]
    model = model_of(nodes, {"x": (F, [1, 3])}, {"y": (F, [1, 3])}, {"one": ONE, "zero": ZERO})
    changed, [result] = apply(model, RemoveNoOp())
    assert (operators(changed), result.applied) == (["Neg"], 3)


def test_two_constants_are_left_to_folding():
    nodes = [node("Mul", "one c", "a"), node("Add", "x a", "y")]
    model = model_of(nodes, {"x": (F, [1, 3])}, {"y": (F, [1, 3])}, {"one": ONE, "c": np.array(3, F)})
    _changed, [result] = apply(model, RemoveNoOp())
    assert result.applied == 0
