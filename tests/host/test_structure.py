from __future__ import annotations

import pytest

from edgellm_core.host import PluginHost
from edgellm_core.host.structure import Parts, parts_of_checkpoint, parts_of_modeling

HOST = PluginHost.load()
LLAMA = [
    "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer in range(2)
        for part in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
        )
    ),
]  # fmt: skip
KEYS = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "intermediate_size": 24, "vocab_size": 64, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "attention_dropout": 0.0, "head_dim": 4, "max_position_embeddings": 64, "rope_parameters": {"rope_type": "default"},
}  # fmt: skip
GEMMA2 = [
    *LLAMA,
    *(f"model.layers.{i}.{part}_feedforward_layernorm.weight" for i in range(2) for part in ("pre", "post")),
]
GEMMA2_KEYS = {**KEYS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 16}
QWEN3 = [*LLAMA, *(f"model.layers.{i}.self_attn.{x}_norm.weight" for i in range(2) for x in "qk")]
GPT2 = [f"transformer.h.{i}.{part}" for i in range(2) for part in ("attn.c_attn.weight", "mlp.c_fc.bias", "ln_1.bias")]


@pytest.mark.parametrize(
    ("tensors", "keys", "nearest"),
    [
        (LLAMA, KEYS, "llama"),
        (GEMMA2, GEMMA2_KEYS, "gemma2"),
        (QWEN3, {**KEYS, "layer_types": ["full_attention"] * 2, "sliding_window": 4}, "qwen3"),
    ],
)
def test_parts_find_the_family_where_no_name_helps(tensors, keys, nearest):
    config = {"model_type": "zzz", "architectures": ["ZzzForCausalLM"], **keys}
    assert HOST.nearest(config) == []
    assert HOST.nearest(config, tensors)[0] == nearest


def test_another_build_is_near_to_nothing():
    assert HOST.nearest({"model_type": "zzz", "n_embd": 32, "n_layer": 2, "n_head": 4}, GPT2) == []


def test_parts_of_a_checkpoint_are_words_without_numbers():
    parts = parts_of_checkpoint(
        {"hidden_size": 16, "bos_token_id": 1, "rope_scaling": None}, ["h.0.c_attn.weight", "h.1.b"]
    )
    assert parts == Parts(frozenset({"h", "c_attn", "b"}), frozenset({"hidden_size"}))


def test_parts_of_modeling_code():
    parts = parts_of_modeling("llama")
    assert {"q_proj", "gate_proj", "input_layernorm", "embed_tokens", "lm_head", "self_attn"} <= parts.names
    assert {"hidden_size", "rms_norm_eps", "num_key_value_heads"} <= parts.keys
    assert parts_of_modeling("gemma3_text") == parts_of_modeling("gemma3")
    assert parts_of_modeling("zzz") is None


@pytest.mark.parametrize(
    ("a", "b", "likeness"),
    [
        ({"q", "k"}, {"q", "k"}, 0.75),  # names 1, keys 2 * 1 / (1 + 3)
        ({"q"}, {"v"}, 0.25),
        (set(), set(), 0.25),
    ],
)
def test_likeness_is_the_mean_of_two_dice_coefficients(a, b, likeness):
    keys = frozenset({"x"}), frozenset({"x", "y", "z"})
    assert Parts(frozenset(a), keys[0]).likeness(Parts(frozenset(b), keys[1])) == likeness
