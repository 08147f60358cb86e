"""Which tensors make a parameter, and which are left out knowingly, against what transformers itself loads."""

from __future__ import annotations

import logging

import pytest
import torch
from decoders import fields_of
from transformers import AutoConfig

from edgellm_core.tracing.checkpoint_names import LoadedName, loaded_names, parameter_sources
from edgellm_core.tracing.errors import SeveralTensorsError
from edgellm_core.tracing.left_out import knowingly_left_out
from edgellm_core.tracing.weightless import build_weightless


def model_of(model_type, **fields):
    return build_weightless(AutoConfig.for_model(model_type, **fields), torch.float32)


def tiny(name, **fields):
    stated = {**fields_of(name), **fields}
    return model_of(stated.pop("model_type"), **stated)


DEEP = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 8, "first_k_dense_replace": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def left_out(model, *more):
    return knowingly_left_out(model, loaded_names(model, [*model.state_dict(), *more]))


def test_names_of_the_model_are_themselves():
    model = tiny("llama")
    names = list(model.state_dict())
    assert loaded_names(model, names) == {name: LoadedName(name, None) for name in names}
    assert not parameter_sources(model, loaded_names(model, names))
    assert not left_out(model)


def test_names_without_the_prefix_of_the_model_find_their_parameters():
    model = tiny("llama")
    names = [name.removeprefix("model.") for name in model.state_dict()]
    sources = parameter_sources(model, loaded_names(model, names))
    assert sources == {f"model.{name}": (name,) for name in names if name != "lm_head.weight"}


@pytest.mark.parametrize("order", [1, -1])
def test_a_parameter_under_two_names_is_refused(order):
    model = tiny("llama")
    names = [*model.state_dict(), "norm.weight"][::order]
    with pytest.raises(SeveralTensorsError, match=r"'model\.norm\.weight' 2 times, as '.*norm\.weight' and '.*Remove"):
        parameter_sources(model, loaded_names(model, names))


@pytest.mark.parametrize(("model_type", "fields", "name"), [
    ("gpt2", {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 64}, "h.0.attn.bias"),
    ("gpt_neox", {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24,
                  "vocab_size": 64}, "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
    ("deepseek_v3", {**DEEP, "num_hidden_layers": 61, "first_k_dense_replace": 61}, "model.layers.61.eh_proj.weight"),
])  # fmt: skip
def test_what_transformers_loads_without_a_warning_is_left_out(model_type, fields, name, tmp_path, caplog):
    """The rules are transformers' own: its loader says nothing of such a tensor, and names another one."""
    fields = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **fields}
    model = model_of(model_type, **fields)
    assert list(left_out(model, name, "model.unknown.weight")) == [name]
    config = AutoConfig.for_model(model_type, **fields)
    real = type(model)(config)
    state = {**real.state_dict(), name: torch.ones(2), "model.unknown.weight": torch.ones(2)}
    with caplog.at_level(logging.WARNING):
        _loaded, info = type(model).from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    assert {key.rpartition("model.")[2] for key in info["unexpected_keys"]} == {"unknown.weight"}


def test_a_decoder_layer_is_not_left_out_although_a_list_names_it():
    model = model_of("deepseek_v3", **{**DEEP, "num_hidden_layers": 61, "first_k_dense_replace": 61})
    layer = [f"model.layers.61.{n.removeprefix('model.layers.60.')}" for n in model.state_dict() if ".layers.60." in n]
    assert not left_out(model, *layer)
    assert len(left_out(model, *layer, "model.layers.61.eh_proj.weight")) == len(layer) + 1


@pytest.mark.parametrize("key", ["num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers"])
def test_layers_that_the_config_counts_are_left_out(key):
    counted = tiny("llama", **{key: 1})
    depth = counted.config.num_hidden_layers
    names = [f"model.layers.{depth}.eh_proj.weight", f"model.layers.{depth}.mlp.up_proj.weight"]
    assert set(left_out(counted, *names)) == set(names)
    assert key in next(iter(left_out(counted, *names).values()))
    assert set(left_out(counted, "mtp.norm.weight", "model.mtp_layers.0.norm.weight", "smtp.norm.weight")) == {
        "mtp.norm.weight", "model.mtp_layers.0.norm.weight",
    }  # fmt: skip
    assert not left_out(counted, f"model.layers.{depth + 1}.eh_proj.weight")
    assert not left_out(counted, f"vision.blocks.{depth}.proj.weight")
    assert not left_out(tiny("llama", **{key: 0}), *names, "mtp.norm.weight")


def test_a_buffer_that_the_model_computes_is_left_out():
    model = tiny("llama")
    names = ["model.rotary_emb.inv_freq", "model.layers.3.self_attn.rotary_emb.inv_freq"]
    assert set(left_out(model, *names)) == set(names)
    assert not left_out(model, "model.rotary_embedding.freqs")


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight"])
def test_what_the_architecture_lacks_is_not_left_out(name):
    assert not left_out(tiny("llama"), name)
