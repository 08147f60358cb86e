from __future__ import annotations

import pytest

from edgellm_core.checkpoint.dimensions import context_length, read_dimensions, stated_context_length

LLAMA = {
    "num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
    "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA, (30, 576, 9, 3, 64, 1536, 49152, 8192, True)),
        (
            {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_inner": None, "vocab_size": 50257, "n_positions": 1024},
            (12, 768, 12, 12, 64, None, 50257, 1024, None),
        ),
        ({"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 9}, (2, 32, 4, 4, 8, None, None, 9, None)),
        ({"hidden_size": 32, "num_heads": 4, "multi_query": True}, (None, 32, 4, 1, 8, None, None, None, None)),
        ({"text_config": LLAMA, "vision_config": {"hidden_size": 7}}, (30, 576, 9, 3, 64, 1536, 49152, 8192, True)),
        ({"n_inner": [64, 128], "num_kv_heads": [1, 2]}, (None, None, None, 2, None, 128, None, None, None)),
        ({"hidden_size": "32", "num_hidden_layers": True, "vocab_size": -1}, (None,) * 9),
        ({}, (None,) * 9),
    ],
)  # fmt: skip
def test_dimensions_come_from_any_of_the_usual_keys(config, expected):
    dimensions = read_dimensions(config)
    assert expected == (
        dimensions.layers, dimensions.hidden_size, dimensions.heads, dimensions.kv_heads, dimensions.head_dim,
        dimensions.intermediate_size, dimensions.vocab_size, dimensions.context_length, dimensions.tied_embeddings,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shapes", "tied"), [([(8, 4), (4, 4)], True), ([(8, 4), (8, 4)], False), ([(4, 4)], None), ([], None)]
)
def test_tying_is_seen_in_the_shapes_when_the_config_is_silent(shapes, tied):
    assert read_dimensions({"vocab_size": 8, "hidden_size": 4}, shapes).tied_embeddings is tied


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gpt_bigcode", "falcon", "phi3"])
def test_dimensions_agree_with_the_config_class_of_transformers(model_type):
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    dimensions = read_dimensions(config.to_dict())
    assert dimensions.layers == config.num_hidden_layers
    assert dimensions.hidden_size == config.hidden_size
    assert dimensions.heads == config.num_attention_heads
    assert dimensions.vocab_size == config.vocab_size
    multi_query = getattr(config, "multi_query", False)
    assert dimensions.kv_heads == (1 if multi_query else getattr(config, "num_key_value_heads", dimensions.heads))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"max_position_embeddings": None}, None),
        ({"max_position_embeddings": "long", "seq_length": 2048}, 2048),
        ({}, None),
    ],
)
def test_the_context_as_config_json_states_it(config, expected):
    assert stated_context_length(config) == expected


@pytest.mark.parametrize(("model_type", "expected"), [("mpt", 2048), ("gpt2", 1024), ("llama", 2048), ("bloom", None)])
def test_the_context_that_a_config_class_has(model_type, expected):
    from transformers import AutoConfig

    assert context_length(AutoConfig.for_model(model_type)) == expected
