from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgellm_core.runtime.float32_twin import BFLOAT16, FLOAT, has_bfloat16, raise_to_float32

WEIGHT = np.array([[1.0, -2.5], [3.140625, 1e-20]]).astype(ml_dtypes.bfloat16)


def model_with_every_form():
    """A graph with bfloat16 in inputs, outputs, value_info, initializers, constants, Cast and a branch."""
    x = helper.make_tensor_value_info("x", BFLOAT16, ["n", 2])
    y = helper.make_tensor_value_info("y", BFLOAT16, ["n", 2])
    inner = helper.make_tensor_value_info("inner", BFLOAT16, ["n", 2])
    raw = numpy_helper.from_array(WEIGHT, "weight")
    listed = onnx.TensorProto(name="listed", data_type=BFLOAT16, dims=[2])
    listed.int32_data.extend(np.array([0.5, -8.0]).astype(ml_dtypes.bfloat16).view(np.uint16).tolist())
    branch = helper.make_graph(
        [helper.make_node("Add", ["inner", "offset"], ["branch"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch", BFLOAT16, ["n", 2])],
        [numpy_helper.from_array(np.array([4.0, 2.0]).astype(ml_dtypes.bfloat16), "offset")],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Constant", [], ["factor"], value=listed),
        helper.make_node("Mul", ["product", "factor"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["single"], to=FLOAT),
        helper.make_node("Cast", ["single"], ["inner"], to=BFLOAT16),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "graph", [x], [y], [raw], value_info=[inner])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def test_twin_computes_in_float32_over_the_rounded_weights():
    model = model_with_every_form()
    assert has_bfloat16(model)
    raise_to_float32(model)
    onnx.checker.check_model(model, full_check=True)
    x = np.array([[1.0009765625, 2.0], [0.333251953125, -7.0]], np.float32)  # not all of them are bfloat16 numbers
    (actual,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert actual.dtype == np.float32
    expected = (x @ WEIGHT.astype(np.float32)) * np.array([0.5, -8.0], np.float32) + np.array([4.0, 2.0], np.float32)
    np.testing.assert_array_equal(actual, expected)


def test_only_stored_weights_stay_bfloat16():
    model = model_with_every_form()
    raise_to_float32(model)
    assert not has_bfloat16(model) or {t.name for t in model.graph.initializer if t.data_type == BFLOAT16} == {
        "weight/bfloat16"
    }
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
