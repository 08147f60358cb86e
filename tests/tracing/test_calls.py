"""Counts of the semantic operators that a program's outputs need."""

from __future__ import annotations

import torch
from torch import nn

from edgellm_core.testing.lowering import lower_config, transformers_config
from edgellm_core.tracing import operators
from edgellm_core.tracing.calls import count_calls, remove_dead_nodes


class TwoLayers(nn.Module):
    """Layers 0 and 4, a norm after each, and a pooler whose result nobody uses."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, x):
        for layer in (0, 4):
            x = operators.layer_input(x, layer)
            x = operators.linear(x, self.weight, None) + operators.linear(x, self.weight, None)
            x = operators.rms_norm(operators.layer_output(x, layer), self.weight[0], 1e-6)
        operators.linear(x[:, 0], self.weight, None)
        return x


def test_calls_are_counted_by_layer_without_the_unused():
    program = torch.export.export(TwoLayers().eval(), (torch.zeros(2, 3, 8),), strict=False)
    assert count_calls(program.graph)["Linear"] == {"0": 2, "4": 2, "outside": 1}
    remove_dead_nodes(program.graph)
    assert count_calls(program.graph) == {
        "LayerInput": {"outside": 2},
        "Linear": {"0": 2, "4": 2},
        "LayerOutput": {"outside": 2},
        "RMSNorm": {"outside": 2},
    }


def test_a_model_with_an_unused_pooler_is_lowered(plain_family):
    """Six linear modules in each layer and two in the head; the pooler is a ninth that no logit needs."""
    config = transformers_config(
        {
            "model_type": "big_bird", "vocab_size": 131, "hidden_size": 48, "intermediate_size": 64, "is_decoder": True,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
            "attention_type": "original_full",
        }
    )  # fmt: skip
    lowered = lower_config(config, plain_family)
    assert lowered.template.dimensions().linears == 2 * 6 + 2
    assert lowered.leftover == []
