"""Quantized linear layers for TensorRT-Edge-LLM: nodes, initializers and numbers, against their definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from safetensors.torch import save_file
from small_graphs import NOTHING, model_of, node, semantic

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.errors import NoFormError
from edgellm_core.events import Reporter
from edgellm_core.quantization.formats import FP8, INT4, INT8_SQ, MXFP8, NVFP4
from edgellm_core.quantization.model import QuantizedLinear, QuantizedModel
from edgellm_core.surgery.run import run_rules
from edgellm_core.targets.edge_llm.fragment_packing import UnalignedInt4Error, unpack_fragments
from edgellm_core.targets.edge_llm.quantized_linear import (
    ConcatToQkvConcat,
    give_int4_three_axes,
    quantized_linears,
)
from edgellm_core.tracing.graph_import import import_graph
from edgellm_core.weights.binder import bind
from edgellm_core.weights.errors import RecipeMismatchError, UnsupportedCastError
from edgellm_core.weights.external_data import attach

OUTPUTS, INPUTS = 192, 256
CODES = {"U8": np.uint8, "I8": np.int8}
FORMS = {"fp8": FP8, "int8": INT8_SQ, "int4": INT4, "int4-smoothed": replace(INT4, smoothed=True), "nvfp4": NVFP4,
         "nvfp4-weights": replace(NVFP4, input="none"), "mxfp8": MXFP8}  # fmt: skip


def stored_layer(form):
    """Return random tensors of a layer by suffix, as they lie on disk."""
    rng, stored = np.random.default_rng(7), {}
    for suffix, (element_type, shape) in form.tensors(OUTPUTS, INPUTS).items():
        if element_type == "F8_E4M3":
            stored[suffix] = torch.from_numpy(rng.standard_normal(shape)).to(torch.float8_e4m3fn)
        elif element_type in CODES:
            limits = np.iinfo(CODES[element_type])
            codes = rng.integers(limits.min, limits.max + 1, shape, CODES[element_type])
            stored[suffix] = torch.from_numpy(codes)
        else:
            stored[suffix] = torch.from_numpy(np.array(rng.integers(8, 32, shape) / 2**11, np.float32))
    return stored


def form_of(form, *, outputs=OUTPUTS, inputs=INPUTS):
    linear = QuantizedLinear(module="layer", weight="layer.weight", form=form, outputs=outputs, inputs=inputs)
    return quantized_linears("edge-llm", QuantizedModel(element_type="F16", linears={"layer.weight": linear}))


def lowered(folder, form, inputs="x layer.weight"):
    """Return the stored tensors, and the graph of one layer with its weights bound."""
    stored = stored_layer(form)
    save_file({f"layer.{name}": tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors")
    shapes = {"x": ["n", INPUTS], "layer.weight": [OUTPUTS, INPUTS]}
    given = {name: (np.float16, shape) for name, shape in shapes.items()}
    bias = {"bias": np.arange(OUTPUTS, dtype=np.float16)}
    model = model_of([semantic("Linear", inputs, "y")], given, {"y": (np.float16, ["n", OUTPUTS])}, bias)
    graph = import_graph(model)
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name == "x"]
    made = form_of(form)
    [result] = run_rules(graph, made.rules, NOTHING)
    assert (result.applied, str(result.expected)) == (1, "1")
    changed = gs.export_onnx(graph.cleanup().toposort())
    tensors = index_tensors(read_headers(folder))
    layout = bind(
        list(made.recipes), tensors, folder / "model.onnx.data", report=Reporter("bind"), chunk_bytes=4096
    ).layout
    attach(changed, list(made.recipes), layout)
    onnx.save(changed, folder / "model.onnx")
    return stored, onnx.load(folder / "model.onnx")


def arrays_of(model):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize(("form", "nodes"), [
    ("fp8", ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Transpose", "MatMul"]),
    ("int8", ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Transpose", "MatMul"]),
    ("int4", ["trt_edgellm::Int4GroupwiseGemmPluginV2"]),
    ("int4-smoothed", ["Mul", "trt_edgellm::Int4GroupwiseGemmPluginV2"]),
    ("nvfp4", ["trt::TRT_FP4DynamicQuantize", "DequantizeLinear", "DequantizeLinear", "Cast", "DequantizeLinear",
               "DequantizeLinear", "Cast", "Transpose", "MatMul"]),
    ("nvfp4-weights", ["DequantizeLinear", "DequantizeLinear", "Cast", "Transpose", "MatMul"]),
    ("mxfp8", ["trt::TRT_MXFP8DynamicQuantize", "trt::TRT_MXFP8DequantizeLinear", "trt::TRT_MXFP8DequantizeLinear",
               "Transpose", "MatMul"]),
])  # fmt: skip
def test_the_nodes_are_those_of_the_contract(tmp_path, form, nodes):
    _stored, model = lowered(tmp_path, FORMS[form])
    found = [f"{node.domain}::{node.op_type}".removeprefix("::") for node in model.graph.node]
    assert sorted(found) == sorted(nodes)
    assert model.graph.output[0].name == "y"


def test_the_plugin_computes_with_the_weight_of_the_checkpoint(tmp_path):
    stored, model = lowered(tmp_path, INT4, "x layer.weight bias")
    plugin, add = model.graph.node
    assert list(plugin.input) == ["x", "layer.weight", "layer.weight_scale"]
    settings = {item.name: item.i for item in plugin.attribute}
    assert settings == {"gemm_n": OUTPUTS, "gemm_k": INPUTS, "group_size": 128}
    assert [add.op_type, *add.input, *add.output] == ["Add", plugin.output[0], "bias", "y"]
    arrays = arrays_of(model)
    assert (arrays["layer.weight"].dtype, arrays["layer.weight"].shape) == (np.int8, (2 * 4 * 8, 512))
    np.testing.assert_array_equal(unpack_fragments(arrays["layer.weight"], OUTPUTS, INPUTS), stored["weight"].numpy())
    np.testing.assert_array_equal(arrays["layer.weight_scale"], stored["weight_scale"].half().numpy().T)


@pytest.mark.parametrize(("outputs", "inputs"), [(96, 256), (128, 224)])
def test_a_size_that_the_plugin_does_not_take_is_refused(outputs, inputs):
    with pytest.raises(UnalignedInt4Error, match=rf"int4 layer 'layer' .* \[{outputs}, {inputs}\]"):
        form_of(replace(INT4, block_size=32), outputs=outputs, inputs=inputs)


def test_zero_points_are_refused():
    with pytest.raises(NoFormError, match=r"Target 'edge-llm' has no form for uint4 weights"):
        form_of(replace(INT4, weight="uint4"))


def test_a_model_without_quantized_layers_needs_nothing():
    assert quantized_linears("edge-llm", QuantizedModel(element_type="F16")).rules == ()


@pytest.mark.parametrize(("tensor", "error"), [
    (torch.zeros(OUTPUTS // 2, INPUTS // 2, dtype=torch.uint8), RecipeMismatchError),
    (torch.zeros(OUTPUTS // 2, INPUTS, dtype=torch.int8), UnsupportedCastError),
])  # fmt: skip
def test_a_source_that_can_not_be_packed_is_refused(tmp_path, tensor, error):
    save_file({"layer.weight": tensor}, tmp_path / "model.safetensors")
    recipes = [recipe for recipe in form_of(INT4).recipes if recipe.packing]
    with pytest.raises(error, match=r"layer\.weight"):
        bind(recipes, index_tensors(read_headers(tmp_path)), tmp_path / "data", report=Reporter("bind"))


def plugin(inputs, outputs):
    return node("Int4GroupwiseGemmPluginV2", inputs, outputs, domain="trt_edgellm")


def int4_attention(join, *, biased=False):
    """Return a graph of three int4 products of one value, joined in front of an attention."""
    last = [plugin("x w s", "v1"), node("Add", "v1 bias", "v")] if biased else [plugin("x w s", "v")]
    nodes = [plugin("x w s", "q"), plugin("x w s", "k"), *last, node("Concat", join, "qkv", axis=-1),
             node("AttentionPlugin", "qkv", "y", domain="trt_edgellm")]  # fmt: skip
    kind = (np.float16, ["n", 64])
    inputs = {"x": kind, "p": kind, "w": (np.int8, [8, 512]), "s": (np.float16, [1, 64])}
    model = model_of(nodes, inputs, {"y": kind}, {"bias": np.ones(64, np.float16)})
    return import_graph(model)


@pytest.mark.parametrize(("join", "biased", "count"), [("q k v", False, 1), ("q k v", True, 1), ("q k p", False, 0)])
def test_three_int4_products_are_joined_by_the_plugin(join, biased, count):
    graph = int4_attention(join, biased=biased)
    [result] = run_rules(graph, [ConcatToQkvConcat()], NOTHING)
    assert result.applied == count
    attention = next(found for found in graph.nodes if found.op == "AttentionPlugin")
    joined = attention.inputs[0].inputs[0]
    assert joined.op == ("QkvConcatPlugin" if count else "Concat")
    assert [tensor.name for tensor in joined.inputs] == join.split()


def test_int4_plugins_take_three_axes():
    graph = int4_attention("q k v")
    give_int4_three_axes(graph)
    wide = [found for found in graph.nodes if found.op == "Unsqueeze"]
    assert len(wide) == 1
    assert wide[0].inputs[1].values.tolist() == [0]
    plugins = [found for found in graph.nodes if found.op == "Int4GroupwiseGemmPluginV2"]
    assert all(found.inputs[0] is wide[0].outputs[0] for found in plugins)
    narrow = [found.outputs[0].outputs[0] for found in plugins]
    assert {found.op for found in narrow} == {"Squeeze"}
    assert sorted(found.outputs[0].name for found in narrow) == ["k", "q", "v"]
    order = [found.op for found in graph.nodes]
    assert order.index("Unsqueeze") < order.index("Int4GroupwiseGemmPluginV2") < order.index("Squeeze")


def test_a_graph_without_int4_stays_as_it_is():
    graph = import_graph(model_of([node("Relu", "x", "y")], {"x": (np.float16, [1])}, {"y": (np.float16, [1])}))
    give_int4_three_axes(graph)
    assert [found.op for found in graph.nodes] == ["Relu"]
