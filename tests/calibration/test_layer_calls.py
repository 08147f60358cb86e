"""Layer by layer, the samples flow through a model as transformers lets them flow."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgellm_core.calibration.errors import CalibrationMemoryError, NotLayerwiseError
from edgellm_core.calibration.forward import LayerForward, Pace
from edgellm_core.calibration.hidden_states import hold_states
from edgellm_core.calibration.layer_calls import LayerCall, head_inputs, record_calls
from edgellm_core.calibration.stack import open_stack
from edgellm_core.calibration.statistics import Measured, StatisticsCollector
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.testing.checkpoints import write_family_checkpoint

FAMILIES = ("llama", "gemma2", "gemma3_text", "gpt_oss", "cohere2", "qwen3", "granite", "mixtral", "phi", "dbrx")
"""Soft caps, sinks, windows in some layers, norms of heads, factors on the embedding, experts, parallel layers."""


@pytest.fixture
def forward(tmp_path, opened):
    """Return a function that prepares the layer-wise forward of a family's tiny checkpoint."""

    def make(name, samples=5, length=16):
        family = PluginHost.load()._claims.get("family", name)[1]
        folder = write_family_checkpoint(tmp_path / name, family)
        checkpoint, config = opened(folder)
        stack = open_stack(checkpoint, config, dtype=torch.float32, device=torch.device("cpu"))
        text = config.get_text_config()
        ids = torch.randint(0, text.vocab_size, (samples, length), generator=torch.Generator().manual_seed(2))
        states = hold_states(
            tmp_path / "states", (samples, length, text.hidden_size), torch.float32, torch.device("cpu")
        )
        return folder, LayerForward(stack, ids, states)

    return make


def pace(forward):
    return Pace(report=Reporter("test"), total=1, samples=1, started=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_the_whole_model(forward, family):
    folder, layerwise = forward(family)
    layerwise.batch = 2  # the last batch is smaller
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    entering_head = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _module, args: entering_head.append(args[0]))
    with torch.no_grad():
        whole = model(layerwise.ids, output_hidden_states=True, use_cache=False).hidden_states
        layerwise.prepare(fresh=True)
        depth = len(layerwise.stack.layers)
        for index in range(depth):
            assert torch.allclose(layerwise.states.entering(index), whole[index], rtol=1e-4, atol=1e-5), index
            with layerwise.stack.loaded(layerwise.stack.layer_path(index)):
                layerwise.run(index, StatisticsCollector({}, lambda _path: Measured()), pace(layerwise), 0, {})
        found = []
        with layerwise._outside_loaded():
            for rows in layerwise._rows():
                calls = layerwise._calls[len(rows)]
                hidden = layerwise.states.entering(depth)[rows.start : rows.stop]
                found.append(head_inputs(layerwise.stack, layerwise._ids(rows), hidden, in_tuple=calls.in_tuple))
    assert torch.allclose(torch.cat(found), entering_head[0], rtol=1e-4, atol=1e-5)


def test_an_argument_that_depends_on_the_tokens_is_refused(forward):
    _folder, layerwise = forward("llama")
    stack = layerwise.stack
    seen = []
    stack.model.register_forward_pre_hook(lambda _m, _args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    with torch.no_grad(), stack.loaded(*stack.outside(), stack.layer_path(0)):
        assert len(record_calls(stack, layerwise.ids[:2]).calls) == len(stack.layers)
        stack.layers[1].register_forward_pre_hook(
            lambda _m, args, kwargs: (args, {**kwargs, "tokens": float(seen[-1].sum())}), with_kwargs=True
        )
        with pytest.raises(NotLayerwiseError, match="argument 'tokens' of layer 1 depends on the tokens"):
            record_calls(stack, layerwise.ids[:2])


def test_a_change_between_two_layers_is_refused(forward):
    _folder, layerwise = forward("llama")
    stack = layerwise.stack
    stack.layers[1].register_forward_pre_hook(lambda _m, args: (args[0] * 1.0, *args[1:]))
    with (
        torch.no_grad(),
        stack.loaded(*stack.outside(), stack.layer_path(0)),
        pytest.raises(NotLayerwiseError, match="input of layer 1 is not what layer 0 returns"),
    ):
        record_calls(stack, layerwise.ids[:2])


def test_an_argument_that_holds_state_is_refused(forward, monkeypatch):
    _folder, layerwise = forward("llama")
    stack = layerwise.stack
    calls = []

    def split(args, kwargs):
        calls.append(1)
        return args[0], LayerCall(arguments=(), named={**kwargs, "shared": {}}, by_name=False)

    monkeypatch.setattr("edgellm_core.calibration.layer_calls._split", split)
    names = [*stack.outside(), stack.layer_path(0)]
    with torch.no_grad(), stack.loaded(*names), pytest.raises(NotLayerwiseError, match="argument 'shared' of layer 0"):
        record_calls(stack, layerwise.ids[:2])
    assert calls


def test_weights_are_in_memory_only_while_they_are_used(forward):
    _folder, layerwise = forward("llama")
    stack = layerwise.stack
    path = stack.layer_path(0)
    parameters = dict(stack.model.named_parameters())
    assert {parameter.device.type for parameter in parameters.values()} == {"meta"}
    with stack.loaded(path):
        loaded = {name for name, value in stack.model.named_parameters() if value.device.type == "cpu"}
    assert loaded == {name for name in parameters if name.startswith(f"{path}.")}
    assert {parameter.device.type for parameter in stack.model.parameters()} == {"meta"}


def test_a_gpu_that_is_too_small_gets_smaller_batches_and_then_a_message(forward):
    _folder, layerwise = forward("llama", samples=4)
    with torch.no_grad():
        layerwise.prepare(fresh=True)
        assert layerwise.batch == 4
        layerwise.shrink("model.layers.0")
        assert layerwise.batch == 2
        layerwise.batch = 1
        with pytest.raises(CalibrationMemoryError, match=r"Calibrating model.layers.0 .* 1 sample of 16 tokens"):
            layerwise.shrink("model.layers.0")
