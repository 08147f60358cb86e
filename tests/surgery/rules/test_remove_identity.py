"""Identity, FullLength and casts to the own type: gone, unless a graph output needs them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from small_graphs import apply, execute, model_of, node, operators, semantic

from edgellm_core.surgery.rule import NearMiss
from edgellm_core.surgery.rules.remove_identity import RemoveIdentity

F = np.float32
X = {"x": (F, [2])}
Y = {"y": (F, [2])}
VALUE = np.array([1.5, -2], F)


@pytest.mark.parametrize(
    "first",
    [
        node("Identity", "x", "a"),
        semantic("FullLength", "x", "a"),
        node("Cast", "x", "a", to=TensorProto.FLOAT),
    ],
    ids=lambda item: item.op_type,
)
def test_a_node_that_hands_its_input_on_is_removed(first):
    changed, [result] = apply(model_of([first, node("Neg", "a", "y")], X, Y), RemoveIdentity())
    assert (operators(changed), result.applied) == (["Neg"], 1)
    np.testing.assert_array_equal(execute(changed, x=VALUE)[0], -VALUE)


def test_chains_and_branches_are_removed_in_one_run():
    nodes = [
        node("Neg", "x", "a"), node("Identity", "a", "b"), node("Identity", "b", "c"), node("Identity", "b", "d"),
        node("Add", "c d", "y"),
    ]  # fmt: skip
    changed, [result] = apply(model_of(nodes, X, Y), RemoveIdentity())
    assert (operators(changed), result.applied) == (["Neg", "Add"], 3)
    np.testing.assert_array_equal(execute(changed, x=VALUE)[0], -2 * VALUE)


def test_a_graph_output_behind_an_identity_keeps_its_name():
    changed, [result] = apply(model_of([node("Neg", "x", "a"), node("Identity", "a", "y")], X, Y), RemoveIdentity())
    assert (operators(changed), result.applied) == (["Neg"], 1)
    np.testing.assert_array_equal(execute(changed, x=VALUE)[0], -VALUE)


def test_a_graph_output_with_other_consumers_keeps_its_name():
    nodes = [node("Neg", "x", "a"), node("Identity", "a", "y"), node("Abs", "a", "b"), node("Exp", "y", "c")]
    outputs = {"b": (F, [2]), "y": (F, [2]), "c": (F, [2])}
    changed, [result] = apply(model_of(nodes, X, outputs), RemoveIdentity())
    assert result.applied == 1
    found = execute(changed, x=VALUE)
    for ours, theirs in zip(found, [np.abs(VALUE), -VALUE, np.exp(-VALUE)], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


SECOND_NAME = "it gives a graph output a second name"


@pytest.mark.parametrize(
    ("nodes", "outputs", "constants"),
    [
        ([node("Identity", "x", "y")], ["y"], {}),
        ([node("Identity", "c", "y")], ["y"], {"c": VALUE}),
        ([node("Neg", "x", "z"), node("Identity", "z", "y")], ["z", "y"], {}),
        ([semantic("FullLength", "x", "y")], ["y"], {}),
    ],
    ids=["input", "constant", "output", "full length"],
)
def test_a_copy_that_an_output_needs_stays(nodes, outputs, constants):
    model = model_of(nodes, X, {name: (F, [2]) for name in outputs}, constants)
    changed, [result] = apply(model, RemoveIdentity())
    assert operators(changed) == [item.op_type for item in nodes]
    assert (result.applied, result.near_miss) == (0, NearMiss(nodes[-1].name, SECOND_NAME))


def test_of_two_copies_for_outputs_one_stays():
    nodes = [node("Neg", "x", "a"), node("Identity", "a", "y"), node("Identity", "a", "z")]
    changed, [result] = apply(model_of(nodes, X, {"z": (F, [2]), "y": (F, [2])}), RemoveIdentity())
    assert (operators(changed), result.applied) == (["Neg", "Identity"], 1)
    assert result.near_miss == NearMiss("Identity:z", SECOND_NAME)
    np.testing.assert_array_equal(execute(changed, x=VALUE), [-VALUE, -VALUE])


@pytest.mark.parametrize(
    ("dtype", "to"),
    [(F, TensorProto.FLOAT16), (np.int64, TensorProto.INT32), (ml_dtypes.bfloat16, TensorProto.FLOAT)],
)
def test_a_cast_to_another_type_stays(dtype, to):
    model = model_of(
        [node("Cast", "x", "a", to=to), node("Shape", "a", "y")], {"x": (dtype, [2])}, {"y": (np.int64, [1])}
    )
    changed, [result] = apply(model, RemoveIdentity())
    assert (operators(changed), result.applied, result.near_miss) == (["Cast", "Shape"], 0, None)


def test_a_bfloat16_cast_to_bfloat16_is_removed():
    nodes = [node("Cast", "x", "a", to=TensorProto.BFLOAT16), node("Neg", "a", "y")]
    kind = (ml_dtypes.bfloat16, [2])
    changed, [result] = apply(model_of(nodes, {"x": kind}, {"y": kind}), RemoveIdentity())
    assert (operators(changed), result.applied) == (["Neg"], 1)


def test_a_cast_of_an_unknown_type_stays():
    nodes = [node("Abs", "x", "a"), node("Cast", "a", "b", to=TensorProto.FLOAT), node("Neg", "b", "y")]
    changed, [result] = apply(model_of(nodes, X, Y), RemoveIdentity())
    assert (operators(changed), result.applied) == (["Abs", "Cast", "Neg"], 0)


def test_operators_of_these_names_elsewhere_stay():
    nodes = [node("Identity", "x", "a", domain="other"), node("FullLength", "a", "y", domain="other")]
    model = model_of(nodes, X, Y)
    model.opset_import.add(domain="other", version=1)
    changed, [result] = apply(model, RemoveIdentity())
    assert (operators(changed), result.applied) == (["Identity", "FullLength"], 0)
