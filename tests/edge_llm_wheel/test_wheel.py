"""The wheel's exports are by the contract and hold what the checkpoint holds; ours differ from them as recorded."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from edgellm_core.engine.edge_llm import EdgeLlmEngineForm, builder_config
from edgellm_core.engine.profiles import ProfileLimits, make_profiles
from edgellm_core.targets.edge_llm.fragment_packing import pack_fragments
from edgellm_core.targets.edge_llm.marlin_packing import pack_marlin, scale_order
from tests.edge_llm_wheel.checkpoints import CASES
from tests.edge_llm_wheel.compare import compare_exports, read_config
from tests.edge_llm_wheel.contract import contract_differences
from tests.edge_llm_wheel.results import read_results
from tests.edge_llm_wheel.walk import our_record
from tests.edge_llm_wheel.wheel import builder_ranges, pack_all

pytestmark = pytest.mark.wheel

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids="-".join)
LLAMA = ("llama", "fp16")


@EVERY_CASE
def test_its_export_is_what_the_contract_says(case, theirs, checkpoints):
    assert [str(one) for one in contract_differences(theirs[case], checkpoints[case], case[0])] == []


@EVERY_CASE
def test_our_export_is_as_recorded(case, theirs, checkpoints, tmp_path):
    record = our_record(checkpoints[case], tmp_path / "ours", theirs[case])
    assert record == read_results()["cases"]["-".join(case)]["ours"]


def test_our_packer_writes_the_bits_of_the_wheels(wheel_python, tmp_path):
    rng = np.random.default_rng(5)
    sizes = [(64, 64), (128, 64), (192, 128), (320, 192), (512, 256), (1024, 704)]
    pairs = {f"{n}x{k}": rng.integers(0, 256, (n // 2, k), np.uint8) for n, k in sizes}
    numbers = {
        name: np.stack([(stored & 15) ^ 8, (stored >> 4) ^ 8], axis=1).reshape(-1, stored.shape[1])
        for name, stored in pairs.items()
    }
    packed = pack_all(wheel_python, numbers, tmp_path)
    assert packed.keys() == pairs.keys()
    for name, stored in pairs.items():
        np.testing.assert_array_equal(pack_fragments(stored), packed[name], err_msg=name)


@pytest.mark.parametrize("limits", [(1, 1024, 4096), (4, 31, 300), (3, 1, 128)])
def test_our_profiles_are_those_of_its_builder(limits, wheel_python):
    batch, input_len, capacity = limits
    ours = ProfileLimits(max_batch_size=batch, max_input_len=input_len, max_seq_len=capacity)
    theirs = builder_ranges(wheel_python, ours)
    names = {"num_sequences": "query_lengths", "physical_tokens": "positions", "query_offsets": "query_start_offsets",
             "logits_rows": "logits_indices"}  # fmt: skip
    for profile, their_profile in zip(make_profiles(["prefill", "decode"], ours), theirs["profiles"], strict=True):
        found = {
            theirs_name: [size for (size,) in EdgeLlmEngineForm().input_ranges(name, (-1,), profile)]
            for theirs_name, name in names.items()
        }
        assert found == their_profile
    assert builder_config(ours)["max_kv_pool_pages"] == theirs["pages"][1]


def test_our_packer_of_experts_writes_the_bits_of_the_wheels(wheel_python, tmp_path):
    rng = np.random.default_rng(6)
    sizes = [(64, 16, 1), (64, 128, 4), (192, 64, 2), (256, 128, 1)]
    given, pairs = {}, {}
    for outputs, inputs, groups in sizes:
        name = f"{outputs}x{inputs}"
        pairs[name] = rng.integers(0, 256, (2, outputs // 2, inputs), np.uint8)
        halves = [(pairs[name] & 15) ^ 8, (pairs[name] >> 4) ^ 8]
        given[name] = np.stack(halves, axis=2).reshape(2, outputs, inputs)
        given[f"{name}.scales"] = rng.standard_normal((2, outputs, groups)).astype(np.float16)
    packed = pack_all(wheel_python, given, tmp_path, "pack-experts")
    for (outputs, _inputs, groups), (name, stored) in zip(sizes, pairs.items(), strict=True):
        for expert in range(2):
            np.testing.assert_array_equal(pack_marlin(stored[expert]), packed[name][expert], err_msg=name)
            scales = given[f"{name}.scales"][expert][scale_order(outputs, groups=groups)].T
            np.testing.assert_array_equal(scales, packed[f"{name}.scales"][expert], err_msg=name)


@EVERY_CASE
def test_an_export_does_not_differ_from_itself(case, theirs):
    assert compare_exports(theirs[case], theirs[case]) == []


def wrong_scale(model):
    node = next(node for node in model.graph.node if node.op_type == "AttentionPlugin")
    next(item for item in node.attribute if item.name == "attention_scale").f = 0.25


def swapped_inputs(model):
    node = next(node for node in model.graph.node if node.op_type == "AttentionPlugin")
    node.input[2], node.input[4] = node.input[4], node.input[2]


def renamed_input(model):
    next(value for value in model.graph.input if value.name == "positions").name = "position_ids"


def wider_output(model):
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def older_opset(model):
    next(entry for entry in model.opset_import if not entry.domain).version = 23


def changed_weight(model):
    tensor = next(item for item in model.graph.initializer if list(item.dims) == [256, 512])
    raw = bytearray(tensor.raw_data)
    raw[1] ^= 0x40
    tensor.raw_data = bytes(raw)


def wider_epsilon(model):
    node = next(node for node in model.graph.node if node.op_type == "ReduceMean")
    name = next(one for one in model.graph.node if node.output[0] in one.input).input[1]
    tensor = next(item for item in model.graph.initializer if item.name == name)
    tensor.raw_data = np.float32(1e-3).tobytes()


def nudged_norm(model):
    tensor = next(item for item in model.graph.initializer if "input_layernorm" in item.name)
    raw = bytearray(tensor.raw_data)
    raw[0] ^= 1
    tensor.raw_data = bytes(raw)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (wrong_scale, [("plugin", "trt_edgellm::AttentionPlugin 0 attention_scale")]),
        (swapped_inputs, [("plugin", "trt_edgellm::AttentionPlugin 0 inputs")]),
        (renamed_input, [("input", "4")]),
        (wider_output, [("output", "0")]),
        (older_opset, [("opset", "ai.onnx")]),
        (changed_weight, [("weight", "layers.0.qkv weight")]),
        (wider_epsilon, [("weight", "norms epsilon")]),
        (nudged_norm, [("rounding", "channels.0 weight")]),
    ],
)
def test_a_change_of_the_graph_is_told(change, expected, theirs, checkpoints, tmp_path):
    out = shutil.copytree(theirs[LLAMA], tmp_path / "out")
    model = onnx.load(out / "model.onnx")
    change(model)
    onnx.save(model, out / "model.onnx")
    assert [(one.category, one.subject) for one in compare_exports(out, theirs[LLAMA])] == expected
    found = contract_differences(out, checkpoints[LLAMA], "llama")
    assert [one.category for one in found] == [category for category, _subject in expected]


def test_other_experts_are_told(theirs, checkpoints, tmp_path):
    case = ("qwen3_moe", "fp16")
    out = shutil.copytree(theirs[case], tmp_path / "out")
    model = onnx.load(out / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Fp16MoePlugin")
    next(item for item in node.attribute if item.name == "top_k").i = 2
    tensor = next(item for item in model.graph.initializer if item.name == node.input[2])
    raw = np.frombuffer(tensor.raw_data, np.float16).reshape(tensor.dims)
    tensor.raw_data = np.roll(raw, 64, axis=1).tobytes()  # gates where ups were
    onnx.save(model, out / "model.onnx")
    expected = [
        ("plugin", "trt_edgellm::Fp16MoePlugin 0 top_k"), ("weight", "layers.0.experts gate_up"),
    ]  # fmt: skip
    assert [(one.category, one.subject) for one in compare_exports(out, theirs[case])] == expected
    found = contract_differences(out, checkpoints[case], "qwen3_moe")
    assert [one.category for one in found] == [category for category, _subject in expected]


def test_another_block_of_rounded_inputs_is_told(theirs, tmp_path):
    case = ("llama", "nvfp4")
    out = shutil.copytree(theirs[case], tmp_path / "out")
    model = onnx.load(out / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "TRT_FP4DynamicQuantize")
    next(item for item in node.attribute if item.name == "block_size").i = 32
    onnx.save(model, out / "model.onnx")
    found = compare_exports(out, theirs[case])
    assert [(one.category, one.subject) for one in found] == [("plugin", "trt::TRT_FP4DynamicQuantize")]


def test_changes_of_the_files_are_told(theirs, tmp_path):
    out = shutil.copytree(theirs[LLAMA], tmp_path / "out")
    config = {**read_config(out), "rope_theta": 1.0, "of_ours": True}
    del config["head_dim"]
    (out / "config.json").write_text(json.dumps(config))
    (out / "tokenizer.json").unlink()
    (out / "chat_template.jinja").write_text("{{ messages }}")
    table = load_file(out / "embedding.safetensors")["embedding"]
    save_file({"embedding": table * 2}, out / "embedding.safetensors")
    assert [(one.category, one.subject) for one in compare_exports(out, theirs[LLAMA])] == [
        ("config", "head_dim"), ("config", "rope_theta"), ("file", "tokenizer.json"), ("file", "chat_template.jinja"),
        ("weight", "embedding embedding"),
    ]  # fmt: skip
