"""What the watch sees of a model that runs, as a whole or layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from edgellm_core.verification.attention_scores import LARGE_SCORE, score_note
from edgellm_core.verification.range_watch import Peak, RangeWatch, near_note
from tests.coverage.configs import tiny_config

IDS = torch.arange(3, 24)[None]


def original(model_type, **fields):
    config = tiny_config(model_type) | fields
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[config.pop("model_type")](**config), dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def watched(model, ids=IDS, **inputs):
    watch = RangeWatch()
    with torch.inference_mode(), watch.watching(model):
        model(ids, **inputs)
    return watch


def scaled_queries(model, name, factor):
    """Multiply the queries, and so the scores, of one module."""
    with torch.no_grad():
        model.get_parameter(name).mul_(factor)


@pytest.mark.parametrize(
    ("model_type", "query", "module"),
    [
        ("llama", "model.layers.2.self_attn.q_proj.weight", "model.layers.2.self_attn"),
        ("gpt_oss", "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn"),
        ("bloom", "transformer.h.1.self_attention.query_key_value.weight", "transformer.h.1.self_attention"),
        ("falcon", "transformer.h.2.self_attention.query_key_value.weight", "transformer.h.2.self_attention"),
        ("deepseek_v3", "model.layers.3.self_attn.q_b_proj.weight", "model.layers.3.self_attn"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn"),
    ],
)
def test_large_scores_are_found_in_their_layer(model_type, query, module):
    model = original(model_type)
    assert watched(model).largest_score.largest < LARGE_SCORE
    scaled_queries(model, query, 5000.0)
    score = watched(model).largest_score
    assert (score.module, score.side) == (module, "scores")
    assert LARGE_SCORE < score.largest < 1e30


def test_a_score_is_what_softmax_takes():
    model = original("llama", num_hidden_layers=1)
    seen = []
    attention = model.model.layers[0].self_attn
    attention.q_proj.register_forward_hook(lambda _module, _given, output: seen.append(output))
    attention.k_proj.register_forward_hook(lambda _module, _given, output: seen.append(output))
    score = watched(model, IDS[:, :1]).largest_score  # at position 0 RoPE turns nothing
    queries, keys = (value.view(-1, attention.head_dim) for value in seen)
    wanted = (queries.view(2, 3, -1) * keys[:, None]).sum(-1).abs().max() * attention.head_dim**-0.5
    assert score.largest == pytest.approx(float(wanted), rel=1e-5)


def test_masked_scores_and_routers_do_not_count():
    padded = torch.ones_like(IDS)
    padded[:, :5] = 0
    watch = watched(original("mixtral"), attention_mask=padded)
    assert watch.largest_score.largest < 10
    assert not watch.excess


def test_no_attention_has_no_scores():
    assert watched(original("mamba")).largest_score is None


@pytest.mark.parametrize(
    ("model_type", "weights", "module", "side"),
    [
        ("llama", ["layers.1.mlp.up_proj.weight"], "model.layers.1.mlp.up_proj", "makes"),
        ("mixtral", ["layers.1.mlp.experts.gate_up_proj"], "model.layers.1.mlp.experts", "makes"),
        ("llama", ["embed_tokens.weight"], "model.embed_tokens", "makes"),
        ("llama", ["layers.0.self_attn.v_proj.weight"], "model.layers.0.self_attn.v_proj", "makes"),
    ],
)
def test_the_first_value_beyond_the_limit_names_its_module(model_type, weights, module, side):
    model = original(model_type)
    assert not watched(model).excess
    for name in weights:
        scaled_queries(model.model, name, 1e7)
    first = watched(model).excess[0]
    assert (first.module, first.side) == (module, side)
    assert first.words.startswith("makes values up to ")


def test_the_sum_of_a_residual_is_watched():
    model = original("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[IDS] = 40_000.0
        model.model.layers[0].self_attn.o_proj.weight.zero_()
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: torch.full((1, 21, 96), 40_000.0))
    assert watched(model).excess[0] == Peak(module="model.layers.0", side="makes", largest=80_000.0)


def test_values_near_the_limit_are_told_once_for_a_module():
    model = original("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[IDS] = 20_000.0
    watch = watched(model)
    near = [peak.module for peak in watch.near]
    assert not watch.excess
    assert "model.embed_tokens" in near
    assert len(near) == len(set(near))
    assert "(the embedding) " in near_note(watch.near, "the embedding")
    assert "values up to 2e+04, within a factor of 4 of float16's largest number, 65504" in near_note(watch.near)
    assert near_note([]) is None


def test_layers_are_watched_one_at_a_time():
    model = original("llama")
    scaled_queries(model, "model.layers.1.self_attn.q_proj.weight", 5000.0)
    whole, parts = watched(model), RangeWatch()
    hidden, inputs = {}, {}

    def keep(module, given, named):
        hidden[module], inputs[module] = given[0], named

    for layer in model.model.layers:
        layer.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.inference_mode():
        model(IDS, use_cache=False)
        for index, layer in enumerate(model.model.layers):
            with parts.watching(layer, f"model.layers.{index}"):
                layer(hidden[layer], **inputs[layer])
    assert parts.largest_score == whole.largest_score


def test_fused_attention_is_seen_too():
    class Fused(nn.Module):
        def forward(self, queries):
            return nn.functional.scaled_dot_product_attention(queries, queries, queries, is_causal=True)

    queries = torch.full((1, 2, 3, 4), 5.0)
    queries[:, :, 2] = 40.0  # masked for the others; by itself it makes 40 * 40 * 4 / √4
    score = watched(Fused(), queries).largest_score
    assert score == Peak(module="", side="scores", largest=3200.0)


def test_the_note_names_layer_size_and_option():
    assert score_note(Peak(module="model.layers.3.self_attn", side="scores", largest=LARGE_SCORE)) is None
    note = score_note(Peak(module="model.layers.3.self_attn", side="scores", largest=600.0), "decoder layer 3")
    assert "reach 600 in 'model.layers.3.self_attn' (decoder layer 3)" in note
    assert "up to 0.29" in note
    assert "--attention-scores fp32" in note
