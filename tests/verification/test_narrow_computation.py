"""Graphs that compute in a narrower type than the original, each made by one edit, are refused with their layer."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto
from transformers import CONFIG_MAPPING

from edgellm_core.events import Reporter
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.verification.errors import NarrowComputationError
from edgellm_core.verification.narrow_computation import require_types_of_original
from edgellm_core.verification.original_precision import count_narrow
from tests.coverage.configs import tiny_config

pytestmark = pytest.mark.slow


def config_of(model_type):
    config = tiny_config(model_type)
    return CONFIG_MAPPING[config.pop("model_type")](**config)


@pytest.fixture(scope="module")
def graph_of(tmp_path_factory):
    """Function from type and precision to the graph, made once."""
    made = {}

    def make(model_type, precision="fp16"):
        if (model_type, precision) not in made:
            folder = tmp_path_factory.mktemp(model_type)
            checkpoint = write_tiny_checkpoint(folder / "checkpoint", tiny_config(model_type))
            out = folder / "bundle"
            build(str(checkpoint), out, BuildSettings(precision=precision, verify="off", engine="none", quality="off"))
            made[model_type, precision] = out / "llm" / "model.onnx"
        return onnx.load(made[model_type, precision], load_external_data=False)

    return make


def check(graph, model_type, precision="fp16"):
    require_types_of_original(graph, config_of(model_type), precision, Reporter("verify"))


def compute_in(graph, element_type, operator, layer):
    """Put a cast before the nodes of an operator in a layer, and one behind."""
    prefix = f"layers.{layer}/" if layer is not None else ""
    changed = 0
    for node in list(graph.graph.node):
        if node.op_type != operator or not node.name.startswith(prefix) or (layer is None and "layers." in node.name):
            continue
        place = list(graph.graph.node).index(node)
        before, after = f"{node.name}.narrow", f"{node.name}.wide"
        casts = [
            onnx.helper.make_node("Cast", [node.input[0]], [before], name=f"{node.name}/narrow", to=element_type),
            onnx.helper.make_node("Cast", [after], [node.output[0]], name=f"{node.name}/wide", to=TensorProto.FLOAT),
        ]
        stale = [value for value in graph.graph.value_info if value.name == node.output[0]]
        for value in stale:
            graph.graph.value_info.remove(value)
        node.input[0], node.output[0] = before, after
        graph.graph.node.insert(place, casts[0])
        graph.graph.node.insert(place + 2, casts[1])
        changed += 1
    assert changed


@pytest.mark.parametrize(
    ("model_type", "precision"),
    [("llama", "fp16"), ("mixtral", "fp16"), ("mamba", "bf16"), ("qwen3_next", "fp16"), ("gpt2", "fp16")],
)
def test_right_graphs_pass(graph_of, model_type, precision):
    check(graph_of(model_type, precision), model_type, precision)


@pytest.mark.parametrize(
    ("model_type", "operator", "layer", "words"),
    [
        ("llama", "Cos", None, "the angles of RoPE in float16 .* outside the decoder layers"),
        ("llama", "Sin", None, "the angles of RoPE in float16"),
        ("mixtral", "Softmax", 1, r"softmax in float16 .* \(Softmax\) in decoder layer 1"),
        ("qwen3_next", "Softmax", 2, r"softmax in float16 .* \(Softmax\) in decoder layer 2"),
        ("qwen3_next", "Exp", 0, r"exponential, .* in decoder layer 0"),
    ],
)
def test_an_operator_in_a_narrow_type_is_refused(graph_of, model_type, operator, layer, words):
    graph = graph_of(model_type)
    compute_in(graph, TensorProto.FLOAT16, operator, layer)
    with pytest.raises(NarrowComputationError, match=words):
        check(graph, model_type)


@pytest.mark.parametrize(("model_type", "operator"), [("llama", "RMSNormalization"), ("gpt2", "LayerNormalization")])
def test_a_norm_that_stashes_a_narrow_type_is_refused(graph_of, model_type, operator):
    graph = graph_of(model_type)
    node = next(one for one in graph.graph.node if one.op_type == operator and one.name.startswith("layers.2/"))
    node.attribute.append(onnx.helper.make_attribute("stash_type", TensorProto.FLOAT16))
    with pytest.raises(NarrowComputationError, match=f"norm in float16 .*{operator}. in decoder layer 2, 1 of .* 0"):
        check(graph, model_type)


def test_frequencies_stored_in_float16_are_refused(graph_of):
    graph = graph_of("llama")
    angle = next(node for node in graph.graph.node if node.op_type == "Cos")
    makers = {output: node for node in graph.graph.node for output in node.output}
    product = makers[angle.input[0]]
    while product.op_type != "Mul":
        product = makers[product.input[0]]
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    side = next(place for place, name in enumerate(product.input) if name in stored)
    name = product.input[side]
    values = onnx.numpy_helper.to_array(stored[name]).astype("float16")
    graph.graph.initializer.append(onnx.numpy_helper.from_array(values, "coarse"))
    cast = onnx.helper.make_node("Cast", ["coarse"], ["coarse.wide"], name="coarse/wide", to=TensorProto.FLOAT)
    graph.graph.node.insert(0, cast)
    product.input[side] = "coarse.wide"
    with pytest.raises(NarrowComputationError, match="the angles of RoPE in float16"):
        check(graph, "llama")


def test_a_softmax_precision_of_attention_that_is_narrow_is_refused(graph_of):
    graph = graph_of("llama")
    node = next(one for one in graph.graph.node if one.op_type == "Attention")
    node.attribute.append(onnx.helper.make_attribute("softmax_precision", TensorProto.FLOAT16))
    with pytest.raises(NarrowComputationError, match=r"\(Attention\) in decoder layer 0"):
        check(graph, "llama")


def test_squares_in_float16_are_refused(graph_of):
    graph = graph_of("llama")
    node = next(one for one in graph.graph.node if one.op_type == "RMSNormalization")
    square = onnx.helper.make_node("Mul", [node.input[0], node.input[0]], ["square"], name="layers.0/square")
    graph.graph.node.insert(list(graph.graph.node).index(node), square)
    with pytest.raises(NarrowComputationError, match=r"computes squares .*'layers.0/square' \(Mul\)"):
        check(graph, "llama")


def test_the_original_widens_norms_angles_and_routers():
    counts = count_narrow(config_of("mixtral"), torch.float16)
    assert [dict(counts) for counts in counts.layers] == [{"gate": 1}] * 4
    assert not counts.outside


def test_each_kind_of_layer_has_counts_of_its_own():
    layers = count_narrow(config_of("jamba"), torch.bfloat16).layers
    assert len({tuple(sorted(counts.items())) for counts in layers}) > 1
    assert len(layers) == config_of("jamba").num_hidden_layers


def test_an_original_that_can_not_run_without_weights_is_told(graph_of, monkeypatch):
    from edgellm_core.tracing.errors import UntraceableModelError

    def fail(*_):
        raise UntraceableModelError("Model", "it looks at its data")

    monkeypatch.setattr("edgellm_core.verification.narrow_computation.count_narrow", fail)
    events = []
    require_types_of_original(graph_of("llama"), config_of("llama"), "fp16", Reporter("verify", events.append))
    assert "it looks at its data" in events[0].message
