"""What each type's tiny config states beyond the shrunk sizes, mostly to reach the type's special paths."""

from __future__ import annotations

from typing import Any, Final

WINDOWS: Final = ["sliding_attention", "full_attention"] * 2
LINEAR: Final = ["linear_attention", "full_attention"] * 2
CONV: Final = ["conv", "full_attention"] * 2
LLAMA3: Final = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN: Final = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
    "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip

BYTES: Final = {
    "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 112, "vocab_size": 131,
}  # fmt: skip


def partial(share: float) -> dict[str, Any]:
    """Return RoPE parameters that turn a share of each head."""
    return {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share}


SPECIAL: Final[dict[str, dict[str, Any]]] = {
    "afmoe": {"layer_types": WINDOWS},
    "apertus": {"rope_parameters": LLAMA3},
    "axk1": {"num_key_value_heads": 6},
    "axk2": {"num_key_value_heads": 6},
    "bailing_hybrid": {"num_key_value_heads": 6, "layer_types": LINEAR, "num_local_experts": 8},
    "bamba": {
        "attn_layer_indices": [1, 3], "mamba_n_heads": 6, "mamba_d_head": 32, "mamba_d_state": 16,
        "mamba_chunk_size": 8,
    },
    "beam": {"num_experts": 8, "layer_types": WINDOWS, "mlp_layer_types": ["dense", "sparse", "dense", "sparse"]},
    "blt": {
        "encoder_hash_byte_group_size": [2, 3], "encoder_hash_byte_group_vocab": 64,
        "local_attention_window_len": 5,
        "patcher_config": BYTES, "encoder_config": {**BYTES, "hidden_size_global": 96},
        "decoder_config": {**BYTES, "hidden_size_global": 96}, "global_config": BYTES,
    },
    "codegen": {"n_embd": 128, "n_head": 8, "rotary_dim": 8},
    "cohere": {"use_qk_norm": True},
    "cohere2": {"layer_types": WINDOWS},
    "cohere_compass_text": {
        "layer_types": WINDOWS,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        },
    },
    "cpmant": {"dim_head": 16, "dim_ff": 112, "prompt_length": 4},
    "ctrl": {"dff": 112},
    "cwm": {"layer_types": WINDOWS},
    "dbrx": {
        "n_layers": 3, "n_heads": 6, "max_seq_len": 64, "d_model": 96,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 112, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 96},
    },
    "deepseek_v2": {"num_key_value_heads": 6, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    "deepseek_v3": {
        "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        "num_key_value_heads": 6,
    },
    "deepseek_v32": {"num_key_value_heads": 6},
    "doge": {"keep_window_size": 5},
    "dots1": {"layer_types": WINDOWS},
    "dots3_note_text": {"num_key_value_heads": 6},
    "ernie4_5_moe": {"moe_num_experts": 5, "moe_k": 2},
    "exaone4": {"layer_types": WINDOWS, "rope_parameters": LLAMA3},
    "exaone_moe": {"layer_types": WINDOWS, "n_group": 1, "topk_group": 1, "num_experts": 5},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False},
    "falcon_h1": {
        "mamba_n_heads": 6, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_d_ssm": 192, "mamba_chunk_size": 8,
    },
    "gemma2": {"layer_types": WINDOWS, "query_pre_attn_scalar": 24},
    "gemma3_text": {"layer_types": WINDOWS, "query_pre_attn_scalar": 24},
    "gemma3n_text": {
        "layer_types": WINDOWS, "num_kv_shared_layers": 2, "intermediate_size": [112, 112, 112, 112],
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "vocab_size_per_layer_input": 131,
        "hidden_size_per_layer_input": 16, "laurel_rank": 8, "altup_num_inputs": 2,
    },
    "gemma4_text": {
        "layer_types": WINDOWS, "vocab_size_per_layer_input": 131, "hidden_size_per_layer_input": 16,
        "num_kv_shared_layers": 2,
    },
    "glm": {"rope_parameters": partial(0.5)},
    "glm4": {"rope_parameters": partial(0.5)},
    "glm4_moe_lite": {"num_key_value_heads": 6},
    "glm_moe_dsa": {"num_key_value_heads": 6},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 5},
    "gpt_neox": {"rope_parameters": partial(0.25)},
    "gpt_oss": {"layer_types": WINDOWS, "rope_parameters": YARN},
    "gptj": {"rotary_dim": 8},
    "granite": {
        "attention_multiplier": 0.3, "residual_multiplier": 0.7, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
    },
    "granite_swa": {"layer_types": WINDOWS},
    "granitemoe": {"attention_multiplier": 0.3},
    "granitemoehybrid": {
        "layer_types": LINEAR, "mamba_n_heads": 6, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_chunk_size": 8,
        "shared_intermediate_size": 48, "position_embedding_type": "rope",
    },
    "helium": {"head_dim": 16},
    "hy_v4": {
        "num_key_value_heads": 6, "n_group": 1, "topk_group": 1,
        "indexer_types": ["full", "shared", "full", "shared"], "hc_mult": 2,
    },
    "inkling2_text": {
        "layer_types": ["hybrid_sliding", "hybrid"] * 2, "swa_num_attention_heads": 6, "swa_num_key_value_heads": 2,
        "swa_head_dim": 20, "sliding_window_size": 5, "unpadded_vocab_size": 127, "log_scaling_n_floor": 4,
    },
    "inkling_text": {
        "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid"], "swa_num_attention_heads": 6,
        "swa_num_key_value_heads": 2, "swa_head_dim": 20, "sliding_window_size": 5,
        "mlp_layer_types": ["sparse", "sparse", "sparse", "sparse"],
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": {
        "num_key_value_heads": 6, "layer_types": LINEAR, "n_group": 1, "topk_group": 1, "num_local_experts": 8,
    },
    "laguna": {"layer_types": WINDOWS, "num_attention_heads_per_layer": [6, 4, 6, 4]},
    "lfm2": {"layer_types": CONV, "head_dim": None},
    "lfm2_moe": {"layer_types": CONV, "head_dim": None},
    "lfm3": {"layer_types": ["conv", "sliding_attention", "conv", "full_attention"]},
    "llama": {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True},
    # floor_scale stays at 8192: transformers counts temperature from the first padded position, so with a smaller one a
    # row of a padded batch differs from the same row alone in transformers itself (0.01 with floor_scale 4)
    "llama4_text": {
        "intermediate_size_mlp": 112, "moe_layers": [1, 3], "no_rope_layers": [1, 1, 0, 1],
        "layer_types": ["chunked_attention", "chunked_attention", "full_attention", "chunked_attention"],
        "attn_temperature_tuning": True, "num_experts_per_tok": 1,
    },
    "longcat_flash": {
        "head_dim": 8, "num_key_value_heads": 6, "expert_ffn_hidden_size": 40, "ffn_hidden_size": 112,
        "zero_expert_num": 2, "moe_topk": 2, "num_layers": 2, "n_routed_experts": 4,
    },
    "mamba2": {"num_heads": 6, "head_dim": 32, "n_groups": 2, "chunk_size": 8},
    "mellum": {"layer_types": WINDOWS},
    "mimo_v2_flash": {"layer_types": WINDOWS, "n_group": 1, "topk_group": 1, "num_key_value_heads": 3},
    "minicpm3": {"num_key_value_heads": 6},
    "minimax": {"layer_types": LINEAR, "head_dim": 16, "block_size": 8, "sliding_window": None},
    "minimax_m3_vl_text": {
        "layer_types": ["minimax_m3_sparse", "full_attention"] * 2, "index_n_heads": 2, "index_block_size": 4,
        "index_topk_blocks": 2, "dense_intermediate_size": 112, "shared_intermediate_size": 48,
        "mlp_layer_types": ["dense", *["sparse"] * 3],
    },
    "ministral": {"layer_types": WINDOWS},
    "modernbert-decoder": {"local_attention": 10},
    "mpt": {"max_seq_len": 64},
    "nemotron": {"rope_parameters": partial(0.5)},
    "nemotron_h": {
        "mamba_num_heads": 6, "mamba_head_dim": 32, "n_groups": 2, "chunk_size": 8, "n_group": 1, "topk_group": 1,
        "moe_shared_expert_intermediate_size": 48, "use_mamba_kernels": False, "sliding_window": None,
    },
    "olmo3": {"layer_types": WINDOWS, "rope_parameters": YARN},
    "olmo_hybrid": {
        "layer_types": LINEAR, "num_key_value_heads": 6, "linear_num_key_heads": 6, "linear_num_value_heads": 6,
    },
    "phi": {"qk_layernorm": True, "rope_parameters": partial(0.5)},
    "phi3": {
        "sliding_window": 5, "max_position_embeddings": 64, "original_max_position_embeddings": 12,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5], "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 12,
        },
    },
    "qwen2": {"layer_types": WINDOWS},
    "qwen2_moe": {"layer_types": WINDOWS, "decoder_sparse_step": 2},
    "qwen3": {"layer_types": WINDOWS, "attention_bias": True},
    "qwen3_5_moe_text": {"layer_types": LINEAR},
    "qwen3_5_text": {"layer_types": LINEAR},
    "qwen3_moe": {"sliding_window": 5, "rope_parameters": YARN},
    "qwen3_next": {"layer_types": LINEAR},
    "qwen4_exp_text": {
        "layer_types": LINEAR, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 20,
        "indexer_budget": 4, "indexer_compress_ratio": 2, "hc_count": 2, "hc_lowrank": 8, "ple_embed_dim": 16,
        "ngram_vocab_size_base": 200, "heads_per_ngram": 2, "split_ngram_parts": 2,
    },
    "recurrent_gemma": {
        "lru_width": 96, "attention_window_size": 5, "block_types": ["recurrent", "attention"],
        "num_hidden_layers": 4,
    },
    "reformer": {
        "axial_pos_embds_dim": [32, 64], "axial_pos_shape": [8, 8], "attention_head_size": 16, "feed_forward_size": 112,
        "attn_layers": ["local", "lsh"] * 2, "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8,
    },
    "smollm3": {"layer_types": WINDOWS, "no_rope_layers": [1, 1, 0, 1], "use_sliding_window": True},
    "stablelm": {"qk_layernorm": True, "use_qkv_bias": True, "rope_parameters": partial(0.25)},
    "vaultgemma": {"layer_types": WINDOWS, "query_pre_attn_scalar": 24},
    # transformers sets the padding token's embedding to zero after it has loaded a Youtu checkpoint
    "youtu": {"num_key_value_heads": 6, "pad_token_id": None},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 192, "attention_head_dim": 32, "num_key_value_heads": 6, "use_mamba_kernels": False,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "n_mamba_heads": 6,
        "num_key_value_heads": 6, "mamba_ngroups": 1, "chunk_size": 8, "use_mamba_kernels": False,
    },
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""Model type → keys of config.json; None leaves a key at the class's default."""
