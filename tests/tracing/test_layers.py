"""Kinds of decoder layers: told apart by what they are made of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from decoders import deep
from torch import nn

from edgellm_core.testing.lowering import transformers_config
from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.layers import analyse_stack, depth_of, find_stack, keep_traced_layers
from edgellm_core.tracing.stamping import NotStampableError
from edgellm_core.tracing.weightless import build_weightless


@pytest.fixture
def model():
    """Llama with six layers, on the meta device."""
    return build_weightless(transformers_config(deep("llama")), torch.float32)


def other_scalar(layer):
    layer.self_attn.scaling = 0.123


def other_width(layer):
    layer.mlp.up_proj = nn.Linear(96, 128, device="meta")


def other_class(layer):
    layer.input_layernorm = nn.LayerNorm(96, device="meta")


def another_parameter(layer):
    layer.self_attn.sinks = nn.Parameter(torch.empty(6, device="meta"))


def without_a_bias(layer):
    layer.self_attn.q_proj.bias = None


def other_list(layer):
    layer.mlp.split = [1, 2]


def test_equal_layers_are_one_kind(model):
    stack = analyse_stack(model, full_depth=False)
    assert (stack.path, stack.kind_of, stack.traced) == ("model.layers", (0,) * 6, (0, 5))
    assert stack.guards == ((0, 5),)
    assert stack.representative_of == (0,) * 6


@pytest.mark.parametrize(
    "change",
    [other_scalar, other_width, other_class, another_parameter, without_a_bias, other_list],
    ids=lambda change: change.__name__,
)
def test_a_structural_difference_makes_another_kind(model, change):
    for index in (2, 3):
        change(model.model.layers[index])
    stack = analyse_stack(model, full_depth=False)
    assert stack.kind_of == (0, 0, 1, 1, 0, 0)
    assert stack.traced == (0, 2, 3, 5)
    assert stack.guards == ((0, 5), (2, 3))
    assert stack.representative_of == (0, 0, 2, 2, 0, 0)


def test_index_and_private_attributes_make_no_kind(model):
    for index, layer in enumerate(model.model.layers):
        layer._label = f"layer {index}"
        layer.layer_idx = index
    assert analyse_stack(model, full_depth=False).kind_of == (0,) * 6


def test_a_kind_that_occurs_once_has_no_guard(model):
    other_scalar(model.model.layers[1])
    stack = analyse_stack(model, full_depth=False)
    assert (stack.traced, stack.guards) == ((0, 1, 5), ((0, 5),))


def test_full_depth_makes_every_layer_its_own_kind(model):
    stack = analyse_stack(model, full_depth=True)
    assert (stack.kind_of, stack.traced, stack.guards) == (tuple(range(6)), tuple(range(6)), ())


def test_layer_types_of_the_config_make_kinds():
    model = build_weightless(transformers_config(deep("qwen2")), torch.float32)
    assert analyse_stack(model, full_depth=False).kind_of == (0, 1) * 3


def test_a_model_without_a_list_of_its_depth_has_no_stack(model):
    model.config.num_hidden_layers = 7
    assert find_stack(model)[0] == ""
    assert analyse_stack(model, full_depth=False) is None


def test_the_largest_list_of_the_depth_is_the_stack(model):
    wrapped = nn.Module()
    wrapped.config = model.config
    wrapped.gates = nn.ModuleList(nn.Linear(2, 2) for _ in range(6))
    wrapped.inner = model
    assert find_stack(wrapped)[0] == "inner.model.layers"


def test_kept_layers_keep_their_index_and_the_config_shrinks():
    model = build_weightless(transformers_config(deep("qwen2")), torch.float32)
    keep_traced_layers(model, analyse_stack(model, full_depth=False))
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 4, 5]
    assert model.config.num_hidden_layers == 4
    assert model.config.layer_types == ["sliding_attention", "full_attention"] * 2


def test_a_config_that_computes_its_layer_types_can_not_shrink(model, monkeypatch):
    computed = property(lambda self: ["full_attention"] * 6)
    monkeypatch.setattr(type(model.config), "layer_types", computed, raising=False)
    stack = analyse_stack(model, full_depth=False)
    with pytest.raises(NotStampableError, match=r"LlamaConfig computes its layer_types"):
        keep_traced_layers(model, stack)


def test_depth_is_that_of_the_whole_model(model):
    stack = analyse_stack(model, full_depth=False)
    keep_traced_layers(model, stack)
    assert depth_of(model, stack) == 6
    assert depth_of(build_weightless(transformers_config(deep("llama")), torch.float32), None) == 6


def test_unknown_depth_is_refused():
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=object))
    with pytest.raises(UntraceableModelError, match="its config has no num_hidden_layers"):
        depth_of(model, None)
