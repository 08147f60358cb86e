"""Experts become one operator where they are SwiGLU, and stay dense products where they are anything else."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
from transformers.models.mixtral.configuration_mixtral import MixtralConfig

from edgellm_core.tracing import operators
from edgellm_core.tracing.experts import captured_experts, dense_experts, is_swiglu

SIZES = {
    "vocab_size": 16, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2,
}  # fmt: skip


def experts_of(config):
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager")
    module = next(module for module in model.modules() if hasattr(module, "is_transposed"))
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return module


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MixtralConfig(**SIZES), True),
        (MixtralConfig(**SIZES, hidden_act="gelu"), False),
        (MixtralConfig(**SIZES, hidden_act="relu6"), False),
        (GptOssConfig(**SIZES, head_dim=4), False),
    ],
    ids=["silu", "gelu", "a clamp", "biases"],
)
def test_only_swiglu_is_captured(config, expected):
    assert is_swiglu(experts_of(config)) is expected


@pytest.mark.parametrize("function", [captured_experts, dense_experts])
def test_both_forms_are_those_of_transformers(function):
    module = experts_of(MixtralConfig(**SIZES))
    x = torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    index = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(row))[:2] for row in range(7)])
    index[0, 1] = 5  # no expert
    weights = torch.rand(7, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), operators.computed():
        torch.testing.assert_close(function(module, x, index, weights), module(x, index, weights))
