"""Says what a GGUF file's metadata means in the words of a config.json, so that a family can be found and sizes told.

The converted checkpoint's config.json is written by transformers; this mapping is for ``detect`` only, which must not
import it. Source of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "LLM".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import CorruptGgufError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.checkpoint.gguf_header import GgufHeader

CONFIG_KEYS: Final[Mapping[str, str]] = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
"""Metadata key behind ``<architecture>.`` → key of config.json."""

MODEL_TYPES: Final[Mapping[str, str]] = {
    "gemma3": "gemma3_text",
    "gpt-oss": "gpt_oss",
    "minimax-m2": "minimax_m2",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
}
"""``general.architecture`` → ``model_type`` where they differ (``transformers.modeling_gguf_pytorch_utils``)."""


def architecture(header: GgufHeader) -> str:
    """Return ``general.architecture``.

    Raises:
        CorruptGgufError: the file has none.
    """
    value = header.fields.get("general.architecture")
    if not isinstance(value, str) or not value:
        raise CorruptGgufError(header.file, "it has no general.architecture")
    return value


def config_from_gguf(header: GgufHeader) -> dict[str, Any]:
    """Return the fields of a config.json that the metadata gives.

    Raises:
        CorruptGgufError: the file has no ``general.architecture``.
    """
    name = architecture(header)
    config: dict[str, Any] = {"model_type": MODEL_TYPES.get(name, name)}
    for suffix, key in CONFIG_KEYS.items():
        value = header.fields.get(f"{name}.{suffix}")
        if isinstance(value, list):  # one value a layer: the largest decides the size of buffers
            value = max(value, default=None)
        if value is not None:
            config[key] = value
    if "vocab_size" not in config and "tokenizer.ggml.tokens" in header.array_lengths:
        config["vocab_size"] = header.array_lengths["tokenizer.ggml.tokens"]
    config["tie_word_embeddings"] = all(tensor.name != "output.weight" for tensor in header.tensors)
    return config


def stop_tokens(header: GgufHeader) -> list[int]:
    """Return the ids that end an answer: end of sequence, of turn and of message, each once."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    values = [header.fields.get(f"tokenizer.ggml.{key}") for key in keys]
    return list(dict.fromkeys(value for value in values if isinstance(value, int)))
