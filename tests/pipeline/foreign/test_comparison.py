"""How far a rewritten graph may be from the file that it was made from."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgellm_core.pipeline.foreign.comparison import limit_of, rounds_to_half


def model_of(*nodes, weight):
    return helper.make_model(helper.make_graph(nodes, "g", [], [], [numpy_helper.from_array(weight, "w")]))


@pytest.mark.parametrize(
    ("dtype", "node", "expected"),
    [
        (np.float32, helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT), False),
        (np.float32, helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT16), True),
        (np.float16, helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT), True),
        (np.int64, helper.make_node("Identity", ["w"], ["y"]), False),
    ],
)
def test_graphs_that_hold_float16_numbers(dtype, node, expected):
    assert rounds_to_half(model_of(node, weight=np.ones(2, dtype))) == expected


@pytest.mark.parametrize(
    ("dtype", "half", "limit"),
    [("float32", False, 1e-4), ("float32", True, 2e-2), ("float16", True, 2e-2), ("int64", True, 0), ("bool", True, 0)],
)
def test_limits(dtype, half, limit):
    assert limit_of(dtype, rounds_to_half=half) == limit
