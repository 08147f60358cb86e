"""Shrinking a config: small widths, the kinds of layers and every flag and length as they were."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from edgellm_core.verification.twin.errors import TwinNotMadeError
from edgellm_core.verification.twin.layers import layer_kinds
from edgellm_core.verification.twin.original import on_meta
from edgellm_core.verification.twin.shrink import MOST_PARAMETERS, shrink
from edgellm_core.verification.twin.sizes import fewer_heads

LENGTHS = ("sliding_window", "max_position_embeddings", "attention_chunk_size", "keep_window_size")


@pytest.mark.parametrize(
    "model_type",
    ["llama", "gpt2", "gemma3_text", "phi3", "mixtral", "llama4_text", "gpt_oss", "mamba2", "gemma3n_text"],
)
def test_default_configs_shrink_to_the_same_kinds_of_layers(model_type):
    whole = CONFIG_MAPPING[model_type]()
    small = shrink(whole, CONFIG_MAPPING[model_type].from_dict)
    assert sum(parameter.numel() for parameter in small.model.parameters()) < MOST_PARAMETERS / 10
    assert set(layer_kinds(small.model)) == set(layer_kinds(on_meta(whole)))
    for key in LENGTHS:
        assert getattr(small.model.config, key, None) == getattr(whole, key, None)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "expected"),
    [(32, 8, (8, 2)), (32, 32, (4, 4)), (71, 1, (8, 1)), (14, 2, (14, 2)), (6, 4, (6, 4)), (128, 8, (16, 2))],
)
def test_heads_keep_their_ratio(heads, kv_heads, expected):
    assert fewer_heads(heads, kv_heads) == expected


def test_layers_that_are_counted_are_recounted():
    config = CONFIG_MAPPING["deepseek_v3"](
        hidden_size=96, num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8, num_hidden_layers=9,
        first_k_dense_replace=4, n_group=2, topk_group=1, num_experts_per_tok=2, q_lora_rank=32, kv_lora_rank=32,
    )  # fmt: skip
    small = shrink(config, CONFIG_MAPPING["deepseek_v3"].from_dict)
    assert small.model.config.num_hidden_layers == 4
    assert small.model.config.first_k_dense_replace == 2


def test_longrope_factors_fit_smaller_heads():
    factors = [1.0 + index / 10 for index in range(48)]
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors, "long_factor": factors,
        "original_max_position_embeddings": 4096,
    }  # fmt: skip
    config = CONFIG_MAPPING["phi3"](rope_parameters=rope, original_max_position_embeddings=4096)
    small = shrink(config, CONFIG_MAPPING["phi3"].from_dict)
    assert small.fields["rope_parameters"]["short_factor"] == factors[::3]


def test_a_model_that_its_own_code_refuses_has_no_twin():
    config = CONFIG_MAPPING["llama"](hidden_size=96, num_attention_heads=6, num_key_value_heads=4, head_dim=16)
    with pytest.raises(TwinNotMadeError, match=r"no small twin of the 'llama' model could be made: .+"):
        shrink(config, CONFIG_MAPPING["llama"].from_dict)
