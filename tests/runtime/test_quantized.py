"""Which quantized graphs have their weights dequantized while they are loaded, and that this changes no result."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgellm_core.runtime import quantized
from edgellm_core.runtime.quantized import FLOAT32_INPUTS, FOLDED_WEIGHTS, session_settings

TYPES = {"fp8": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8, "int4": TensorProto.INT4,
         "uint4": TensorProto.UINT4, "fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}  # fmt: skip


def model_with(*kinds, elements=8):
    tensors = [TensorProto(name=kind, data_type=TYPES[kind], dims=[elements]) for kind in kinds]
    return helper.make_model(helper.make_graph([], "graph", [], [], tensors))


@pytest.mark.parametrize(("kinds", "folded"), [
    (("fp16",), False), (("fp32",), False),
    (("fp8", "fp16"), True), (("fp8", "fp32"), True),
    (("int8", "fp16"), True), (("int8", "fp32"), False),
    (("int4", "fp16"), False), (("uint4", "fp32"), False), (("int4", "fp8", "fp16"), False),
])  # fmt: skip
def test_weights_without_a_fast_kernel_are_dequantized_once(kinds, folded):
    assert session_settings(model_with(*kinds)) == [FLOAT32_INPUTS, *([FOLDED_WEIGHTS] if folded else [])]


@pytest.mark.parametrize(("free", "folded"), [(4000, True), (3999, False)])
def test_only_what_fits_into_half_of_the_free_memory_is(monkeypatch, free, folded):
    monkeypatch.setattr(quantized, "available_memory", lambda: free)
    assert (FOLDED_WEIGHTS in session_settings(model_with("fp8", "fp16", elements=1000))) is folded


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_results_are_the_same(kind):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 0x70, (16, 8), dtype=np.uint8).tobytes()
    initializers = [
        helper.make_tensor("w", TYPES[kind], [16, 8], raw, raw=True),
        numpy_helper.from_array(np.float32(0.01), "s"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TYPES[kind]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    shapes = {"x": [3, 16], "y": [3, 8]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.checker.check_model(model)
    x = rng.standard_normal((3, 16)).astype(np.float32)
    found = []
    for settings in ([FLOAT32_INPUTS], [FLOAT32_INPUTS, FOLDED_WEIGHTS]):
        options = onnxruntime.SessionOptions()
        for setting in settings:
            options.add_session_config_entry(*setting)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"x": x})[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-6)
