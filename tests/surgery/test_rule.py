"""What a rule is written with: expectations, names, and the editor."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import execute, export, model_of, node

from edgellm_core.surgery.rule import Editor, Expected, Rule, semantic
from edgellm_core.tracing.graph_import import import_graph

F = np.float32
TWO = {"x": (F, [2]), "y": (F, [2])}


def small_graph():
    return import_graph(model_of([node("Add", "x y", "z")], TWO, {"z": (F, [2])}))


@pytest.mark.parametrize(
    ("expected", "text", "json"),
    [
        (Expected.exactly(3), "3", 3),
        (Expected(), "≥ 0", (0, None)),
        (Expected(2), "≥ 2", (2, None)),
        (Expected(1, 4), "1–4", (1, 4)),
        (Expected.exactly(0), "0", 0),
    ],
)
def test_expectations_print_and_serialise(expected, text, json):
    assert str(expected) == text
    assert expected.as_json() == json


@given(st.integers(0, 9), st.none() | st.integers(0, 9), st.integers(0, 12))
def test_an_expectation_contains_what_lies_between_its_bounds(low, high, count):
    assert (count in Expected(low, high)) == (count >= low and (high is None or count <= high))


def test_a_rule_is_named_after_its_class_unless_it_has_a_name():
    class SplitQkv(Rule):
        def match(self, node, graph):
            return False

        def rewrite(self, node, edit):
            raise NotImplementedError

    class Named(SplitQkv):
        name = "other"

    class Inherited(Named):
        pass

    assert (SplitQkv.name, Named.name, Inherited.name) == ("SplitQkv", "other", "Inherited")
    assert SplitQkv().expected(None) == Expected()
    assert SplitQkv.stage == "lower"


def test_equal_constants_share_one_initializer():
    edit = Editor(small_graph())
    assert edit.constant([1, 2]) is edit.constant(np.array([1, 2]))
    assert edit.constant(0.0, F) is edit.constant(0.0, F)
    different = [
        edit.constant(0), edit.constant([0]), edit.constant(0, np.int32), edit.constant(0.0, F), edit.constant(-0.0, F),
        edit.constant(0.0, np.float16), edit.constant(0.0, ml_dtypes.bfloat16), edit.constant([0, 0]),
        edit.constant([[0], [0]]), edit.constant([[0, 0]]),
    ]  # fmt: skip
    assert len({constant.name for constant in different}) == len(different)
    assert len({id(constant) for constant in different}) == len(different)


def test_a_constant_of_an_earlier_rule_is_found_again():
    graph = small_graph()
    first = Editor(graph)
    constant = first.constant([3, 4])
    graph.nodes[0].inputs[1] = constant
    assert Editor(graph).constant([3, 4]) is constant
    assert Editor(graph).constant([3, 5]) is not constant


def test_a_node_takes_the_type_of_its_like():
    graph = small_graph()
    edit = Editor(graph)
    new = edit.node("Neg", [graph.inputs[0]], "n", name="Neg", like=graph.inputs[0])
    untyped = edit.node("Cast", [new], "m", name="Cast", to=7)
    assert (new.name, new.dtype, untyped.dtype) == ("n", F, None)
    assert [item.op for item in edit.added] == ["Neg", "Cast"]
    assert edit.added[1].attrs == {"to": 7}
    assert edit.graph_input("y") is graph.inputs[1]


def test_shared_values_are_made_once_and_apart():
    graph = small_graph()
    edit, made = Editor(graph), []

    def make():
        made.append(True)
        return edit.node("Neg", [graph.inputs[0]], "negative", name="Neg")

    assert edit.shared("key", make) is edit.shared("key", make)
    edit.node("Abs", [graph.inputs[0]], "positive", name="Abs")
    assert len(made) == 1
    assert [item.op for item in edit.shared_nodes] == ["Neg"]
    assert [item.op for item in edit.added] == ["Abs"]


def test_replace_reaches_every_consumer_and_input():
    graph = import_graph(
        model_of([node("Add", "x x", "a"), node("Mul", "a a", "b"), node("Sub", "b a", "z")], TWO, {"z": (F, [2])})
    )
    Editor(graph).replace(graph.nodes[0].outputs[0], graph.inputs[1])
    assert [tensor.name for tensor in graph.nodes[1].inputs] == ["y", "y"]
    assert [tensor.name for tensor in graph.nodes[2].inputs] == ["b", "y"]


def test_a_replaced_graph_output_keeps_its_name_and_place():
    outputs = {"first": (F, [2]), "second": (F, [2])}
    graph = import_graph(model_of([node("Neg", "x", "first"), node("Abs", "y", "second")], TWO, outputs))
    replacement = gs.Variable("new", F, [2])
    graph.nodes.append(gs.Node("Exp", "Exp", {}, [graph.inputs[1]], [replacement]))
    Editor(graph).replace(graph.outputs[0], replacement)
    graph.cleanup()
    assert [output.name for output in graph.outputs] == ["first", "second"]
    x = np.array([1, 2], F)
    np.testing.assert_allclose(execute(export(graph), x=x, y=x)[0], np.exp(x), rtol=1e-6)


def test_semantic_operators_are_told_by_domain():
    graph = import_graph(
        model_of([node("Add", "x y", "a"), node("Add", "a y", "z", domain="edgellm")], TWO, {"z": (F, [2])})
    )
    assert [semantic(item, "Add") for item in graph.nodes] == [False, True]
    assert not semantic(graph.nodes[1], "Sub")
