"""Stamped graphs against graphs traced whole, and the guard that keeps unlike layers from being cloned."""

from __future__ import annotations

import pytest
from decoders import FAMILIES, deep, family_of, fields_of
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

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
from edgellm_core.tracing import layers
from edgellm_core.tracing.stamping import graph_digest, stamp
from edgellm_core.tracing.trace import trace

FORWARD = LlamaDecoderLayer.forward
CALL = LlamaDecoderLayer.__call__


def error_against_transformers(lowered, config):
    model = random_model(config)
    ids, mask = padded_tokens([0, 2], 9, config.vocab_size)
    found = run_graph(with_weights(lowered, model), ids, mask, [7, 1, 1])
    return relative_error(found, run_transformers(model, ids, mask, [7, 1, 1]), mask)


def assert_traced_whole_and_right(config, family, because):
    lowered = lower_config(config, family)
    assert [note for note in lowered.notes if note] == [f"Tracing every layer, since {because}."]
    assert lowered.template.representative_of == tuple(range(config.num_hidden_layers))
    assert error_against_transformers(lowered, config) <= 2e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_stamped_graph_equals_the_one_traced_whole(name, template):
    stamped, whole = template(name), template(name, full_depth=True)
    assert stamped.is_stamped
    assert not whole.is_stamped
    assert graph_digest(stamp(stamped)) == graph_digest(stamp(whole))
    assert stamped.dimensions() == whole.dimensions()
    assert stamped.stamped_parameters() == whole.parameters
    assert stamped.tied == whole.tied


@pytest.mark.parametrize(
    ("name", "representatives"),
    [("llama", (0,) * 6), ("qwen3", (0,) * 6), ("qwen2", (0, 1, 0, 1, 0, 1))],
)
def test_each_layer_has_a_representative_of_its_kind(name, representatives, template):
    assert template(name).representative_of == representatives
    assert template(name, full_depth=True).representative_of == tuple(range(6))


def test_the_digest_tells_graphs_apart(template, report):
    def digest(**changes):
        config = transformers_config({**deep("llama"), **changes})
        return graph_digest(stamp(trace(config, family_of("llama"), "fp16", full_depth=False, report=report)))

    original = graph_digest(stamp(template("llama")))
    assert original != digest(rms_norm_eps=1e-4)
    assert original != digest(rope_parameters={"rope_type": "default", "rope_theta": 1e4})


def test_stamping_leaves_the_template_as_it_was(template):
    traced = template("llama")
    before = traced.model.SerializeToString(deterministic=True)
    first, second = graph_digest(stamp(traced)), graph_digest(stamp(traced))
    assert first == second
    assert traced.model.SerializeToString(deterministic=True) == before


def test_a_stamped_graph_passes_the_onnx_checker():
    import onnx

    config = transformers_config(deep("qwen2"))
    lowered = lower_config(config, family_of("qwen2"))
    onnx.checker.check_model(with_weights(lowered, random_model(config)), full_check=True)


def test_a_difference_that_no_attribute_shows_makes_the_trace_whole(monkeypatch):
    def forward(self, *args, **kwargs):
        return FORWARD(self, *args, **kwargs) * (0.5 if self.self_attn.layer_idx >= 4 else 1.0)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    config = transformers_config(deep("llama"))
    because = "layers 0 and 5 look alike but compute different things"
    assert_traced_whole_and_right(config, family_of("llama"), because)


def test_layers_that_see_one_another_make_the_trace_whole(monkeypatch):
    entered = []

    def forward(self, hidden_states, *args, **kwargs):
        if self.self_attn.layer_idx == 0:
            entered.clear()
        entered.append(hidden_states)
        return FORWARD(self, hidden_states, *args, **kwargs) + (entered[-2] * 0.3 if len(entered) > 1 else 0)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    config, family = transformers_config(deep("llama")), family_of("llama")
    lowered = lower_config(config, family)
    assert "Tracing every layer, since node 'Add_" in lowered.notes[0]
    assert "sees several layers: [0, 5]" in lowered.notes[0]
    assert lowered.template.representative_of == tuple(range(6))
    assert error_against_transformers(lowered, config) <= 2e-5


def test_work_between_layers_makes_the_trace_whole(monkeypatch):
    def call(self, *args, **kwargs):
        return CALL(self, *args, **kwargs) * 0.9

    monkeypatch.setattr(LlamaDecoderLayer, "__call__", call, raising=False)
    config = transformers_config(deep("llama"))
    lowered = lower_config(config, family_of("llama"))
    assert "lies between layers" in lowered.notes[0]
    assert error_against_transformers(lowered, config) <= 2e-5


def test_a_model_without_a_stack_is_traced_whole(monkeypatch, report):
    from torch import nn

    config, family = transformers_config(fields_of("llama")), family_of("llama")
    known = trace(config, family, "fp32", full_depth=True, report=report)
    monkeypatch.setattr(layers, "find_stack", lambda _model: ("", nn.ModuleList()))
    lowered = lower_config(config, family)
    assert lowered.template.layers == ""
    assert lowered.template.representative_of == (0, 1, 2)
    assert graph_digest(stamp(lowered.template)) == graph_digest(stamp(known))
    assert error_against_transformers(lowered, config) <= 2e-5
