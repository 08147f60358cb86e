"""The original: bfloat16 rounds what transformers rounds, no more."""

from __future__ import annotations

import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.verification.original_weights import OriginalWeights
from edgellm_core.verification.parts import Part
from edgellm_core.verification.subject import Subject

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
    config = AutoConfig.from_pretrained(tmp_path)
    tensors = index_tensors(read_headers(tmp_path))
    subject = Subject(
        graph=onnx.ModelProto(), folder=tmp_path, directory=tmp_path, config=config, precision="bf16", tensors=tensors
    )
    weights = OriginalWeights(subject, rounded_to="bf16")
    weights.load(Part(-1, weights.depth + 1))
    made = weights.model
    wanted = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    found = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    assert wanted[name].dtype == dtype
    assert found.keys() == wanted.keys()
    assert all(value.dtype == torch.float32 for value in found.values())
    assert [name for name in wanted if not torch.equal(found[name], wanted[name].float())] == []
