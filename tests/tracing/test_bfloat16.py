"""bfloat16, which numpy lacks: types of the traced and lowered graph, and its numbers in the float32 twin."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from decoders import family_of, fields_of
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgellm_core.runtime.float32_twin import raise_to_float32
from edgellm_core.testing.lowering import (
    lower_config,
    padded_tokens,
    random_model,
    relative_error,
    run_graph,
    run_transformers,
    transformers_config,
    with_weights,
)
from edgellm_core.tracing.graph_import import import_graph

DECODERS = ["llama", "qwen2", "gemma2", "gpt2", "olmo2"]


@pytest.fixture(scope="module", params=DECODERS)
def lowered(request):
    config = transformers_config(fields_of(request.param))
    return config, lower_config(config, family_of(request.param), "bf16")


def test_no_float_of_another_type_enters_or_leaves(lowered):
    _config, made = lowered
    types = {
        value.name: value.type.tensor_type.elem_type for value in [*made.model.graph.input, *made.model.graph.output]
    }
    integers = {"input_ids", "attention_mask", "position_ids"}
    assert all(types[name] == (TensorProto.INT64 if name in integers else TensorProto.BFLOAT16) for name in types)
    assert {spec.element_type for spec in made.template.parameters.values()} == {"BF16"}


def test_the_layers_compute_in_bfloat16(lowered):
    """Types of all values, as ONNX's own inference finds them: float32 only in RoPE's angles and in norms by hand."""
    config, made = lowered
    model = with_weights(made, random_model(config))
    onnx.checker.check_model(model)
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    types.update({value.name: value.type.tensor_type.elem_type for value in inferred.graph.output})
    for node in inferred.graph.node:
        if node.op_type in {
            "MatMul",
            "Attention",
            "RMSNormalization",
            "LayerNormalization",
            "RotaryEmbedding",
            "Concat",
        }:
            found = {types[name] for name in node.output if name in types} & {TensorProto.FLOAT, TensorProto.FLOAT16}
            assert not found or "rotary" in node.name or node.op_type in {"MatMul", "Concat"}, node.name
    hidden = [name for name in types if name.startswith("hidden_states.")]
    assert hidden
    assert all(types[name] == TensorProto.BFLOAT16 for name in hidden)


def test_its_float32_twin_is_close_to_transformers(lowered):
    """bfloat16 has 8 bits in weights and none lost in the twin's activations."""
    config, made = lowered
    model = random_model(config)
    bound = with_weights(made, model)
    raise_to_float32(bound)
    ids, mask = padded_tokens([0, 3], 9, config.vocab_size)
    found = run_graph(bound, ids, mask, [8, 1])
    assert relative_error(found, run_transformers(model, ids, mask, [8, 1]), mask) < 6e-2


def graph_with_constant():
    constant = numpy_helper.from_array(np.array([1.5, 2.5]).astype(helper.tensor_dtype_to_np_dtype(16)), "c")
    node = helper.make_node("Mul", ["x", "c"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [2]) for name in "xy")
    graph = helper.make_graph([node], "g", [x], [y], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


def test_an_imported_graph_keeps_bfloat16(capfd):
    graph = import_graph(graph_with_constant())
    assert str(graph.inputs[0].dtype) == str(graph.outputs[0].dtype) == "bfloat16"
    constant = graph.nodes[0].inputs[1]
    assert str(constant.values.dtype) == "bfloat16"
    exported = gs.export_onnx(graph)
    assert exported.graph.initializer[0].data_type == TensorProto.BFLOAT16
    assert numpy_helper.to_array(exported.graph.initializer[0]).astype(np.float32).tolist() == [1.5, 2.5]
    assert exported.graph.input[0].type.tensor_type.elem_type == TensorProto.BFLOAT16
    assert capfd.readouterr() == ("", "")


def test_an_imported_graph_shares_nothing_with_the_model():
    model = graph_with_constant()
    graph = import_graph(model)
    graph.nodes[0].inputs[1].name = "renamed"
    gs.export_onnx(graph)
    assert model.graph.initializer[0].name == "c"
