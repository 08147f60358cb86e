"""``edgellm surgery --target edge-llm`` on files that torch.onnx and transformers made."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from foreign_decoders import EXPORTERS, TINY, decoder
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from edgellm_core import simplify_onnx
from edgellm_core.errors import EdgellmError, InvalidSettingError, UserError
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.foreign.errors import OutputExistsError
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.runtime.paged.functions import add_functions
from edgellm_core.runtime.paged.rope import rope_of
from edgellm_core.runtime.paged.session import GraphFiles, PagedGraph, Step, read_table
from edgellm_core.targets.edge_llm import fuse_attention
from edgellm_core.testing.checkpoints import write_family_checkpoint
from edgellm_core.verification.session import load_graph


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Function from an exporter, a kind of model and changes of its config to the file and the model, made once."""
    made = {}

    def export(exporter, model_type, attention="sdpa", **changes):
        key = exporter, model_type, attention, repr(changes)
        if key not in made:
            model = decoder(model_type, attention, **changes)
            path = tmp_path_factory.mktemp("exported") / "decoder.onnx"
            EXPORTERS[exporter](model, path)
            made[key] = path, model
        return made[key]

    return export


@pytest.fixture(autouse=True)
def _nothing_is_left_here(tmp_path_factory, monkeypatch):
    """Tools of ONNX Runtime leave files in the folder where they run."""
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    yield
    assert list(here.iterdir()) == []


def plugins_of(path):
    nodes = onnx.load(path, load_external_data=False).graph.node
    found = [node for node in nodes if node.op_type == "AttentionPlugin"]
    return [{one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in found]


def logits_of(path, ids, config):
    """Run a rewritten file as the runtime does, with the angles of a config.json, token by token after three."""
    model = onnx.load(path, load_external_data=False)
    add_functions(model)
    session = load_graph(model, path.parent, [], widened=False)

    def cos_sin(positions):
        return rope_of(config, int(positions.max()) + 1).cos_sin(positions)

    graph = PagedGraph(session, GraphFiles(path, read_table(path.with_name("embedding.safetensors")), cos_sin))
    graph.start(len(ids))
    bounds = [0, 3, *range(4, ids.shape[1] + 1)]
    parts = []
    for start, end in pairwise(bounds):
        positions = np.tile(np.arange(start, end), (len(ids), 1))
        parts.append(graph.run(Step(ids[:, start:end], np.ones((len(ids), end), np.int64), positions))[0])
    return np.concatenate(parts, axis=1)


ANGLES = {"rope_scaling": None, "rope_theta": 10000.0, "head_dim": 8, "partial_rotary_factor": 1.0}
QWEN3 = {"enable_qk_norm": 1, "qk_norm_post_rope": 0}


@pytest.mark.parametrize(
    ("exporter", "model_type", "attention", "changes", "attributes"),
    [
        ("torch", "llama", "sdpa", {}, {"enable_qk_norm": 0}),
        ("torch-23", "qwen3", "sdpa", {"num_key_value_heads": 4}, {**QWEN3, "num_kv_heads": 4}),
        ("torchscript", "llama", "eager", {}, {}),
        ("torchscript", "llama", "sdpa", {}, {}),  # attention in float32 between float16 layers, as optimum exports it
        ("without-cache", "mistral", "sdpa", {"sliding_window": 4}, {"sliding_window_size": 4}),
        ("transformers", "llama", "sdpa", {}, {}),
    ],
)
def test_a_decoder_becomes_the_runtime_s(exporter, model_type, attention, changes, attributes, exported, tmp_path):
    path, model = exported(exporter, model_type, attention, **changes)
    out = tmp_path / "model.onnx"
    result = simplify_onnx(path, out, target="edge-llm")
    left = {op: result.operators_after.get(op, 0) for op in ("trt_edgellm::AttentionPlugin", "RMSNormalization")}
    assert left == {"trt_edgellm::AttentionPlugin": 2, "RMSNormalization": 5}
    assert result.check.cases == 4
    expected = {"num_q_heads": 4, "num_kv_heads": 2, "head_size": 8, "sliding_window_size": -1, **attributes}
    for plugin in plugins_of(out):
        assert {key: plugin[key] for key in expected} == expected
        assert plugin["attention_scale"] == pytest.approx(8**-0.5, rel=1e-3)  # float16 of the file
    assert difference(out, model, ANGLES) < 0.01


def difference(path, model, angles):
    """Largest difference of a rewritten file's logits from those of transformers, relative to the largest."""
    ids = np.random.default_rng(5).integers(3, 61, (2, 9))
    with torch.no_grad():
        right = model.float()(torch.from_numpy(ids)).logits.numpy()
    model.half()
    return np.abs(logits_of(path, ids, angles) - right).max() / np.abs(right).max()


def test_pairs_of_neighbouring_channels_become_halves(exported, tmp_path):
    path, model = exported("torch", "glm4", pad_token_id=0)
    simplify_onnx(path, tmp_path / "model.onnx", target="edge-llm")
    assert difference(tmp_path / "model.onnx", model, {**ANGLES, "partial_rotary_factor": 0.5}) < 0.01


def test_a_window_that_no_step_of_the_comparison_reaches(exported, tmp_path):
    path, _ = exported("without-cache", "mistral", sliding_window=40, num_hidden_layers=1)
    simplify_onnx(path, tmp_path / "model.onnx", target="edge-llm")
    assert [plugin["sliding_window_size"] for plugin in plugins_of(tmp_path / "model.onnx")] == [40]


def test_sizes_have_no_use(exported, tmp_path):
    path, _ = exported("torch", "llama")
    with pytest.raises(InvalidSettingError, match="--dim has no use"):
        simplify_onnx(path, tmp_path / "model.onnx", target="edge-llm", dims={"batch": 2})
    assert list(tmp_path.iterdir()) == []


def interface_of(path):
    """Names, element types and shapes of inputs and outputs."""
    graph = onnx.load(path, load_external_data=False).graph
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    }


