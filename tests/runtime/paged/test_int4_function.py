"""The int4 plugin as a function, against products with weights that are packed here by the contract's formula."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgellm_core.runtime.paged.functions import add_functions

SHIFTS = {
    (0, 0, 0): 0, (0, 0, 8): 4, (1, 0, 0): 8, (1, 0, 8): 12, (0, 1, 0): 16, (0, 1, 8): 20, (1, 1, 0): 24, (1, 1, 8): 28,
}  # fmt: skip
"""(upper outputs, odd input, inputs further) → shift of the nibble in a thread's word."""


def fragments(weight):
    """Pack integers -8 … 7 [outputs, inputs], number by number."""
    outputs, inputs = weight.shape
    blocks, tiles = -(-outputs // 128), inputs // 64
    filled = np.zeros((blocks * 128, inputs), np.int64)
    filled[:outputs] = weight
    words = np.zeros((blocks * tiles * 8, 128), np.uint32)
    for row in range(len(words)):
        place, half = divmod(row, 2)
        tile, step = divmod(place, 4)
        block, tile = divmod(tile, tiles)
        for thread in range(128):
            output = block * 128 + thread // 4 + 64 * half
            start = tile * 64 + 16 * step + 2 * (thread % 4)
            word = 0
            for (upper, odd, further), shift in SHIFTS.items():
                word |= int(filled[output + 32 * upper, start + odd + further] + 8) << shift
            words[row, thread] = word
    return words.astype("<u4").view(np.int8)


@pytest.mark.parametrize(("outputs", "inputs", "group"), [(64, 64, 32), (128, 128, 64), (192, 256, 128)])
def test_the_plugin_multiplies_by_the_packed_weight(outputs, inputs, group):
    random = np.random.default_rng(outputs)
    weight = random.integers(-8, 8, (outputs, inputs))
    scales = random.uniform(0.01, 0.1, (inputs // group, outputs)).astype(np.float16)
    x = random.standard_normal((1, 3, inputs)).astype(np.float16)
    node = helper.make_node(
        "Int4GroupwiseGemmPluginV2", ["x", "weight", "scales"], ["y"], domain="trt_edgellm",
        gemm_n=outputs, gemm_k=inputs, group_size=group,
    )  # fmt: skip
    packed = fragments(weight)
    found = _run([node], {"x": x, "weight": packed, "scales": scales})
    dequantized = weight * np.repeat(scales.T.astype(np.float64), group, axis=1)
    np.testing.assert_allclose(found, x.astype(np.float64) @ dequantized.T, rtol=2e-3, atol=2e-3)


def test_queries_keys_and_values_stand_side_by_side():
    parts = {name: np.full((2, width), width, np.float16) for name, width in (("q", 4), ("k", 2), ("v", 3))}
    node = helper.make_node("QkvConcatPlugin", list(parts), ["y"], domain="trt_edgellm")
    found = _run([node], parts)
    assert found.tolist() == [[4.0] * 4 + [2.0] * 2 + [3.0] * 3] * 2


def _run(nodes, arrays):
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    graph = helper.make_graph(nodes, "plugins", inputs, [output])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt_edgellm", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    add_functions(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], arrays)[0]
