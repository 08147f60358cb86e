"""Cut graphs, cut configs, and how many layers are kept."""

from __future__ import annotations

import onnx
import pytest
from transformers import AutoConfig

from edgellm_core.verification.bisect import STANDS_OUT, choose_part, part_name
from edgellm_core.verification.cut import cut_after, state_layer
from edgellm_core.verification.errors import GraphNotCuttableError
from edgellm_core.verification.subject import cut_config, keep_every_kind


@pytest.mark.parametrize(
    ("kind_of", "kept"),
    [((0,) * 30, 2), ((0,), 1), ((0, 1, 0, 1), 2), ((0, 0, 0, 0, 0, 1, 0), 6), ((0, 1, 2, 3), 4)],
)
def test_every_kind_of_layer_is_kept(kind_of, kept):
    assert keep_every_kind(kind_of) == kept


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("past_key_values.3.key", 3),
        ("present.12.value", 12),
        ("past_state.0.conv", 0),
        ("present_state.7.recurrent", 7),
        ("position_ids", None),
        ("logits", None),
    ],
)
def test_a_states_layer_is_read_from_its_name(name, layer):
    assert state_layer(name) == layer


def test_a_cut_graph_has_the_first_layers_and_the_head_only(exported):
    model = onnx.load(exported("qwen2").model, load_external_data=False)
    before = model.SerializeToString(deterministic=True)
    graph = cut_after(model, 2, 4).graph
    assert model.SerializeToString(deterministic=True) == before
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    assert {"past_key_values.1.key", "present.1.value", "logits", "lm_head.weight", "model.norm.weight"} <= names
    assert "model.layers.1.mlp.up_proj.weight" in names
    assert not any(part in name for name in names for part in (".2.", ".3."))
    assert not any(name.startswith(("layers.2/", "layers.3/")) for name in (node.name for node in graph.node))


def test_a_graph_without_hidden_states_can_not_be_cut(exported):
    model = onnx.load(exported("llama").model, load_external_data=False)
    with pytest.raises(GraphNotCuttableError, match=r"it has no tensor 'hidden_states\.9'"):
        cut_after(model, 2, 10)


def test_a_cut_config_has_one_entry_a_layer():
    kinds = ["sliding_attention", "full_attention"] * 4
    config = AutoConfig.for_model("qwen2", num_hidden_layers=8, layer_types=kinds, use_sliding_window=True)
    cut = cut_config(config, 3)
    assert (cut.num_hidden_layers, cut.layer_types) == (3, kinds[:3])
    assert (config.num_hidden_layers, config.layer_types) == (8, kinds)


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        ([1e-7, 5e-7, 1.0, 1e-7], 2),
        ([1e-7, 0.5, 1.0, 1.0], 1),
        ([1e-7, 4e-6, 1.0, float("nan")], 3),
        ([0.9 * STANDS_OUT, 1.0], 1),
        ([0.0, 0.0, 0.0], 0),
    ],
)
def test_the_first_part_that_stands_out_is_chosen(errors, first):
    assert choose_part(errors) == first


@pytest.mark.parametrize(
    ("layer", "name"),
    [(-1, "the embedding"), (0, "decoder layer 0"), (2, "decoder layer 2"), (3, "the final norm or the head")],
)
def test_parts_are_named(layer, name):
    assert part_name(layer, 3) == name
