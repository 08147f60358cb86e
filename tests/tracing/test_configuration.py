"""Loading a config: what nothing reads is refused, and what transformers can't model is named."""

from __future__ import annotations

from typing import ClassVar

import pytest
from decoders import FAMILIES, HOST, depth_key, family_of, fields_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.contract import ModelFamily
from edgellm_core.generic import GenericFamily
from edgellm_core.tracing.configuration import declared_keys, load_config
from edgellm_core.tracing.errors import InvalidConfigError, UnreadConfigKeysError, UnsupportedArchitectureError

LLAMA = fields_of("llama")


class LlamaCopy(ModelFamily):
    """A family whose checkpoints have a model_type of their own."""

    name: ClassVar[str] = "copy"
    model_types: ClassVar[tuple[str, ...]] = ("llamacopy",)
    modeled_as: ClassVar[str] = "llama"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_s_tiny_config_loads(name, tmp_path):
    loaded = load_config(tmp_path, fields_of(name), family_of(name))
    assert loaded.model_type == fields_of(name)["model_type"]
    assert loaded.num_hidden_layers == fields_of(name)[depth_key(fields_of(name))]


def test_a_key_that_nothing_reads_is_refused(tmp_path):
    config = {**LLAMA, "attention_multiplier": 0.3, "residual_multiplier": 2}
    with pytest.raises(UnreadConfigKeysError, match=r"family 'llama': 'attention_multiplier', 'residual_multiplier'\."):
        load_config(tmp_path, config, family_of("llama"))


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", [], {}])
def test_a_key_that_switches_nothing_on_is_let_through(value, tmp_path):
    load_config(tmp_path, {**LLAMA, "use_something": value}, family_of("llama"))


@pytest.mark.parametrize(
    "extra",
    [
        {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "transformers_version": "4.40.0"},
        {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "repetition_penalty": 1.05},
        {"rope_theta": 1e5},
        {"is_llama_config": True},
        {"cache_implementation": "hybrid", "pretraining_tp": 2, "model_max_length": 131072},
        {"quantization_config": {"quant_method": "awq"}},
        {"_model_name_or_path": "somewhere", "_name_or_path": "elsewhere", "_commit_hash": "0123", "_from_auto": True},
        {"_attn_implementation_internal": "sdpa", "_experts_implementation": "eager", "_flash_attn_2_enabled": True},
    ],
    ids=lambda value: next(iter(value)),
)
def test_bookkeeping_generation_and_harmless_keys_pass(extra, tmp_path):
    config = {key: value for key, value in LLAMA.items() if key != "rope_parameters"}
    load_config(tmp_path, {**config, **extra}, family_of("llama"))


@pytest.mark.parametrize(
    ("model_type", "key"),
    [("qwen3_moe", "head_dim"), ("exaone4", "head_dim"), ("cohere2", "sliding_window_pattern")],
)
def test_a_key_that_the_model_reads_undeclared_passes_and_reaches_it(model_type, key, tmp_path):
    config = {"model_type": model_type, "num_hidden_layers": 4, key: 2}
    loaded = load_config(tmp_path, config, GenericFamily())
    if key == "head_dim":
        assert loaded.head_dim == 2
    else:
        assert loaded.layer_types == ["sliding_attention", "full_attention"] * 2


@pytest.mark.parametrize(
    "key", ["head_size", "_dim", "_window_pattern", "config", "logger", "q_proj", "sliding_window_patter"]
)
def test_a_key_that_only_looks_like_one_is_refused(key, tmp_path):
    with pytest.raises(UnreadConfigKeysError, match=key):
        load_config(tmp_path, {"model_type": "qwen3_moe", key: 2}, GenericFamily())


def test_keys_of_transformers_4_reach_the_config(tmp_path):
    config = {key: value for key, value in LLAMA.items() if key != "rope_parameters"}
    scaling = {"rope_type": "linear", "factor": 4.0}
    loaded = load_config(tmp_path, {**config, "rope_theta": 1234.0, "rope_scaling": scaling}, family_of("llama"))
    assert loaded.rope_parameters["rope_theta"] == 1234.0
    assert loaded.rope_parameters["rope_type"] == "linear"
    assert loaded.rope_parameters["factor"] == 4.0


