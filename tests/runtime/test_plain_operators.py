"""Operators that ONNX Runtime lacks, expanded, against the float64 reference; the stored bytes stay the same."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from modelopt.torch.quantization.qtensor import MXFP8QTensor, NVFP4QTensor

from edgellm_core.runtime.plain_operators import expand, needs_expansion
from edgellm_core.verification.input_rounding import round_mxfp8, round_nvfp4

OUT, IN = 24, 64
E4M3, E2M1, FLOAT = TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1, TensorProto.FLOAT
NAMES = {"float32": FLOAT, "float16": TensorProto.FLOAT16}


def stored(name, data_type, shape, tensor):
    raw = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor[None].numpy().tobytes()
    return helper.make_tensor(name, data_type, shape, raw, raw=True)


def make_model(nodes, initializers, dtype):
    x = helper.make_tensor_value_info("x", NAMES[dtype], ["batch", "seq", IN])
    y = helper.make_tensor_value_info("y", NAMES[dtype], ["batch", "seq", OUT])
    graph = helper.make_graph(nodes, "linear", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def nvfp4_linear(dtype, input_scale):
    """Return a linear layer as ModelOpt exports it, and its weight as ModelOpt reads it back."""
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))
    packed, scale, scale_2 = NVFP4QTensor.quantize(weight, 16)
    blocks = {"axis": -1, "block_size": 16}
    nodes = [
        helper.make_node(
            "TRT_FP4DynamicQuantize", ["x", "g"], ["x4", "s8"], domain="trt", axis=-1, block_size=16, scale_type=E4M3
        ),
        helper.make_node("DequantizeLinear", ["s8", "g"], ["s"]),
        helper.make_node("DequantizeLinear", ["x4", "s"], ["xf"], **blocks),
        helper.make_node("Cast", ["xf"], ["xr"], to=NAMES[dtype]),
        helper.make_node("DequantizeLinear", ["ws", "ws2"], ["wsf"]),
        helper.make_node("DequantizeLinear", ["w", "wsf"], ["wf"], **blocks),
        helper.make_node("Cast", ["wf"], ["wr"], to=NAMES[dtype]),
        helper.make_node("Transpose", ["wr"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["xr", "wt"], ["y"]),
    ]
    initializers = [
        stored("g", FLOAT, [], torch.tensor(input_scale)), stored("ws2", FLOAT, [], scale_2),
        stored("w", E2M1, [OUT, IN], packed._quantized_data), stored("ws", E4M3, [OUT, IN // 16], scale),
    ]  # fmt: skip
    read = packed.dequantize(torch.float32, scale=scale, double_scale=scale_2, block_sizes={-1: 16})
    return make_model(nodes, initializers, dtype), read


def mxfp8_linear(dtype):
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))
    packed, exponents = MXFP8QTensor.quantize(weight)
    blocks = {"domain": "trt", "axis": -1, "block_size": 32}
    nodes = [
        helper.make_node("TRT_MXFP8DynamicQuantize", ["x"], ["x8", "e"], output_dtype=E4M3, **blocks),
        helper.make_node("TRT_MXFP8DequantizeLinear", ["x8", "e"], ["xr"], output_dtype=NAMES[dtype], **blocks),
        helper.make_node("TRT_MXFP8DequantizeLinear", ["w", "we"], ["wr"], output_dtype=NAMES[dtype], **blocks),
        helper.make_node("Transpose", ["wr"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["xr", "wt"], ["y"]),
    ]
    initializers = [
        stored("w", E4M3, [OUT, IN], packed._quantized_data),
        stored("we", TensorProto.UINT8, [OUT, IN // 32], exponents),
    ]
    return make_model(nodes, initializers, dtype), packed.dequantize(torch.float32, scale=exponents)


def run(model, x, shown=("y",)):
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown if name != "y")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(shown), {"x": x})


def inputs(dtype):
    x = torch.randn(2, 9, IN, generator=torch.Generator().manual_seed(2))
    x[0, 0] = 0
    x[0, 1, :16] *= 1e-7
    x[1, 2, 3] = 80  # larger than what the scale was calibrated with
    x[1, 3, :32] = torch.tensor([448.0, 0.25]).repeat(16)
    return x.to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", NAMES)
def test_nvfp4_computes_what_the_reference_computes(dtype):
    model, weight = nvfp4_linear(dtype, 4.0 / (6 * 448))
    assert needs_expansion(model)
    expand(model)
    assert not needs_expansion(model)
    x = inputs(dtype)
    y, rounded = run(model, x.numpy(), ["y", "xf"])
    wanted = round_nvfp4(x.float(), float(np.float32(4.0 / (6 * 448))), 16)
    assert torch.isclose(torch.from_numpy(rounded), wanted, rtol=1e-6, atol=0).float().mean() > 0.999
    product = torch.from_numpy(rounded).double() @ weight.double().T
    assert torch.allclose(torch.from_numpy(y).double(), product, rtol=0, atol=1e-5 if dtype == "float32" else 0.3)


@pytest.mark.parametrize("dtype", NAMES)
def test_mxfp8_computes_what_the_reference_computes(dtype):
    model, weight = mxfp8_linear(dtype)
    assert needs_expansion(model)
    expand(model)
    assert not needs_expansion(model)
    x = inputs(dtype)
    y, rounded = run(model, x.numpy(), ["y", "xr"])
    assert torch.equal(torch.from_numpy(rounded).float(), round_mxfp8(x.float(), 32).to(getattr(torch, dtype)).float())
    product = torch.from_numpy(rounded).double() @ weight.double().T
    assert torch.allclose(torch.from_numpy(y).double(), product, rtol=0, atol=1e-3 if dtype == "float32" else 4)


@pytest.mark.parametrize("exponent", range(-40, 40))
def test_powers_of_two_are_exact_at_their_edges(exponent):
    """448 · 2^e needs the scale 2^e, and the next number above it 2^(e + 1)."""
    model, _ = mxfp8_linear("float32")
    edge = np.float32(448.0 * 2.0**exponent)
    x = np.zeros((1, 2, IN), np.float32)
    x[0, 0, 0], x[0, 1, 0] = edge, np.nextafter(edge, np.float32(np.inf))
    expand(model)
    (scales,) = run(model, x, ["e"])
    assert scales[0, :, 0].tolist() == [2.0**exponent, 2.0 ** (exponent + 1)]


def test_stored_bytes_do_not_change():
    model, _ = nvfp4_linear("float16", 0.01)
    before = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    expand(model)
    after = {tensor.name: tensor for tensor in model.graph.initializer}
    assert after["w/packed"].raw_data == before["w"]
    assert list(after["w/packed"].dims) == [OUT, IN // 2]
    assert all(after[name].raw_data == before[name] for name in ("ws", "ws2", "g"))


def test_blocks_of_another_axis_are_refused_by_onnx_runtime():
    model, _ = nvfp4_linear("float32", 0.01)
    axis = next(item for item in model.graph.node[5].attribute if item.name == "axis")
    axis.i = 0
    expand(model)
    with pytest.raises(Exception, match="DequantizeLinear"):
        run(model, inputs("float32").numpy())


def test_other_graphs_need_no_expansion():
    model = make_model([helper.make_node("MatMul", ["x", "w"], ["y"])], [], "float32")
    assert not needs_expansion(model)
