"""Models without weights have the buffers that transformers computes when it loads a checkpoint."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.tracing.weightless import build_weightless

SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
OLDER = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "rotary_dim": 8}
CONFIGS = {
    "llama": SIZES | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "gemma2": SIZES | {"num_key_value_heads": 1, "head_dim": 16},
    "gptj": OLDER,
    "codegen": OLDER,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", CONFIGS)
def test_buffers_are_those_of_a_loaded_model(model_type, dtype, tmp_path):
    config = {"model_type": model_type, "bos_token_id": 1, "eos_token_id": 2, **CONFIGS[model_type]}
    write_tiny_checkpoint(tmp_path / "model", config, tokenizer=False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    ours = dict(build_weightless(loaded.config, dtype).named_buffers())
    theirs = dict(loaded.named_buffers())
    assert theirs
    assert ours.keys() == theirs.keys()
    for name, buffer in theirs.items():
        assert ours[name].dtype == buffer.dtype
        assert torch.equal(ours[name], buffer), name
