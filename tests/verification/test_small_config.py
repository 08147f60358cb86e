"""A small config.json of a real one: what it says, and that it makes the same kinds of layers."""

from __future__ import annotations

import pytest

CONFIGS = {
    "a window": ("mistral", {"sliding_window": 4096}, {"sliding_window": 5, "max_position_embeddings": 64}),
    "no window": ("mistral", {"sliding_window": None}, {"sliding_window": None}),
    "windows by default": ("gemma3_text", {}, {"sliding_window": 5}),
    "a flag": ("stablelm", {"use_qkv_bias": True}, {"use_qkv_bias": True}),
    "a scaled RoPE keeps its context": (
        "llama",
        {
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        },
        {"max_position_embeddings": 8192},
    ),
}


@pytest.mark.parametrize(("model_type", "stated", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_flags_stay_and_lengths_are_short(model_type, stated, expected):
    from transformers import AutoConfig

    from edgellm_core.verification.twin.small_config import small_config

    found = small_config(AutoConfig.for_model(model_type, **stated))
    assert {key: found.get(key) for key in expected} == expected
    assert found["hidden_size"] <= 128


@pytest.mark.parametrize("model_type", ["gemma3_text", "qwen3_next", "deepseek_v3", "cohere2"])
def test_every_kind_of_layer_is_there(model_type):
    from transformers import AutoConfig

    from edgellm_core.verification.twin.layers import layer_kinds
    from edgellm_core.verification.twin.original import on_meta
    from edgellm_core.verification.twin.small_config import small_config

    real = AutoConfig.for_model(model_type)
    small = type(real).from_dict(small_config(real))
    assert set(layer_kinds(on_meta(small))) == set(layer_kinds(on_meta(real)))
