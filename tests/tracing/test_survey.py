from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgellm_core.contract import ModelFamily
from edgellm_core.generic import GenericFamily
from edgellm_core.tracing.configuration import load_config
from edgellm_core.tracing.survey import LayerGroup, survey

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip


CACHELESS = {"sizes": {}, "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
"""A model that takes no KV cache."""


def surveyed(family=None, *, sizes=SIZES, **config):
    family = family or GenericFamily()
    return survey(lambda: load_config(Path("tiny"), {**sizes, **config}, family), family, "fp32")


def told(group):
    return [(form.aspect, form.status, form.what, form.count) for form in group.forms]


def test_equal_layers_are_told_once():
    found = surveyed(model_type="llama", rms_norm_eps=1e-5)
    assert found.model == "LlamaForCausalLM"
    assert [group.label for group in found.groups] == ["layers 0–3", "outside the layers"]
    assert told(found.groups[0]) == [
        ("attention", "captured", "Attention(scale=0.353553)", 1),  # 8 ** -0.5
        ("state", "captured", "Append(keys=2×8, values=2×8)", 2),
        ("norm", "captured", "RMSNorm(epsilon=1e-05)", 2),
        ("rope", "captured", "Rotary(rotary_dim=8)", 2),
        ("linear", "captured", "Linear", 7),
    ]
    assert told(found.groups[1]) == [
        ("mask", "captured", "AttentionMask(causal=1)", 1),
        ("norm", "captured", "RMSNorm(epsilon=1e-05)", 1),
        ("linear", "captured", "Linear", 1),
    ]
    assert found.plain() == ()
    assert found.refusal is None


def test_windowed_layers_stand_apart_and_softcap_is_told():
    found = surveyed(
        model_type="gemma2", sliding_window=5, query_pre_attn_scalar=16, attn_logit_softcapping=50.0,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )  # fmt: skip
    assert [group.layers for group in found.groups] == [(0, 2), (1, 3), ()]
    assert found.groups[0].label == "layers 0, 2"
    attention = found.groups[0].forms[0]
    assert attention.what == "Attention(scale=0.25, softcap=50)"
    assert attention.hook == "attention_attributes"
    assert "windowed=1" in found.groups[0].forms[1].what
    assert "windowed" not in found.groups[1].forms[1].what
    assert ("mask", "captured", "AttentionMask(causal=1, window=5)", 1) in told(found.groups[-1])


def test_a_norm_that_is_none_of_the_operators_stays_plain():
    found = surveyed(model_type="cohere", use_qk_norm=True)  # its weight is [heads, head_dim]
    plain = [form for form in found.groups[0].forms if form.status == "plain"]
    assert [(form.aspect, form.what, form.count, form.hook) for form in plain] == [
        ("norm", "CohereLayerNorm", 2, "module_forwards")
    ]
    assert [form.what for form in found.plain()] == ["CohereLayerNorm"]


@pytest.mark.parametrize(
    ("model_type", "extra", "experts", "router"),
    [
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, "MixtralExperts", "MixtralTopKRouter"),
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}, "GptOssExperts", "GptOssTopKRouter"),
    ],
)
def test_experts_run_densely_and_their_router_stays_plain(model_type, extra, experts, router):
    found = surveyed(model_type=model_type, **extra)
    forms = [(form.status, form.what) for form in found.groups[0].forms if form.aspect == "experts"]
    assert forms == [("captured", f"dense experts of {experts}"), ("plain", router)]
    assert not [form for group in found.groups for form in group.forms if form.aspect == "rope" and form.hook]


def test_attention_without_the_interface_is_plain_and_named():
    found = surveyed(sizes={}, model_type="bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    assert found.refusal is None
    forms = {(form.aspect, form.status, form.what) for form in found.groups[0].forms}
    assert ("attention", "plain", "BloomAttention") in forms


class Wrapping(ModelFamily):
    name = "wrapping"

    def module_forwards(self):
        def forward(module, x):
            return module.down_proj(module.act_fn(module.gate_proj(x)) * module.up_proj(x))

        return {"LlamaMLP": forward}


def test_a_wrapped_module_is_told_with_its_hook():
    found = surveyed(Wrapping(), model_type="llama")
    assert found.family_hooks == ("module_forwards",)
    assert ("other", "wrapped", "LlamaMLP", 1) in told(found.groups[0])


class Wrong(Wrapping):
    name = "wrong"

    def module_forwards(self):
        return {"LlamaMLP": lambda module, x: module.down_proj(torch.relu(module.up_proj(x)))}


@pytest.mark.parametrize(
    ("family", "config", "refusal", "hook"),
    [
        (Wrong(), {"model_type": "llama"}, "the wrapper for 'LlamaMLP' must equal", "module_forwards"),
        (None, {"model_type": "llama", "secret_scale": 3}, "'secret_scale'", "harmless_config_keys"),
        (None, {"model_type": "none_such"}, "does not know it", "modeled_as"),
        (None, {"model_type": "openai-gpt", **CACHELESS}, "OpenAIGPTLMHeadModel can't be exported", "module_forwards"),
        (None, {"model_type": "llama", "hidden_size": "wide"}, "can't read the config", ""),
    ],
)
def test_a_refusal_is_the_answer(family, config, refusal, hook):
    found = surveyed(family, **config)
    assert refusal in found.refusal
    assert found.refusal_hook == hook
    assert found.groups == ()


@pytest.mark.parametrize(
    ("layers", "label"),
    [((), "outside the layers"), ((3,), "layer 3"), ((0, 1, 2, 5, 7, 8), "layers 0–2, 5, 7–8")],
)
def test_label(layers, label):
    assert LayerGroup(layers=layers, forms=()).label == label
