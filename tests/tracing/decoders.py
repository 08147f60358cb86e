"""Tiny configs of decoders: of every family that ships, and of some that only the generic path handles."""

from __future__ import annotations

from edgellm_core.host import PluginHost

HOST = PluginHost.load(environ={})
FAMILIES = [name for name in HOST.family_names() if name != "generic"]

CORE = ["llama", "qwen2", "qwen3"]
"""Families for what one or two decoders show as well as all of them."""

COMMON = {
    "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 20, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ALTERNATING = ["sliding_attention", "full_attention"] * 2
WITHOUT_HEAD_DIM = {key: value for key, value in COMMON.items() if key != "head_dim"}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 12,
    "factor": 64 / 12, "short_factor": [1 + 0.1 * i for i in range(6)], "long_factor": [2 + 0.5 * i for i in range(6)],
}  # fmt: skip
LATENT = {
    **COMMON, "num_key_value_heads": 6, "head_dim": 8, "kv_lora_rank": 24, "q_lora_rank": 28, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12, "v_head_dim": 14, "moe_intermediate_size": 40, "n_routed_experts": 8, "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}  # fmt: skip

GENERIC = {
    "mistral": {**COMMON, "sliding_window": 5},
    "gemma2": {**COMMON, "sliding_window": 5, "layer_types": ALTERNATING, "query_pre_attn_scalar": 24,
               "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0},
    "olmo2": WITHOUT_HEAD_DIM,
    "phi3": {**WITHOUT_HEAD_DIM, "sliding_window": 5, "original_max_position_embeddings": 12,
             "rope_parameters": LONGROPE},
    "starcoder2": {**WITHOUT_HEAD_DIM, "sliding_window": 5},
    "gpt2": {"vocab_size": 131, "n_layer": 3, "n_head": 6, "n_embd": 96, "n_positions": 64, "n_inner": 112,
             "bos_token_id": 1, "eos_token_id": 2},
    "deepseek_v2": {**LATENT, "num_hidden_layers": 3, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
                    "topk_method": "group_limited_greedy"},
    "llama4_text": {**COMMON, "intermediate_size_mlp": 112, "num_local_experts": 5, "num_experts_per_tok": 1,
                    "moe_layers": [1, 3], "no_rope_layers": [1, 1, 0, 1], "attention_chunk_size": 5, "floor_scale": 4,
                    "layer_types": ["chunked_attention", "chunked_attention", "full_attention", "chunked_attention"]},
    "gemma3n_text": {**COMMON, "sliding_window": 5, "layer_types": ALTERNATING, "num_kv_shared_layers": 0,
                     "intermediate_size": [112] * 4, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
                     "vocab_size_per_layer_input": 131, "hidden_size_per_layer_input": 16, "laurel_rank": 8,
                     "altup_num_inputs": 2, "final_logit_softcapping": 4.0},
}  # fmt: skip
"""Decoders for the family that changes nothing: windows with and without softcap, norms after the blocks, fused and
scaled projections, biases, learned positions, complex RoPE, latent keys, chunks, experts of one's own, sparse
activations."""


GENERIC_NAMES = [f"generic {model_type}" for model_type in GENERIC]
"""Their names, which no family has."""


def fields_of(name):
    """Return a config.json: a family's tiny config, or one of the generic ones."""
    if name in FAMILIES:
        return dict(HOST.select({}, forced=name).family.tiny_config())
    model_type = name.removeprefix("generic ")
    return {"model_type": model_type, **GENERIC[model_type]}


def family_of(name):
    """Return the family of this name, or else the generic one."""
    return HOST.select({}, forced=name if name in FAMILIES else "generic").family


def depth_key(fields):
    """Return the key that holds the number of layers: some classes have a name of their own for it."""
    return next(key for key in ("num_hidden_layers", "n_layers") if key in fields)


def deep(name):
    """Return the decoder's tiny config with six layers; lists of one entry per layer go on in their pattern."""
    fields = fields_of(name)
    layers = fields[depth_key(fields)]
    depth = max(6, layers)
    longer = {
        key: (value * depth)[:depth]
        for key, value in fields.items()
        if isinstance(value, list) and len(value) == layers and key != "architectures"
    }
    return {**fields, **longer, depth_key(fields): depth}
