"""The original in the precision of the graph: for bfloat16, what transformers rounds is rounded, and nothing else."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgellm_core.verification.reference import _round_to_bfloat16


def test_weights_and_buffers_are_those_that_transformers_loads_in_bfloat16(tmp_path):
    config = AutoConfig.for_model(
        "gemma", vocab_size=131, hidden_size=96, intermediate_size=112, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    made = AutoModelForCausalLM.from_config(config)
    made.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    _round_to_bfloat16(made)
    assert made.model.embed_tokens.embed_scale.item() == 9.8125  # sqrt(96) = 9.7980 with 8 bits
    for kind in ("parameters", "buffers"):
        wanted = dict(getattr(loaded, f"named_{kind}")())
        found = dict(getattr(made, f"named_{kind}")())
        assert found.keys() == wanted.keys()
        assert all(value.dtype == torch.float32 for value in found.values())
        assert all(torch.equal(found[name], wanted[name].float()) for name in wanted)