def test_inputs_and_outputs_are_those_of_a_build(exported, tmp_path):
    path, _ = exported("torch", "llama")
    simplify_onnx(path, tmp_path / "model.onnx", target="edge-llm")
    family = PluginHost.load(environ={}).select({}, forced="llama").family
    config = {**family.tiny_config(), **TINY, "tie_word_embeddings": False}
    write_family_checkpoint(tmp_path / "checkpoint", family, config=config)
    settings = BuildSettings(target="edge-llm", precision="fp16", engine="none")
    bundle = build(str(tmp_path / "checkpoint"), tmp_path / "bundle", settings)
    ours, built = interface_of(tmp_path / "model.onnx"), interface_of(bundle.model_path)
    assert list(ours) == list(built)
    assert ours == built


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_simplified_files_are_taken_too(attention, exported, tmp_path):
    path, _ = exported("torchscript", "llama", attention)
    result = simplify_onnx(path, tmp_path / "simple.onnx")
    assert (result.operators_after["Attention"], result.operators_after["RMSNormalization"]) == (2, 5)
    assert simplify_onnx(tmp_path / "simple.onnx", tmp_path / "model.onnx", target="edge-llm").check.cases == 4


def test_the_table_and_the_weights(exported, tmp_path):
    path, model = exported("torch", "llama")
    simplify_onnx(path, tmp_path / "model.onnx", target="edge-llm")
    table = load_file(tmp_path / "embedding.safetensors")["embedding"]
    np.testing.assert_array_equal(table, model.get_input_embeddings().weight.detach().numpy())
    assert (tmp_path / "decoder.onnx.data").read_bytes() == path.with_name("decoder.onnx.data").read_bytes()
    with pytest.raises(OutputExistsError, match=r"embedding\.safetensors exists already"):
        simplify_onnx(path, tmp_path / "other.onnx", target="edge-llm")
    simplify_onnx(path, tmp_path / "other.onnx", target="edge-llm", force=True)


def test_a_file_of_4_gib_keeps_its_weights_unread(exported, tmp_path):
    path, _ = exported("torch", "llama")
    model = onnx.load(path)
    head = next(node for node in model.graph.node if "logits" in node.output).input[1]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == head)
    rows, columns = 32, 1 << 26
    weight.ClearField("raw_data")
    weight.dims[:] = [rows, columns]
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "big.data"), ("offset", 0), ("length", 2 * rows * columns)):
        weight.external_data.add(key=key, value=str(value))
    with (tmp_path / "big.data").open("wb") as file:
        os.truncate(file.fileno(), 2 * rows * columns)
    for tensor in model.graph.initializer:
        if tensor is not weight:
            tensor.ClearField("external_data")
    (tmp_path / "big.onnx").write_bytes(model.SerializeToString())
    events = []
    simplify_onnx(
        tmp_path / "big.onnx", tmp_path / "model.onnx", target="edge-llm", check="off", listener=events.append
    )
    assert interface_of(tmp_path / "model.onnx")["logits"] == (1, ["num_sequences", columns])
    assert max(event.peak_rss_mib for event in events) < 2000  # the weight alone has 4096 MiB
    assert (tmp_path / "big.data").stat().st_blocks == 0


