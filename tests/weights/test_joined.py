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

SHAPES = {"a": (3, 5), "b": (2, 5)}


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
    assert fold_joins(model, SHAPES) == {"ab": (Part("a", (2, 0, 1)), Part("b"))}
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Concat", "Gather"]
    assert not model.graph.initializer
    assert fold_joins(model, SHAPES) == {}


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
    assert fold_joins(model, SHAPES) == {}
    assert [node.op_type for node in model.graph.node] == ["Gather"]


STACK = np.arange(2 * 6 * 5, dtype=np.float32).reshape(2, 6, 5)
ORDER = (4, 5, 0, 1, 3, 2)


def test_rows_of_the_items_of_a_stack_leave_the_graph():
    order = numpy_helper.from_array(np.array(ORDER), "order")
    gathers = [helper.make_node("Gather", [name, "order"], [f"{name}.turned"], axis=1) for name in ("stack", "flat")]
    uses = [helper.make_node("MatMul", ["x", f"{name}.turned"], [f"{name}.y"]) for name in ("stack", "flat")]
    join = helper.make_node("Concat", ["stack.turned", "stack"], ["joined"], axis=0)
    model = onnx.ModelProto(graph=onnx.GraphProto(node=[*gathers, *uses, join], initializer=[order]))
    found = fold_joins(model, {"stack": (2, 6, 5), "flat": (5, 6)})
    assert found == {"stack.turned": (Part("stack", ORDER, of_items=True),)}
    assert [node.op_type for node in model.graph.node] == ["Gather", "MatMul", "MatMul", "Concat"]


@pytest.mark.parametrize(
    "tensors",
    [
        {"stack": STACK},
        {"0": STACK[0], "1": STACK[1]},
        {"0.gate": STACK[0, :3], "0.up": STACK[0, 3:], "1.gate": STACK[1, :3], "1.up": STACK[1, 3:]},
    ],
    ids=["one", "items", "halves"],
)
@pytest.mark.parametrize("chunk_bytes", [8, 1 << 20])
def test_bytes_of_a_reordered_stack(tmp_path, tensors, chunk_bytes):
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, tmp_path / "model.safetensors")
    index = index_tensors(read_headers(tmp_path))
    [made] = join_recipes([_recipe("s", (2, 6, 5), *tensors)], {"t": (Part("s", ORDER, of_items=True),)})
    bind([made], index, tmp_path / "data", report=Reporter("bind"), chunk_bytes=chunk_bytes)
    assert (tmp_path / "data").read_bytes() == STACK[:, list(ORDER)].astype(np.float16).tobytes()


def test_a_bad_number_of_a_reordered_stack_is_named_by_its_place_in_the_file(tmp_path):
    values = np.zeros((3, 5), np.float32)
    values[2, 1] = np.inf
    save_file({"gate": np.zeros((3, 5), np.float32), "up": values}, tmp_path / "model.safetensors")
    index = index_tensors(read_headers(tmp_path))
    [made] = join_recipes([_recipe("s", (1, 6, 5), "gate", "up")], {"t": (Part("s", ORDER, of_items=True),)})
    with pytest.raises(NonFiniteWeightError, match=r"up.*11"):
        bind([made], index, tmp_path / "data", report=Reporter("bind"))


def test_an_order_of_some_rows_of_a_stack_is_refused():
    with pytest.raises(RecipeMismatchError, match="t"):
        join_recipes([_recipe("s", (2, 6, 5))], {"t": (Part("s", (1, 0), of_items=True),)})