def test_an_unknown_model_type_names_the_nearest_families(tmp_path):
    config = {**LLAMA, "model_type": "qwen9", "architectures": ["Qwen9ForCausalLM"]}
    expected = r"model_type 'qwen9' and architectures \['Qwen9ForCausalLM'\]: .*does not know it\. Nearest.*'qwen\d'"
    with pytest.raises(UnsupportedArchitectureError, match=expected):
        load_config(tmp_path, config, GenericFamily(), HOST.nearest)


def test_without_a_near_family_the_option_is_named(tmp_path):
    with pytest.raises(UnsupportedArchitectureError, match=r"model_type None .*Name a family with --family\."):
        load_config(tmp_path, {"vocab_size": 3}, GenericFamily())


@pytest.mark.parametrize("model_type", ["vit", "clip", "t5", "wav2vec2"])
def test_an_encoder_is_no_causal_language_model(model_type, tmp_path):
    expected = rf"model_type '{model_type}' .*has no causal language model for it"
    with pytest.raises(UnsupportedArchitectureError, match=expected):
        load_config(tmp_path, {"model_type": model_type}, GenericFamily())


def test_values_that_transformers_refuses_are_shown(tmp_path):
    with pytest.raises(InvalidConfigError, match=r"can't read the config of .*hidden_size.*Correct config\.json"):
        load_config(tmp_path, {**LLAMA, "hidden_size": "wide"}, family_of("llama"))


def test_a_family_models_what_transformers_does_not_know(tmp_path):
    loaded = load_config(tmp_path, {**LLAMA, "model_type": "llamacopy"}, LlamaCopy())
    assert loaded.model_type == "llama"
    assert loaded.hidden_size == LLAMA["hidden_size"]


def test_unread_keys_of_a_copy_are_refused_too(tmp_path):
    with pytest.raises(UnreadConfigKeysError, match="'residual_multiplier'"):
        load_config(tmp_path, {**LLAMA, "model_type": "llamacopy", "residual_multiplier": 2}, LlamaCopy())


def test_declared_keys_hold_fields_and_aliases():
    from transformers import GPT2Config

    assert {"n_layer", "num_hidden_layers", "activation_function", "vocab_size"} <= declared_keys(GPT2Config)


@given(st.text("abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=20), st.integers(1) | st.just([0]) | st.just(True))
@settings(max_examples=50, deadline=None)
def test_any_unknown_key_with_a_value_is_refused(tmp_path_factory, key, value):
    from transformers import LlamaConfig

    from edgellm_core.tracing.configuration import GENERATION_KEYS, LEGACY_ROPE_KEYS, METADATA_KEYS

    key = "x_" + key
    assert key not in declared_keys(LlamaConfig) | METADATA_KEYS | GENERATION_KEYS | LEGACY_ROPE_KEYS
    with pytest.raises(UnreadConfigKeysError, match=f"'{key}'"):
        load_config(tmp_path_factory.getbasetemp(), {**LLAMA, key: value}, GenericFamily())


DERIVED = {
    "model_type": "axk1", "architectures": ["AXK1ForCausalLM"], "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
    "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip


def test_a_key_that_the_class_computes_may_be_stated(tmp_path):
    assert load_config(tmp_path, {**DERIVED, "qk_head_dim": 20}, GenericFamily()).qk_head_dim == 20
    with pytest.raises(UnreadConfigKeysError, match="'qk_head_dim'"):
        load_config(tmp_path, {**DERIVED, "qk_head_dim": 24}, GenericFamily())


def test_infinity_is_read_as_transformers_writes_it(tmp_path):
    config = {"model_type": "bamba", "time_step_limit": [0.0, {"__float__": "Infinity"}]}
    assert load_config(tmp_path, config, GenericFamily()).time_step_limit[1] == float("inf")
