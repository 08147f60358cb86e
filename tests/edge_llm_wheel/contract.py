"""What TensorRT-Edge-LLM 0.11 takes for a plain decoder in float16, written out: names, types, shapes, attributes."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.edge_llm_wheel.compare import Difference, compare_weights, plugin_nodes, read_config
from tests.edge_llm_wheel.graph import Graph, described
from tests.edge_llm_wheel.stored import stored_scales, stored_weights
from tests.edge_llm_wheel.weights import exported_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Value = tuple[str, str, tuple[int | str, ...]]

OPSET: Final = 24

PAGE: Final = 128
"""Tokens of a page of the KV cache."""


def inputs(config: dict[str, Any]) -> list[Value]:
    """Return name, element type and shape of the inputs, in order.

    Args:
        config: that of the export.
    """
    sequences = ("num_sequences",)
    rotary = int(config["head_dim"] * config["partial_rotary_factor"])
    return [
        ("inputs_embeds", "FLOAT16", ("physical_tokens", config["hidden_size"])),
        *caches(config, "past"),
        ("rope_rotary_cos_sin", "FLOAT", ("physical_tokens", rotary)),
        ("positions", "INT32", ("physical_tokens",)),
        ("query_start_offsets", "INT32", ("num_sequences + 1",)),
        ("query_lengths", "INT32", sequences),
        ("past_lengths", "INT32", sequences),
        ("attention_sequence_lengths", "INT32", sequences),
        ("state_indices", "INT32", sequences),
        ("execution_phase_marker", "INT32", ("execution_phase_extent",)),
        ("context_sequence_count_carrier", "INT32", ("num_context_sequences",)),
        ("kv_page_table", "INT32", ("num_sequences", 2, "max_pages_per_seq")),
        ("logits_indices", "INT64", sequences),
    ]


def outputs(config: dict[str, Any]) -> list[Value]:
    """Return name, element type and shape of the outputs, in order."""
    return [("logits", "FLOAT", ("num_sequences", config["vocab_size"])), *caches(config, "present")]


def caches(config: dict[str, Any], tense: str) -> list[Value]:
    """Return the paged KV pools, keys first."""
    kind = {"fp16": "FLOAT16", "fp8": "FLOAT8E4M3FN"}[config["kv_cache_dtype"]]
    shape = (2, "num_pages", PAGE, config["num_key_value_heads"], config["head_dim"])
    return [(f"{tense}_key_values_{layer}", kind, shape) for layer in range(config["num_hidden_layers"])]


def attention(
    config: dict[str, Any], layer: int, *, scales: list[float], head_norms: bool, after_rope: bool
) -> dict[str, Any]:
    """Return attributes, inputs and outputs of the attention of a layer.

    Args:
        config: that of the export.
        layer: its index.
        scales: of queries, keys and values in fp8.
        head_norms: whether queries and keys are normalized by head.
        after_rope: whether that is done after RoPE.
    """
    gammas = [f"FLOAT16[{config['head_dim']}]"] * (2 if head_norms else 0)
    return {
        "num_q_heads": config["num_attention_heads"],
        "num_kv_heads": config["num_key_value_heads"],
        "head_size": config["head_dim"],
        "enable_tree_attention": 0,
        "enable_fp8_kv_cache": int(config["kv_cache_dtype"] == "fp8"),
        "enable_context_mask_selector": 0,
        "enable_vision_block_attention": 0,
        "sliding_window_size": -1,
        "qkv_scales": scales,
        "attention_scale": config["head_dim"] ** -0.5,
        "skip_softmax_scale_factor": 0.0,
        "rms_norm_eps": float(np.float32(config["rms_norm_eps"] if head_norms else 1e-6)),  # unused without them
        "enable_qk_norm": int(head_norms),
        "qk_norm_post_rope": int(after_rope),
        "enable_kv_shared": 0,
        "enable_attention_sink": 0,
        "enable_contiguous_query_swa": 0,
        "plugin_version": "1",
        "inputs": [
            "computed", f"past_key_values_{layer}", "query_lengths", "rope_rotary_cos_sin", "past_lengths",
            "kv_page_table", *gammas, "query_start_offsets", "attention_sequence_lengths", "execution_phase_marker",
            "context_sequence_count_carrier",
        ],
        "outputs": ["computed", f"present_key_values_{layer}"],
    }  # fmt: skip


ALWAYS_IN_CONFIG: Final = (
    "model", "spec_decode_type", "engine_role", "edgellm_version", "vocab_size", "hidden_size", "intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
    "rope_theta", "rope_scaling", "partial_rotary_factor", "num_deepstack_features",
    "use_vision_bidirectional_attention", "rms_norm_eps", "attention_scaling", "ple_enabled", "num_ple_inputs",
    "ple_hidden_size", "kv_cache_dtype", "eos_token_id",
)  # fmt: skip
"""Keys of config.json that each of the checkpoints gets; eos_token_id only where the checkpoint states it."""

EXPERTS_IN_CONFIG: Final = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "enable_moe_block")
"""Keys that a mixture of experts has besides."""

HEAD_NORMS: Final = {"qwen3": False, "qwen3_moe": False, "hunyuan_v1_dense": True}
"""Families that normalize queries and keys by head → whether they do it after RoPE."""


def contract_differences(export: Path, checkpoint: Path, family: str) -> list[Difference]:
    """Return how an export differs from the tables above, and its weights from those of its checkpoint.

    Args:
        export: folder with ``model.onnx`` and ``config.json``.
        checkpoint: what was exported.
        family: its ``model_type``.
    """
    graph, config = Graph(export / "model.onnx"), read_config(export)
    return [
        *_interface_differences(graph, config),
        *_attention_differences(graph, config, checkpoint, family),
        *_experts_differences(graph, config),
        *(Difference("config", name, "nothing", "a value") for name in ALWAYS_IN_CONFIG if name not in config),
        *compare_weights(exported_weights(graph), stored_weights(checkpoint)),
    ]


def _interface_differences(graph: Graph, config: dict[str, Any]) -> Iterator[Difference]:
    opset = next(entry.version for entry in graph.model.opset_import if not entry.domain)
    if opset != OPSET:
        yield Difference("opset", "ai.onnx", opset, OPSET)
    for place, (own, wanted) in enumerate(zip_longest(map(described, graph.model.graph.input), inputs(config))):
        if own != wanted:
            yield Difference("input", str(place), own, wanted)
    for place, (own, wanted) in enumerate(zip_longest(map(described, graph.model.graph.output), outputs(config))):
        if own != wanted:
            yield Difference("output", str(place), own, wanted)


def _attention_differences(graph: Graph, config: dict[str, Any], checkpoint: Path, family: str) -> Iterator[Difference]:
    nodes = plugin_nodes(graph).get("trt_edgellm::AttentionPlugin", [])
    if len(nodes) != config["num_hidden_layers"]:
        yield Difference("plugin", "AttentionPlugin nodes", len(nodes), config["num_hidden_layers"])
    for layer, node in enumerate(nodes):
        head_norms, after_rope = family in HEAD_NORMS, HEAD_NORMS.get(family, False)
        scales = stored_scales(checkpoint, layer)
        wanted = attention(config, layer, scales=scales, head_norms=head_norms, after_rope=after_rope)
        for name in sorted(node.keys() | wanted.keys()):
            if node.get(name) != wanted.get(name):
                yield Difference("plugin", f"AttentionPlugin {layer} {name}", node.get(name), wanted.get(name))


def experts(config: dict[str, Any]) -> dict[str, Any]:
    """Return attributes, inputs and outputs of the experts of a layer, all of which take part of the softmax."""
    count, hidden, inner = (config[name] for name in ("num_experts", "hidden_size", "moe_intermediate_size"))
    return {
        "num_experts": count,
        "top_k": config["num_experts_per_tok"],
        "hidden_size": hidden,
        "moe_inter_size": inner,
        "activation_type": 2,
        "norm_topk_prob": 1,
        "max_routed_rows": 0,
        "inputs": [
            "computed", "computed", f"FLOAT16[{count}, {2 * inner}, {hidden}]", f"FLOAT16[{count}, {hidden}, {inner}]",
        ],
        "outputs": ["computed"],
    }  # fmt: skip


def _experts_differences(graph: Graph, config: dict[str, Any]) -> Iterator[Difference]:
    nodes = plugin_nodes(graph).get("trt_edgellm::Fp16MoePlugin", [])
    if len(nodes) != (config["num_hidden_layers"] if "num_experts" in config else 0):
        yield Difference("plugin", "Fp16MoePlugin nodes", len(nodes), config["num_hidden_layers"])
    for layer, node in enumerate(nodes):
        yield from (
            Difference("config", name, "nothing", "a value") for name in EXPERTS_IN_CONFIG if name not in config
        )
        wanted = experts(config)
        for name in sorted(node.keys() | wanted.keys()):
            if node.get(name) != wanted.get(name):
                yield Difference("plugin", f"Fp16MoePlugin {layer} {name}", node.get(name), wanted.get(name))
