"""A graph with attached weights runs in ONNX Runtime; a graph that does not fit its initializers is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgellm_core.events import Reporter
from edgellm_core.settings import ELEMENT_BYTES, PAIRED_TYPES
from edgellm_core.weights.binder import bind, plan_layout
from edgellm_core.weights.errors import InitializerBindingError
from edgellm_core.weights.external_data import ONNX_TYPES, attach
from edgellm_core.weights.recipe import Recipe

WEIGHT = Recipe(name="proj.weight", element_type="F32", shape=(4, 3), sources=("proj.weight",), transpose=True)
BIAS = Recipe(name="proj.bias", element_type="F32", shape=(3,), sources=("proj.bias",))


def linear_model(*, weight: str = "proj.weight") -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", weight], ["product"]),
        helper.make_node("Add", ["product", "proj.bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_attached_weights_run(write_tensors, tmp_path):
    weight, bias = torch.randn(3, 4).bfloat16(), torch.randn(3).half()
    index = write_tensors({"proj.weight": weight, "proj.bias": bias})
    model, recipes = linear_model(), [WEIGHT, BIAS]
    result = bind(recipes, index, tmp_path / "model.onnx.data", report=Reporter("bind"))
    attach(model, recipes, result.layout)
    onnx.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    x = np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    expected = torch.nn.functional.linear(torch.from_numpy(x), weight.float(), bias.float())
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("element_type", list(ELEMENT_BYTES))
def test_every_element_type_has_an_onnx_type_of_its_width(element_type):
    number = TensorProto.DataType.Value(ONNX_TYPES[element_type])
    assert helper.tensor_dtype_to_np_dtype(number).itemsize == ELEMENT_BYTES[element_type]


@pytest.mark.parametrize("element_type", PAIRED_TYPES)
def test_types_of_which_a_byte_holds_two_have_an_onnx_type_of_four_bits(element_type):
    tensor = TensorProto(data_type=TensorProto.DataType.Value(ONNX_TYPES[element_type]), dims=[2], raw_data=b"\x21")
    codes = numpy_helper.to_array(tensor).view(np.uint8) & 15
    assert codes.tolist() == [1, 2]
    assert Recipe(name="w", element_type=element_type, shape=(3, 4), sources=("w",)).nbytes == 6


def test_unused_initializer_is_refused():
    recipes = [WEIGHT, BIAS, Recipe(name="idle", element_type="F32", shape=(1,), sources=("idle",))]
    with pytest.raises(InitializerBindingError, match="does not use: 'idle'"):
        attach(linear_model(), recipes, plan_layout(recipes))


def test_name_without_value_is_refused():
    with pytest.raises(InitializerBindingError, match=r"nothing defines: 'proj\.bias'"):
        attach(linear_model(), [WEIGHT], plan_layout([WEIGHT]))


def test_second_initializer_of_a_name_is_refused():
    model, recipes = linear_model(), [WEIGHT, BIAS]
    attach(model, recipes, plan_layout(recipes))
    with pytest.raises(InitializerBindingError, match=r"More than one .*'proj\.weight', 'proj\.bias'"):
        attach(model, recipes, plan_layout(recipes))


def test_weights_used_inside_a_branch_count_as_used():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["proj.weight"], ["chosen"])],
        "branch",
        [],
        [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [4, 3])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)],
        "choice",
        [helper.make_tensor_value_info("condition", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])],
    )
    model = helper.make_model(graph)
    attach(model, [WEIGHT], plan_layout([WEIGHT]))
    assert [tensor.name for tensor in model.graph.initializer] == ["proj.weight"]
