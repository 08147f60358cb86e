"""The original: bfloat16 rounds what transformers rounds, no more; a cut one keeps the scalars of the whole."""

from __future__ import annotations

import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgellm_core.verification.reference import _round_weights, load_reference
from edgellm_core.verification.subject import Subject, cut_config

GEMMA = {
    "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
EXPERTS = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1}


@pytest.mark.parametrize(
    ("model_type", "fields", "name", "dtype"),
    [
        ("gemma", {}, "model.embed_tokens.embed_scale", torch.bfloat16),
        ("ernie4_5_moe", EXPERTS, "model.layers.1.mlp.gate.weight", torch.float32),
    ],
)
def test_weights_and_buffers_are_those_that_transformers_loads_in_bfloat16(model_type, fields, name, dtype, tmp_path):
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **GEMMA, **fields))
    made.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    _round_weights(made, "bfloat16")
    wanted = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    found = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    assert wanted[name].dtype == dtype
    assert found.keys() == wanted.keys()
    assert all(value.dtype == torch.float32 for value in found.values())
    assert [name for name in wanted if not torch.equal(found[name], wanted[name].float())] == []


def test_a_cut_original_keeps_the_scale_that_depends_on_the_depth_of_the_whole(tmp_path):
    config = AutoConfig.for_model(
        "minicpm3", vocab_size=131, hidden_size=96, intermediate_size=112, num_hidden_layers=9, num_attention_heads=6,
        num_key_value_heads=6, q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
        scale_depth=1.5,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    subject = Subject(
        graph=onnx.ModelProto(), folder=tmp_path, directory=tmp_path, config=cut_config(config, 2), whole_config=config,
        precision="fp32", layers=2, depth=9,
    )  # fmt: skip
    layers = load_reference(subject).model.layers
    assert [layer.residual_scale for layer in layers] == [0.5, 0.5]  # 1.5 / sqrt(9)
