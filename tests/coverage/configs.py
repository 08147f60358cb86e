"""A tiny config for every decoder-only type: the class's defaults shrunk, and what is special about it exercised."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Final

from tests.coverage.special import SPECIAL

SHRUNK: Final[dict[str, Any]] = {
    # Odd and different sizes, so that two that are mixed up don't fit: 6 heads of 20 beside a width of 96.
    "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 20, "max_position_embeddings": 64, "n_layer": 3, "n_head": 6, "n_embd": 96,
    "n_positions": 64, "n_ctx": 64, "d_model": 96, "n_inner": 112, "num_layers": 3, "num_heads": 6, "ffn_dim": 112,
    "word_embed_proj_dim": 96, "decoder_layers": 3, "decoder_attention_heads": 6, "decoder_ffn_dim": 112,
    "encoder_layers": 2, "encoder_attention_heads": 6, "encoder_ffn_dim": 112, "type_vocab_size": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    # A window and a chunk shorter than every prompt of the gate, caps that bend the logits.
    "sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2, "attention_chunk_size": 5,
    "final_logit_softcapping": 4.0, "attn_logit_softcapping": 1.5,
    # Experts: few, more than are chosen.
    "num_experts": 5, "num_local_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 48, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    # Latent attention, and its index of tokens.
    "kv_lora_rank": 24, "q_lora_rank": 28, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 14,
    "index_topk": 4, "index_head_dim": 16, "index_n_heads": 16, "rel_extent": 16, "d_rel": 8,
    # Linear attention and state-space layers.
    "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_head_dim": 16, "linear_num_heads": 6, "mamba_d_state": 16, "mamba_dt_rank": 6, "state_size": 16,
    "ssm_state_size": 16, "chunk_size": 8,
    "num_mtp_layers": 0, "num_nextn_predict_layers": 0,
    "is_decoder": True, "attention_dropout": 0.0, "hidden_dropout": 0.0, "dropout": 0.0, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
"""Key → value, wherever the config class has such a key."""


def tiny_config(model_type: str) -> dict[str, Any]:
    """Return contents of a config.json with small sizes.

    Args:
        model_type: a type that transformers knows.
    """
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    known = _fields(config_class)
    config = {
        key: value
        for key, value in SHRUNK.items()
        if key in known and not isinstance(getattr(config_class, key, None), property)
    }
    config.update(SPECIAL.get(model_type, {}))
    return {"model_type": model_type, **{key: value for key, value in config.items() if value is not None}}


def _fields(config_class: type) -> set[str]:
    """Return what the constructor of a config takes."""
    if dataclasses.is_dataclass(config_class):
        return {field.name for field in dataclasses.fields(config_class)}
    return set(inspect.signature(config_class.__init__).parameters)
