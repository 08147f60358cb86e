"""Raising a graph to a later opset."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgellm_core.surgery.errors import OpsetError
from edgellm_core.surgery.opset import opset_of, raise_opset


def model_of(node, opset, shape=(2, 3, 4), constants=None, outputs=("y",)):
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


OTHER = "Normalization: the later opset gives it another meaning"
REDUCTIONS = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp"]
NODES = {
    **{f"{op} over {a}": helper.make_node(op, ["x"], ["y"], axes=a) for op in REDUCTIONS for a in ([-1], [0, 2])},
    "ReduceMean over all": helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0),
    "Softmax": helper.make_node("Softmax", ["x"], ["y"], axis=1),
    "Reshape": helper.make_node("Reshape", ["x", "shape"], ["y"]),
    "Cast": helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT),
    "Transpose": helper.make_node("Transpose", ["x"], ["y"], perm=[2, 0, 1]),
    "Pad": helper.make_node("Pad", ["x", "pads"], ["y"]),
    "Clip": helper.make_node("Clip", ["x"], ["y"]),
}  # fmt: skip
CONSTANTS = {"Reshape": {"shape": np.array([0, -1])}, "Pad": {"pads": np.array([0, 1, 0, 0, 0, 2])}}


@pytest.mark.parametrize("opset", [13, 14, 17])
@pytest.mark.parametrize("name", NODES)
def test_an_operator_means_the_same_after_it(name, opset):
    model = model_of(NODES[name], opset, constants=CONSTANTS.get(name))
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    before = run(model, x)
    raise_opset(model, 23)
    model.ir_version = 11
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
    assert opset_of(model) == 23
    np.testing.assert_array_equal(run(model, x)[0], before[0])


def test_a_split_in_equal_parts():
    node = helper.make_node("Split", ["x"], ["y", "z"], axis=2)
    model = model_of(node, 13, outputs=("y", "z"))
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    raise_opset(model, 23)
    model.ir_version = 11
    for ours, expected in zip(run(model, x), np.split(x, 2, 2), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("node", "opset", "reason"),
    [
        (helper.make_node("Relu", ["x"], ["y"]), 12, "graphs before opset 13 are not raised"),
        (helper.make_node("Upsample", ["x", "s"], ["y"]), 13, "operator Upsample: the later opset has no such"),
        (helper.make_node("GroupNormalization", ["x", "s", "s"], ["y"], num_groups=1), 18, f"operator Group{OTHER}"),
        (helper.make_node("RoiAlign", ["x", "s", "s"], ["y"]), 13, "operator RoiAlign: the later opset gives it"),
        (helper.make_node("Nonsense", ["x"], ["y"]), 17, "operator Nonsense: the file's or the later opset"),
    ],
)  # fmt: skip
def test_what_can_not_be_raised_is_named(node, opset, reason):
    with pytest.raises(OpsetError, match=f"from opset {opset} to 23, which can't be done: {reason}"):
        raise_opset(model_of(node, opset), 23)


def test_casts_are_raised_to_24():
    model = model_of(NODES["Cast"], 20)
    raise_opset(model, 24)
    model.ir_version = 11
    x = np.array([[[0.5, -2.0]]], np.float32)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape))
    assert opset_of(model) == 24
    np.testing.assert_array_equal(run(model, x)[0], x)


@pytest.mark.parametrize("opset", [23, 24])
def test_a_later_graph_stays_as_it_is(opset):
    model = model_of(helper.make_node("Nonsense", ["x"], ["y"]), opset)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    before = list(model.graph.node)
    raise_opset(model, 23)
    assert opset_of(model) == opset
    assert {item.domain: item.version for item in model.opset_import} == {"": opset, "com.microsoft": 1}
    assert list(model.graph.node) == before


def test_bodies_of_branches_are_raised_too():
    body = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0])],
        "body",
        [],
        [helper.make_tensor_value_info("m", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    model = model_of(node, 13, constants={"c": np.array(True)})
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    raise_opset(model, 23)
    model.ir_version = 11
    np.testing.assert_allclose(run(model, x)[0], x.mean(0, keepdims=True), rtol=1e-6)
