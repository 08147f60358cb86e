"""Writes a checkpoint of transformers as a GGUF file, by the rules of llama.cpp's converter, for tests.

It shares nothing with the reading: names come from the ``gguf`` package's table, and permutations, offsets, stacks and
RoPE factors are made here the way ``conversion/*.py`` of llama.cpp makes them.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers.convert_slow_tokenizer import bytes_to_unicode

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3",
    "phi3": "phi3", "phi": "phi2", "granite": "granite", "smollm3": "smollm3", "starcoder2": "starcoder2",
    "stablelm": "stablelm", "olmo2": "olmo2", "olmoe": "olmoe", "gpt_oss": "gpt-oss", "cohere": "command-r",
    "cohere2": "cohere2", "glm4": "glm4",
}  # fmt: skip
PERMUTED = {"llama", "mistral", "mixtral", "granite", "smollm3"}
SHIFTED = {"gemma", "gemma2", "gemma3_text"}
PLAIN_KEYS = {
    "num_hidden_layers": "block_count", "max_position_embeddings": "context_length", "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon", "norm_epsilon": "attention.layer_norm_epsilon",
    "num_local_experts": "expert_count", "num_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
    "attention_multiplier": "attention.scale", "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale", "logits_scaling": "logit_scale", "logit_scale": "logit_scale",
    "use_parallel_residual": "use_parallel_residual",
}  # fmt: skip

Fields = dict[str, Any]
Arrays = dict[str, np.ndarray]


def write_gguf(path: Path, directory: Path, *, change=None, parts: int = 1, kinds=None) -> Path:
    """Write the checkpoint in ``directory``; ``change`` edits keys and tensors, ``kinds`` quantizes by name.

    Returns:
        the file, or the first of its parts.
    """
    config = json.loads((directory / "config.json").read_text())
    tensors = {name: value.float().numpy() for name, value in load_file(directory / "model.safetensors").items()}
    fields, arrays = keys_of(config), arrays_of(config, tensors)
    if change:
        change(fields, arrays)
    return write_file(
        path, ARCHITECTURES[config["model_type"]], config["vocab_size"], fields, arrays, parts, kinds or {}
    )


def keys_of(config: Fields) -> Fields:
    """Return the metadata keys behind the architecture's prefix."""
    fields = {key: config[name] for name, key in PLAIN_KEYS.items() if config.get(name) is not None}
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if config.get("head_dim"):
        fields |= {"attention.key_length": head, "attention.value_length": head}
    rope = config.get("rope_parameters") or {}
    if "sliding_attention" in rope:
        fields["rope.freq_base_swa"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    fields["rope.freq_base"] = rope["rope_theta"]
    fields["rope.dimension_count"] = int(head * rope.get("partial_rotary_factor", 1.0))
    if config["model_type"] == "gemma3_text":
        fields["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in config["layer_types"]]
    return fields | rope_keys(config, rope)


def rope_keys(config: Fields, rope: Fields) -> Fields:
    kind = rope["rope_type"]
    if kind in {"linear", "yarn"}:
        found = {"rope.scaling.type": kind, "rope.scaling.factor": rope["factor"]}
        if kind == "yarn":
            found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        return found
    if kind == "longrope":
        original, scale = rope["original_max_position_embeddings"], config["max_position_embeddings"]
        factor = math.sqrt(1 + math.log(scale / original) / math.log(original))
        return {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": factor}
    return {}


def arrays_of(config: Fields, tensors: Arrays) -> Arrays:
    """Return the tensors under llama.cpp's names, in its layout."""
    kind = config["model_type"]
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[kind])
    table = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    found = dict(rope_tensors(config))
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for name, stored in tensors.items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        if kind == "gpt_oss" and ("experts" in name or "sinks" in name):
            found |= gpt_oss_tensors(name, stored)
            continue
        value = stored
        if kind in PERMUTED and (match := re.search(r"self_attn\.(q|k)_proj\.(weight|bias)$", name)):
            value = permute(stored, heads if match[1] == "q" else kv_heads)
        elif kind in SHIFTED and name.endswith("norm.weight"):
            value = stored + 1
        elif name.endswith("shared_expert_gate.weight"):
            value = stored.reshape(-1)
        if match := re.search(r"\.(experts|norms)\.(\d+)\.", name):
            merged = name.replace(match[0], ".experts." if match[1] == "experts" else ".")
            stacks.setdefault(merged, {})[int(match[2])] = value
        else:
            found[table.get_name(name, try_suffixes=(".weight", ".bias"))] = value
    for name, values in stacks.items():
        stacked = np.stack([values[index] for index in sorted(values)])
        found[table.get_name(name, try_suffixes=(".weight", ".bias"))] = stacked
    return found


def permute(value: np.ndarray, heads: int) -> np.ndarray:
    return value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def gpt_oss_tensors(name: str, value: np.ndarray) -> Arrays:
    layer = re.search(r"layers\.(\d+)\.", name)[1]
    if name.endswith("sinks"):
        return {f"blk.{layer}.attn_sinks.weight": value}
    suffix = "bias" if name.endswith("_bias") else "weight"
    if "gate_up" not in name:
        value = value if suffix == "bias" else value.swapaxes(1, 2)
        return {f"blk.{layer}.ffn_down_exps.{suffix}": value}
    if suffix == "weight":
        value = value.swapaxes(1, 2)
    return {
        f"blk.{layer}.ffn_gate_exps.{suffix}": value[:, ::2],
        f"blk.{layer}.ffn_up_exps.{suffix}": value[:, 1::2],
    }


def rope_tensors(config: Fields) -> Arrays:
    rope = config.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if rope["rope_type"] == "longrope":
        return {f"rope_factors_{name}.weight": np.float32(rope[f"{name}_factor"]) for name in ("long", "short")}
    if rope["rope_type"] != "llama3":
        return {}
    frequencies = 1 / rope["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    original, low, high = (
        rope[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    factors = []
    for frequency in frequencies:
        wave = 2 * math.pi / frequency
        smooth = (original / wave - low) / (high - low)
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors.append(1 if wave < original / high else rope["factor"] if wave > original / low else between)
    return {"rope_freqs.weight": np.array([float(factor) for factor in factors], np.float32)}


def vocabulary(size: int) -> list[str]:
    """Return ``size`` tokens: three special ones, the bytes' spellings, and made-up words."""
    letters = [*bytes_to_unicode().values()]
    return ["<unk>", "<s>", "</s>", "ab", *letters, *(f"word{index}" for index in range(size))][:size]


def write_file(
    path: Path, architecture: str, vocab: int, fields: Fields, arrays: Arrays, parts: int, kinds: dict[str, Any]
) -> Path:
    """Write keys and tensors."""
    writer = gguf.GGUFWriter(str(path), architecture, split_max_tensors=-(-len(arrays) // parts) if parts > 1 else 0)
    for key, value in fields.items():
        add(writer, f"{architecture}.{key}" if not key.startswith(("tokenizer.", "general.")) else key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = vocabulary(vocab)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (vocab - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in arrays.items():
        kind = next((found for pattern, found in kinds.items() if re.fullmatch(pattern, name)), None)
        if kind is None:
            writer.add_tensor(name, np.ascontiguousarray(value, np.float32))
        else:
            writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(value, np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if parts == 1 else next(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
