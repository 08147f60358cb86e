"""A family's layer wrappers: probed against what they replace, and in the graph when they are right."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from decoders import fields_of
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgellm_core.contract import ModelFamily
from edgellm_core.errors import PluginError
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
from edgellm_core.tracing import operators
from edgellm_core.tracing.errors import FailedWrapperError, UnusedWrapperError, WrongWrapperError
from edgellm_core.tracing.trace import trace
from edgellm_core.tracing.wrappers import wrapper_error


def family_with(forwards):
    class Wrapping(ModelFamily):
        name = "wrapping"

        def module_forwards(self):
            return forwards

    return Wrapping()


def right_mlp(module, x):
    gate = module.gate_proj(x)
    return module.down_proj(gate * torch.sigmoid(gate) * module.up_proj(x))


def wrong_mlp(module, x):
    return module.down_proj(nn.functional.gelu(module.gate_proj(x)) * module.up_proj(x))


def right_norm(module, x):
    return nn.functional.rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)


def semantic_norm(module, x):
    return operators.rms_norm(x, module.weight, module.variance_epsilon)


def semantic_norm_without_weight(module, x):
    return operators.rms_norm(x, torch.ones_like(module.weight), module.variance_epsilon)


def semantic_mlp(module, x):
    gate = operators.linear(x, module.gate_proj.weight, module.gate_proj.bias)
    return module.down_proj(nn.functional.silu(gate) * module.up_proj(x))


def norm_without_weight(module, x):
    return nn.functional.rms_norm(x, (x.shape[-1],), None, module.variance_epsilon)


def other_epsilon(module, x):
    return nn.functional.rms_norm(x, (x.shape[-1],), module.weight, 100 * module.variance_epsilon)


def other_shape(module, x):
    return module.gate_proj(x)


def no_tensor(module, x):
    return None


def nothing_but_nan(module, x):
    return x * float("nan")


def crash(module, x):
    return module.a_projection_that_is_not_there(x)


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("LlamaMLP", wrong_mlp),
        ("LlamaMLP", other_shape),
        ("LlamaMLP", no_tensor),
        ("LlamaMLP", nothing_but_nan),
        ("LlamaRMSNorm", norm_without_weight),
        ("LlamaRMSNorm", semantic_norm_without_weight),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_wrong_wrapper_is_refused(name, forward, report):
    config = transformers_config(fields_of("llama"))
    with pytest.raises(WrongWrapperError, match=rf"Family 'wrapping': the wrapper for '{name}'.*off by \S+ \(rel"):
        trace(config, family_with({name: forward}), "fp32", full_depth=False, report=report)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LlamaMlp", "LlamaForCausalLM has no 'LlamaMlp'. Did you mean 'LlamaMLP'?"),
        ("Absent", "LlamaForCausalLM has no 'Absent'. It has Embedding, "),
    ],
)
def test_a_wrapper_for_a_class_that_is_not_there_is_refused(name, message, report):
    config = transformers_config(fields_of("llama"))
    with pytest.raises(UnusedWrapperError, match="Family 'wrapping': module_forwards") as caught:
        trace(config, family_with({name: right_mlp}), "fp32", full_depth=False, report=report)
    assert message in str(caught.value)


def test_a_wrapper_that_raises_is_named(report):
    config = transformers_config(fields_of("llama"))
    expected = r"Family 'wrapping'.*'LlamaMLP'.*AttributeError.*a_projection_that_is_not_there"
    with pytest.raises(FailedWrapperError, match=expected) as caught:
        trace(config, family_with({"LlamaMLP": crash}), "fp32", full_depth=False, report=report)
    assert isinstance(caught.value, PluginError)


@pytest.mark.parametrize(
    "forwards",
    [{"LlamaMLP": right_mlp}, {"LlamaRMSNorm": right_norm}, {"LlamaForSequenceClassification": crash},
     {"LlamaRMSNorm": semantic_norm, "LlamaMLP": semantic_mlp}],
    ids=lambda forwards: " ".join(forward.__name__ for forward in forwards.values()),
)  # fmt: skip
def test_a_right_wrapper_is_traced(forwards):
    config = transformers_config(fields_of("llama"))
    lowered = lower_config(config, family_with(forwards))
    model = random_model(config)
    ids, mask = padded_tokens([0, 2], 8, config.vocab_size)
    found = run_graph(with_weights(lowered, model), ids, mask, [7, 1])
    assert relative_error(found, run_transformers(model, ids, mask, [7, 1]), mask) <= 2e-5


def test_a_wrapped_norm_is_the_family_s_and_not_recorded(report):
    config = transformers_config(fields_of("llama"))
    plain = trace(config, family_with({}), "fp32", full_depth=False, report=report)
    wrapped = trace(config, family_with({"LlamaRMSNorm": right_norm}), "fp32", full_depth=False, report=report)
    assert plain.dimensions().norms["rms"] == 7
    assert wrapped.dimensions().norms["rms"] == 0
    semantic = trace(config, family_with({"LlamaRMSNorm": semantic_norm}), "fp32", full_depth=False, report=report)
    assert semantic.dimensions() == plain.dimensions()


def test_an_epsilon_is_visible_on_inputs_of_order_one():
    """1e-3 against 1e-5 of a mean square of 1: 5e-4, five times the tolerance."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    assert 1e-4 < wrapper_error(LlamaRMSNorm(96, eps=1e-5), other_epsilon) < 1e-2
    assert wrapper_error(LlamaRMSNorm(96, eps=1e-5), right_norm) < 1e-6


def test_what_does_not_take_one_tensor_is_left_to_the_parity_gate():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x, gate):
            return x * gate * self.weight

    assert wrapper_error(Gate(), crash) is None
    assert wrapper_error(nn.Identity(), crash) is None
    assert wrapper_error(nn.Linear(8192, 4096, device="meta"), crash) is None


def test_the_model_is_restored_after_a_wrong_wrapper():
    from edgellm_core.tracing.wrappers import family_wrappers

    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    wrong = family_with({"Linear": lambda module, x: 2 * x, "LayerNorm": lambda module, x: x})
    with pytest.raises(WrongWrapperError, match="'Linear'"), family_wrappers(model, wrong):
        pass
    assert all("forward" not in vars(module) for module in model)


def test_attention_attributes_of_the_family_win(report):
    seen = []

    class Scaling(ModelFamily):
        name = "scaling"

        def attention_attributes(self, module, attributes):
            seen.append((type(module).__name__, attributes.scale, attributes.softcap))
            return dataclasses.replace(attributes, scale=0.5, softcap=3.0)

    template = trace(transformers_config(fields_of("llama")), Scaling(), "fp32", full_depth=False, report=report)
    assert ("LlamaAttention", pytest.approx(20**-0.5), 0.0) in seen
    given = [
        {attribute.name: attribute.f for attribute in node.attribute}
        for node in template.model.graph.node
        if node.op_type == "Attention"
    ]
    assert given
    assert all(attributes == {"scale": 0.5, "softcap": 3.0} for attributes in given)


def test_attention_is_captured_where_another_tool_left_its_own(report, monkeypatch):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", sdpa_attention_forward)
    template = trace(transformers_config(fields_of("llama")), ModelFamily(), "fp32", full_depth=False, report=report)
    assert any(node.op_type == "Attention" for node in template.model.graph.node)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


def test_a_family_may_prepare_the_config(tmp_path):
    from edgellm_core.tracing.configuration import load_config

    class Shallow(ModelFamily):
        name = "shallow"

        def prepare_config(self, config):
            config.num_hidden_layers = 1

    assert load_config(tmp_path, fields_of("llama"), Shallow()).num_hidden_layers == 1
