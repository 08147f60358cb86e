"""Tiny configs of decoders: of every family that ships, and of some that only the generic path handles."""

from __future__ import annotations

from edgellm_core.host import PluginHost

HOST = PluginHost.load(environ={})
FAMILIES = [name for name in HOST.family_names() if name != "generic"]

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
}  # fmt: skip
"""Windows with and without softcap, norms after the blocks, fused and scaled projections, biases, learned positions."""


def fields_of(name):
    """Return a config.json: a family's tiny config, or one of the generic ones."""
    if name in GENERIC:
        return {"model_type": name, **GENERIC[name]}
    return dict(HOST.select({}, forced=name).family.tiny_config())


def family_of(name):
    """Return the family that handles the config of this name."""
    return HOST.select(fields_of(name)).family


def deep(name, depth=6):
    """Return the family's tiny config with more layers, their types in the same pattern."""
    fields = fields_of(name)
    layers = fields["num_hidden_layers"]
    if "layer_types" in fields:
        fields["layer_types"] = (fields["layer_types"] * depth)[:depth]
    return {**fields, "num_hidden_layers": max(depth, layers)}
