from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgellm_core.runtime.float32_twin import BFLOAT16, FLOAT, FLOAT16, has_bfloat16, raise_to_float32

WEIGHT = np.array([[1.0, -2.5], [3.140625, 1e-5]])
TYPES = {BFLOAT16: ml_dtypes.bfloat16, FLOAT16: np.float16}


def model_with_every_form(narrow):
    """A graph with a narrow type in inputs, outputs, value_info, initializers, constants, Cast and a branch."""
    x = helper.make_tensor_value_info("x", narrow, ["n", 2])
    y = helper.make_tensor_value_info("y", narrow, ["n", 2])
    inner = helper.make_tensor_value_info("inner", narrow, ["n", 2])
    raw = numpy_helper.from_array(WEIGHT.astype(TYPES[narrow]), "weight")
    listed = onnx.TensorProto(name="listed", data_type=narrow, dims=[2])
    listed.int32_data.extend(np.array([0.5, -8.0]).astype(TYPES[narrow]).view(np.uint16).tolist())
    branch = helper.make_graph(
        [helper.make_node("Add", ["inner", "offset"], ["branch"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch", narrow, ["n", 2])],
        [numpy_helper.from_array(np.array([4.0, 2.0]).astype(TYPES[narrow]), "offset")],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Constant", [], ["factor"], value=listed),
        helper.make_node("Mul", ["product", "factor"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["single"], to=FLOAT),
        helper.make_node("Cast", ["single"], ["inner"], to=narrow),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "graph", [x], [y], [raw], value_info=[inner])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


@pytest.mark.parametrize("narrow", TYPES)
def test_twin_computes_in_float32_over_the_rounded_weights(narrow):
    model = model_with_every_form(narrow)
    assert has_bfloat16(model) == (narrow == BFLOAT16)
    raise_to_float32(model, narrow)
    onnx.checker.check_model(model, full_check=True)
    x = np.array([[1.0009765625, 2.0], [0.333251953125, -7.0]], np.float32)  # not all of them are bfloat16 numbers
    (actual,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert actual.dtype == np.float32
    product = x @ WEIGHT.astype(TYPES[narrow]).astype(np.float32)
    expected = product * np.array([0.5, -8.0], np.float32) + np.array([4.0, 2.0], np.float32)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(("narrow", "name"), [(BFLOAT16, "bfloat16"), (FLOAT16, "float16")])
def test_only_stored_weights_stay_narrow(narrow, name):
    model = model_with_every_form(narrow)
    raise_to_float32(model, narrow)
    assert {tensor.name for tensor in model.graph.initializer if tensor.data_type == narrow} == {f"weight/{name}"}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        assert value.type.tensor_type.elem_type == FLOAT
    casts = {node.output[0]: node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"}
    assert casts == {"weight": FLOAT, "single": FLOAT, "inner": FLOAT}


@pytest.mark.parametrize("element_type", [FLOAT, onnx.TensorProto.FLOAT16])
def test_other_types_have_no_bfloat16(element_type):
    x = helper.make_tensor_value_info("x", element_type, ["n"])
    y = helper.make_tensor_value_info("y", element_type, ["n"])
    assert not has_bfloat16(
        helper.make_model(helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y]))
    )
