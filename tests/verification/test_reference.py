"""The original: bfloat16 rounds what transformers rounds, no more; a cut one keeps the scalars of the whole."""

from __future__ import annotations

import onnx
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgellm_core.verification.reference import _round_weights, load_reference
from edgellm_core.verification.subject import Subject, cut_config


def test_weights_and_buffers_are_those_that_transformers_loads_in_bfloat16(tmp_path):
    config = AutoConfig.for_model(
        "gemma", vocab_size=131, hidden_size=96, intermediate_size=112, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    made = AutoModelForCausalLM.from_config(config)
    made.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    _round_weights(made, "bfloat16")
    assert made.model.embed_tokens.embed_scale.item() == 9.8125  # sqrt(96) = 9.7980 with 8 bits
    for kind in ("parameters", "buffers"):
        wanted = dict(getattr(loaded, f"named_{kind}")())
        found = dict(getattr(made, f"named_{kind}")())
        assert found.keys() == wanted.keys()
        assert all(value.dtype == torch.float32 for value in found.values())
        assert all(torch.equal(found[name], wanted[name].float()) for name in wanted)


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