def _changed(monkeypatch, **wrong):
    right = fuse_attention._attributes
    monkeypatch.setattr(fuse_attention, "_attributes", lambda pattern: {**right(pattern), **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"attention_scale": 0.3},
        {"sliding_window_size": 6},
        {"num_q_heads": 2, "num_kv_heads": 3},
        {"enable_qk_norm": 0, "qk_norm_post_rope": 0, "attention_scale": -0.35},
    ],
)
def test_a_wrong_attribute_is_caught_and_leaves_no_file(wrong, exported, tmp_path, monkeypatch):
    path, _ = exported("torch", "llama")
    _changed(monkeypatch, **wrong)
    with pytest.raises(EdgellmError, match="Nothing was written"):
        simplify_onnx(path, tmp_path / "model.onnx", target="edge-llm")
    assert list(tmp_path.iterdir()) == []


def _node(graph, op, index=0):
    return [node for node in graph.node if node.op_type == op][index]


def _insert(graph, node, op, constant=None, **attributes):
    """Let an operator change the first input of a node."""
    made = f"{node.input[0]}.{op}"
    inputs = [node.input[0]]
    if constant is not None:
        graph.initializer.append(numpy_helper.from_array(constant, f"{made}.constant"))
        inputs.append(f"{made}.constant")
    position = list(graph.node).index(node)
    graph.node.insert(position, helper.make_node(op, inputs, [made], **attributes))
    graph.node[position + 1].input[0] = made


def _later_keys(graph):
    _node(graph, "LessOrEqual").op_type = "GreaterOrEqual"


def _bias(graph):
    """Add a number to the logits of keys that are seen."""
    graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float16), "half"))
    _node(graph, "Where").input[1] = "half"


def _angles(graph):
    """Let angles grow with the root of the position."""
    doubled = next(node for node in graph.node if _node(graph, "Cos").input[0] in node.output)
    position, maker = next((i, node) for i, node in enumerate(graph.node) if doubled.input[0] in node.output)
    graph.node.insert(position + 1, helper.make_node("Sqrt", ["linear"], [maker.output[0]]))
    graph.node[position].output[0] = "linear"


def _more_outputs(graph):
    hidden = _node(graph, "MatMul", -1).input[0]
    graph.output.append(helper.make_tensor_value_info(hidden, onnx.TensorProto.FLOAT16, ["batch", "seq", 32]))


def _more_inputs(graph):
    graph.input.append(helper.make_tensor_value_info("factor", onnx.TensorProto.FLOAT16, []))
    head = _node(graph, "MatMul", -1)
    position = list(graph.node).index(head)
    graph.node.insert(position, helper.make_node("Mul", [head.input[0], "factor"], ["scaled"]))
    graph.node[position + 1].input[0] = "scaled"


def _tokens_mixed(graph):
    head = _node(graph, "MatMul", -1)
    _insert(graph, head, "CumSum", np.array(1), reverse=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_later_keys, "that of the attention .* shows keys that causality, a window and padding hide"),
        (_bias, "that of the attention .* hides, or adds numbers to, keys that causality and a window show"),
        (_angles, r"the tables of .* differ from that by \d"),
        (_more_outputs, "its outputs besides the cache have to be logits"),
        (_more_inputs, "its input 'factor' is none of ids, mask, positions and cache"),
        (_tokens_mixed, r"\(CumSum\): it depends on the axes of a batch"),
    ],
)
def test_what_the_runtime_does_not_do_is_refused_by_name(damage, message, exported, tmp_path):
    path, _ = exported("torch", "llama")
    model = onnx.load(path)
    damage(model.graph)
    onnx.save(model, tmp_path / "damaged.onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=message):
        simplify_onnx(tmp_path / "damaged.onnx", tmp_path / "out" / "model.onnx", target="edge-llm")
    assert list((tmp_path / "out").iterdir()) == []
