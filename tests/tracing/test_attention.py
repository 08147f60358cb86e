"""Attention calls without a mask, with biases and softcap: what is recorded is what transformers computes."""

from __future__ import annotations

import pytest
import torch
from decoders import fields_of
from transformers.models.llama import modeling_llama

from edgellm_core.testing.lowering import (
    lower_config,
    padded_tokens,
    random_model,
    relative_error,
    run_graph,
    run_transformers,
    transformers_config,
    with_weights,
)

FORWARD = modeling_llama.LlamaAttention.forward


def error_of(config, family):
    lowered = lower_config(config, family)
    model = random_model(config)
    model.set_attn_implementation("sdpa")
    ids, mask = padded_tokens([0, 0], 9, config.vocab_size)
    found = run_graph(with_weights(lowered, model), ids, mask, [8, 1])
    return relative_error(found, run_transformers(model, ids, mask, [8, 1]), mask), lowered


def masks_of(lowered):
    graph = lowered.template.model.graph
    made = {node.output[0]: node for node in graph.node}
    masks = [made[node.input[3]] for node in graph.node if node.op_type == "Attention"]
    return [{a.name: a.i for a in mask.attribute} for mask in masks if mask.op_type == "AttentionMask"]


def test_a_call_without_a_mask_is_causal(plain_family, monkeypatch):
    """transformers' sdpa function then lets torch mask causally."""

    def without_mask(self, *args, attention_mask=None, **kwargs):
        return FORWARD(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", without_mask)
    error, lowered = error_of(transformers_config(fields_of("llama")), plain_family)
    assert error <= 2e-5
    assert masks_of(lowered) == [{"causal": 1, "window": 0, "chunk": 0}] * 2


@pytest.mark.parametrize("way", ["module", "argument"])
def test_a_call_that_is_not_causal_gets_no_mask(plain_family, monkeypatch, way):
    def bidirectional(self, *args, attention_mask=None, **kwargs):
        given = {} if way == "module" else {"is_causal": False}
        self.is_causal = way != "module"
        return FORWARD(self, *args, attention_mask=None, **given, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", bidirectional)
    error, lowered = error_of(transformers_config(fields_of("llama")), plain_family)
    assert error <= 2e-5
    assert [len(node.input) for node in lowered.template.model.graph.node if node.op_type == "Attention"] == [3, 3]


@pytest.mark.parametrize("given", ["bias and mask", "bias alone"])
def test_a_position_bias_is_added(plain_family, monkeypatch, given):
    def biased(self, hidden_states, *args, attention_mask=None, past_key_values=None, **kwargs):
        length = past_key_values.get_seq_length(self.layer_idx) + hidden_states.shape[1]
        bias = torch.sin(torch.arange(length, dtype=torch.float32))[None, None, None]
        bias = bias.expand(1, 6, hidden_states.shape[1], length)
        mask = attention_mask if given == "bias and mask" else None
        causal = {} if given == "bias and mask" else {"is_causal": False}
        return FORWARD(
            self, hidden_states, *args, attention_mask=mask, past_key_values=past_key_values, position_bias=bias,
            **causal, **kwargs,
        )  # fmt: skip

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", biased)
    error, _lowered = error_of(transformers_config(fields_of("llama")), plain_family)
    assert error <= 2e-5


def test_a_scale_that_is_a_tensor_multiplies_the_query(plain_family, monkeypatch):
    attention = modeling_llama.LlamaAttention
    created = attention.__init__

    def create(self, *args, **kwargs):
        created(self, *args, **kwargs)
        self.register_buffer("temperature", torch.tensor(0.37), persistent=False)

    def forward(self, *args, **kwargs):
        self.scaling = self.temperature
        return FORWARD(self, *args, **kwargs)

    monkeypatch.setattr(attention, "__init__", create)
    monkeypatch.setattr(attention, "forward", forward)
    config = transformers_config(fields_of("llama"))
    lowered, model = lower_config(config, plain_family), random_model(config)
    ids, mask = padded_tokens([0, 2], 9, config.vocab_size)
    found = run_graph(with_weights(lowered, model), ids, mask, [8, 1])
    assert relative_error(found, run_transformers(model, ids, mask, [8, 1]), mask) <= 2e-5


def test_a_mask_of_no_known_kind_is_written_out(plain_family, monkeypatch):
    """A prefix that every token sees: transformers' own function computes it in the graph."""
    from transformers import masking_utils

    original = modeling_llama.create_causal_mask

    def with_prefix(*args, **kwargs):
        return original(*args, or_mask_function=lambda batch, head, q, k: k < 3, **kwargs)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", with_prefix)
    assert masking_utils.create_causal_mask is original
    config = transformers_config(fields_of("llama"))
    lowered, model = lower_config(config, plain_family), random_model(config)
    ids, mask = padded_tokens([0, 2], 9, config.vocab_size)
    found = run_graph(with_weights(lowered, model), ids, mask, [7, 1, 1])
    assert relative_error(found, run_transformers(model, ids, mask, [7, 1, 1]), mask) <= 2e-5
    assert lowered.leftover == []


def test_chunks_that_count_from_the_first_token_are_written_out(plain_family, monkeypatch):
    """transformers' chunks begin after the left padding, so no attribute can say where."""
    from transformers import masking_utils

    monkeypatch.setattr(modeling_llama, "create_causal_mask", masking_utils.create_chunked_causal_mask)
    config = transformers_config(fields_of("llama"))
    config.attention_chunk_size = 4
    lowered, model = lower_config(config, plain_family), random_model(config)
    ids, mask = padded_tokens([0, 2, 5], 11, config.vocab_size)
    found = run_graph(with_weights(lowered, model), ids, mask, [9, 1, 1])
    assert relative_error(found, run_transformers(model, ids, mask, [9, 1, 1]), mask) <= 2e-5
    kinds = masks_of(lowered)
    assert kinds == []
