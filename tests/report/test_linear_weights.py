"""Bytes of linear layers: whatever unpacks the weight, without embedding and head."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgellm_core.report.linear_weights import linear_weights


def graph_of(nodes, tensors):
    """Return a model from ids to logits over the given nodes."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    return helper.make_model(helper.make_graph(nodes, "g", [ids], [logits], initializer=tensors))


def table(name, *shape):
    return numpy_helper.from_array(np.zeros(shape, np.float16), name)


EMBED = helper.make_node("Gather", ["embed", "ids"], ["x"])
HEAD = [
    helper.make_node("Transpose", ["embed"], ["embed_t"], perm=[1, 0]),
    helper.make_node("MatMul", ["y", "embed_t"], ["raw"]),
    helper.make_node("Tanh", ["raw"], ["capped"]),
    helper.make_node("Cast", ["capped"], ["logits"], to=TensorProto.FLOAT),
]
FLOATS = [
    helper.make_node("Transpose", ["w"], ["w_t"], perm=[1, 0]),
    helper.make_node("MatMul", ["x", "w_t"], ["y"]),
]
INT4 = [
    helper.make_node("DequantizeLinear", ["packed", "scale"], ["w"], axis=1, block_size=4),
    helper.make_node("Transpose", ["w"], ["w_t"], perm=[1, 0]),
    helper.make_node("MatMul", ["x", "w_t"], ["y"]),
]
INPUT_SCALED = [
    helper.make_node("QuantizeLinear", ["x", "input_scale"], ["xq"]),
    helper.make_node("DequantizeLinear", ["xq", "input_scale"], ["xd"]),
    helper.make_node("DequantizeLinear", ["packed", "scale"], ["w"]),
    helper.make_node("MatMul", ["xd", "w"], ["y"]),
]
PACKED4 = helper.make_tensor("packed", TensorProto.INT4, [8, 8], bytes(32), raw=True)
PACKED8 = numpy_helper.from_array(np.zeros((8, 8), np.int8), "packed")


@pytest.mark.parametrize(
    ("layer", "tensors", "expected"),
    [
        (FLOATS, [table("w", 8, 8)], (128, 64)),
        (INT4, [PACKED4, table("scale", 8, 2)], (32 + 32, 64)),
        (INPUT_SCALED, [PACKED8, table("scale"), table("input_scale")], (64 + 2, 64)),
    ],
    ids=["float16", "int4 in blocks", "int8 with scaled inputs"],
)
def test_bytes_and_weights(layer, tensors, expected):
    assert linear_weights(graph_of([EMBED, *layer, *HEAD], [table("embed", 10, 8), *tensors])) == expected


def test_a_weight_that_two_layers_share_counts_once():
    twice = [
        *FLOATS[:1],
        helper.make_node("MatMul", ["x", "w_t"], ["z"]),
        helper.make_node("MatMul", ["z", "w_t"], ["y"]),
    ]
    assert linear_weights(graph_of([EMBED, *twice, *HEAD], [table("embed", 10, 8), table("w", 8, 8)])) == (128, 64)


def test_bytes_of_a_data_file_are_those_that_the_graph_names():
    weight = table("w", 8, 8)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "x.data"), ("length", "128")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    assert linear_weights(graph_of([EMBED, *FLOATS, *HEAD], [table("embed", 10, 8), weight])) == (128, 64)
