"""Joins of parameters become recipes, and the bytes are those of the join."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.events import Reporter
from edgellm_core.weights.binder import bind
from edgellm_core.weights.errors import NonFiniteWeightError, RecipeMismatchError
from edgellm_core.weights.joined import Part, fold_joins, join_recipes
from edgellm_core.weights.recipe import Recipe


def _recipe(name, shape, *sources):
    return Recipe(name=name, element_type="F16", shape=shape, sources=sources or (name,))


def _model():
    nodes = [
        helper.make_node("Gather", ["a", "order"], ["a.turned"], axis=0),
        helper.make_node("Concat", ["a.turned", "b"], ["ab"], axis=0),
        helper.make_node("MatMul", ["x", "ab"], ["y"]),
        helper.make_node("Concat", ["x", "y"], ["z"], axis=0),
        helper.make_node("Gather", ["a", "x"], ["w"], axis=0),
    ]
    order = numpy_helper.from_array(np.array([2, 0, 1]), "order")
    return onnx.ModelProto(graph=onnx.GraphProto(node=nodes, initializer=[order]))


def test_joins_of_parameters_leave_the_graph():
    model = _model()
    assert fold_joins(model, {"a", "b"}) == {"ab": (Part("a", (2, 0, 1)), Part("b"))}
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Concat", "Gather"]
    assert not model.graph.initializer
    assert fold_joins(model, {"a", "b"}) == {}


@pytest.mark.parametrize("chunk_bytes", [8, 1 << 20])
def test_bytes_of_a_join(tmp_path, chunk_bytes):
    random = np.random.default_rng(0)
    tensors = {"a": random.normal(size=(3, 5)).astype(np.float32), "b": random.normal(size=(2, 5)).astype(np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    index = index_tensors(read_headers(tmp_path))
    recipes = [_recipe("a", (3, 5)), _recipe("b", (2, 5))]
    [joined] = join_recipes(recipes, {"ab": (Part("a", (2, 0, 1)), Part("b"))})
    bind([joined], index, tmp_path / "data", report=Reporter("bind"), chunk_bytes=chunk_bytes)
    wanted = np.concatenate([tensors["a"][[2, 0, 1]], tensors["b"]]).astype(np.float16)
    assert joined.shape == (5, 5)
    assert (tmp_path / "data").read_bytes() == wanted.tobytes()


def test_a_bad_number_is_named_by_its_place_in_the_file(tmp_path):
    values = np.zeros((3, 4), np.float32)
    values[2, 1] = np.inf
    save_file({"a": values}, tmp_path / "model.safetensors")
    index = index_tensors(read_headers(tmp_path))
    [joined] = join_recipes([_recipe("a", (3, 4))], {"t": (Part("a", (2, 0, 1)),)})
    with pytest.raises(NonFiniteWeightError, match="9"):
        bind([joined], index, tmp_path / "data", report=Reporter("bind"))


def test_parts_of_several_tensors_keep_their_order():
    made = _recipe("a", (4, 2), "a.0", "a.1")
    [joined] = join_recipes([made, _recipe("b", (1, 2))], {"ab": (Part("a"), Part("b"))})
    assert joined.sources == ("a.0", "a.1", "b")
    with pytest.raises(RecipeMismatchError):
        join_recipes([made], {"t": (Part("a", (1, 0, 2, 3)),)})


def test_an_order_of_some_rows_is_refused():
    with pytest.raises(RecipeMismatchError, match="t"):
        join_recipes([_recipe("a", (4, 2))], {"t": (Part("a", (1, 0)),)})


@pytest.mark.parametrize("indices", [np.array(2), np.array([[0, 1]]), np.array([0, 0]), np.array([0, 2])])
def test_a_choice_of_rows_stays_in_the_graph(indices):
    gather = helper.make_node("Gather", ["a", "order"], ["chosen"], axis=0)
    order = numpy_helper.from_array(indices, "order")
    model = onnx.ModelProto(graph=onnx.GraphProto(node=[gather], initializer=[order]))
    assert fold_joins(model, {"a"}) == {}
    assert [node.op_type for node in model.graph.node] == ["Gather"]
