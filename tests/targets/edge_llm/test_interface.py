"""Inputs, outputs and files of a graph are literally those of the contract."""

from __future__ import annotations

import json
import struct

import numpy as np
from safetensors.numpy import load_file

T, N = "physical_tokens", "num_sequences"
FLOAT, INT32, INT64, FLOAT16 = 1, 6, 7, 10


def _described(values):
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]


def test_inputs_and_outputs(edge_llm):
    graph = edge_llm("llama").model.graph
    pool = [2, "num_pages", 128, 2, 20]
    assert _described(graph.input) == [
        ("inputs_embeds", FLOAT16, [T, 96]),
        *((f"past_key_values_{layer}", FLOAT16, pool) for layer in range(3)),
        ("rope_rotary_cos_sin", FLOAT, [T, 20]),
        ("positions", INT32, [T]),
        ("query_start_offsets", INT32, [f"{N} + 1"]),
        ("query_lengths", INT32, [N]),
        ("past_lengths", INT32, [N]),
        ("attention_sequence_lengths", INT32, [N]),
        ("state_indices", INT32, [N]),
        ("execution_phase_marker", INT32, ["execution_phase_extent"]),
        ("context_sequence_count_carrier", INT32, ["num_context_sequences"]),
        ("kv_page_table", INT32, [N, 2, "max_pages_per_seq"]),
        ("logits_indices", INT64, [N]),
    ]
    assert _described(graph.output) == [
        ("logits", FLOAT, [N, 131]),
        *((f"present_key_values_{layer}", FLOAT16, pool) for layer in range(3)),
    ]


def test_opset_and_domains(edge_llm):
    assert {(one.domain, one.version) for one in edge_llm("llama").model.opset_import} == {("", 24), ("trt_edgellm", 1)}


def test_inputs_of_the_plugin_are_in_order(edge_llm):
    def inputs(family):
        node = next(node for node in edge_llm(family).model.graph.node if node.op_type == "AttentionPlugin")
        assert node.domain == "trt_edgellm"
        return list(node.input)

    before = ["past_key_values_0", "query_lengths", "rope_rotary_cos_sin", "past_lengths", "kv_page_table"]
    after = [
        "query_start_offsets", "attention_sequence_lengths", "execution_phase_marker", "context_sequence_count_carrier",
    ]  # fmt: skip
    assert inputs("llama")[1:] == [*before, *after]
    norms = [f"model.layers.0.self_attn.{name}_norm.weight" for name in "qk"]
    assert inputs("qwen3")[1:] == [*before, *norms, *after]


def test_projections_are_joined_in_the_weights(edge_llm):
    built = edge_llm("qwen2")
    graph, stored = built.model.graph, load_file(built.checkpoint / "model.safetensors")
    data = (built.bundle.llm / "model.onnx.data").read_bytes()
    for kind in ("weight", "bias"):
        names = [f"model.layers.1.self_attn.{one}_proj.{kind}" for one in "qkv"]
        tensor = next(one for one in graph.initializer if one.name == f"model.layers.1.self_attn.qkv_proj.{kind}")
        place = {entry.key: entry.value for entry in tensor.external_data}
        start = int(place["offset"])
        found = np.frombuffer(data[start : start + int(place["length"])], np.float16).reshape(tuple(tensor.dims))
        wanted = np.concatenate([stored[name] for name in names]).astype(np.float16)
        assert np.array_equal(found, wanted)
    assert not [node for node in graph.node if node.op_type == "Concat"]


def test_embedding_file(edge_llm):
    built = edge_llm("llama")
    path = built.bundle.llm / "embedding.safetensors"
    wanted = load_file(built.checkpoint / "model.safetensors")["model.embed_tokens.weight"].astype(np.float16)
    assert list(load_file(path)) == ["embedding"]
    assert np.array_equal(load_file(path)["embedding"], wanted)
    with path.open("rb") as file:
        assert (8 + struct.unpack("<Q", file.read(8))[0]) % 4096 == 0
    names = {tensor.name for tensor in built.model.graph.initializer}
    assert "model.embed_tokens.weight" not in names


def test_config_of_the_runtime(edge_llm):
    built = edge_llm("llama")
    config = json.loads((built.bundle.llm / "config.json").read_text(encoding="utf-8"))
    stated = json.loads((built.checkpoint / "config.json").read_text(encoding="utf-8"))
    assert set(config) == {
        "model", "spec_decode_type", "engine_role", "edgellm_version", "vocab_size", "hidden_size", "intermediate_size",
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
        "rope_theta", "rope_scaling", "partial_rotary_factor", "num_deepstack_features",
        "use_vision_bidirectional_attention", "rms_norm_eps", "attention_scaling", "ple_enabled", "num_ple_inputs",
        "ple_hidden_size", "kv_cache_dtype", "eos_token_id",
    }  # fmt: skip
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    assert {key: config[key] for key in same} == {key: stated[key] for key in same}
    assert config["attention_scaling"] == 20**-0.5
    assert config["rope_scaling"]["type"] == config["rope_scaling"]["rope_type"] == "llama3"
    assert config["edgellm_version"] == "0.11.0"


def test_tokenizer_and_chat_template_lie_beside_it(edge_llm):
    files = {path.name for path in edge_llm("llama").bundle.llm.iterdir()}
    assert files == {
        "model.onnx", "model.onnx.data", "config.json", "embedding.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
