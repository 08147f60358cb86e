"""The lowered graph with the model's own weights against transformers, in float32."""

from __future__ import annotations

import numpy as np
import pytest
from decoders import CORE, FAMILIES, GENERIC_NAMES
from onnx import TensorProto

from edgellm_core.testing.lowering import padded_tokens, relative_error, run_session, run_transformers

LARGEST_ERROR = 2e-5
DECODERS = [*FAMILIES, *GENERIC_NAMES]
RUNS = {
    "prefill": ([0], [11]),
    "one token": ([0], [1]),
    "left padding and decode": ([0, 3], [11, 1, 1, 1]),
    "chunked prefill": ([4, 0, 1], [6, 7, 1]),
    "chunk of a wholly padded row": ([0, 6], [3, 5, 2]),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", DECODERS)
def test_logits_equal_those_of_transformers(decoder, name, run):
    paddings, chunks = RUNS[run]
    model, _lowered, session = made = decoder(name)
    ids, mask = padded_tokens(paddings, sum(chunks), made.vocab)
    found, expected = run_session(session, ids, mask, chunks), run_transformers(model, ids, mask, chunks)
    assert [part.shape for part in found] == [part.shape for part in expected]
    assert all(np.isfinite(part).all() for part in found)
    assert relative_error(found, expected, mask) <= LARGEST_ERROR


@pytest.mark.parametrize("name", DECODERS)
def test_every_semantic_operator_is_lowered(decoder, name):
    assert decoder(name).lowered.leftover == []


@pytest.mark.parametrize("name", DECODERS)
def test_padding_reaches_the_logits(decoder, name):
    made = decoder(name)
    ids, mask = padded_tokens([0, 3], 9, made.vocab)
    _ids, whole = padded_tokens([0, 0], 9, made.vocab)
    padded, unpadded = run_session(made.session, ids, mask, [9]), run_session(made.session, ids, whole, [9])
    assert relative_error(padded, unpadded, mask) > 0.05


@pytest.mark.parametrize("name", DECODERS)
def test_inputs_and_outputs_are_those_of_the_target(decoder, name):
    made = decoder(name)
    graph = made.lowered.model.graph
    layers = range(len(made.lowered.template.representative_of))
    assert [value.name for value in graph.input] == [
        "input_ids",
        "attention_mask",
        "position_ids",
        *(f"past_key_values.{layer}.{part}" for layer in layers for part in ("key", "value")),
    ]
    assert [value.name for value in graph.output] == [
        "logits",
        *(f"present.{layer}.{part}" for layer in layers for part in ("key", "value")),
    ]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert shapes["input_ids"] == shapes["position_ids"] == ["batch", "seq"]
    assert shapes["attention_mask"] == ["batch", "past + seq"]
    assert shapes["logits"] == ["batch", "seq", made.vocab]
    assert shapes["past_key_values.0.key"][::2] == ["batch", "past"]
    assert shapes["present.0.key"][::2] == ["batch", "past + seq"]
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    assert all((types[name] == TensorProto.INT64) == (not name.startswith("past_")) for name in types)


@pytest.mark.parametrize("name", DECODERS)
def test_hidden_states_have_their_names(decoder, name):
    made = decoder(name)
    layers = len(made.lowered.template.representative_of)
    values = {value for node in made.lowered.model.graph.node for value in node.output}
    assert {"hidden_states.input", *(f"hidden_states.{layer}" for layer in range(layers))} <= values


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_are_those_of_transformers(decoder, name):
    import onnx
    import torch
    from onnx import helper

    from edgellm_core.testing.lowering import open_session, positions, with_weights

    made = decoder(name)
    layers = len(made.lowered.template.representative_of)
    names = ["hidden_states.input", *(f"hidden_states.{layer}" for layer in range(layers - 1))]
    bound = with_weights(made.lowered, made.model)
    for value in names:
        bound.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    session = open_session(bound)
    ids, mask = padded_tokens([0], 9, made.vocab)
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
    for value in session.get_inputs()[3:]:
        feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    found = session.run(names, feeds)
    with torch.no_grad():
        expected = made.model(torch.from_numpy(ids), output_hidden_states=True).hidden_states
    for ours, theirs in zip(found, expected, strict=False):
        assert np.abs(ours - theirs.numpy()).max() <= LARGEST_ERROR * float(theirs.abs().max())


@pytest.mark.parametrize("name", CORE)
def test_float16_stays_close(decoder, name):
    """float16 has 11 bits: 2e-2 of the largest logit is the gate's own tolerance."""
    from decoders import family_of

    from edgellm_core.testing.lowering import lower_config, run_graph, with_weights

    made = decoder(name)
    bound = with_weights(lower_config(made.model.config, family_of(name), "fp16"), made.model)
    ids, mask = padded_tokens([0, 3], 12, made.vocab)
    found = run_graph(bound, ids, mask, [10, 1, 1])
    assert found[0].dtype == np.float16
    assert relative_error(found, run_transformers(made.model, ids, mask, [10, 1, 1]), mask) < 2e-2


def test_the_way_through_torch_onnx_is_right_and_stamped_too(decoder, monkeypatch):
    """torch.onnx repeats in every layer what layers share; the guard must not take that for a difference."""
    from decoders import family_of

    from edgellm_core.testing.lowering import lower_config, run_graph, with_weights
    from edgellm_core.tracing import trace
    from edgellm_core.tracing.converter import UnsupportedOperatorError

    def refuse_every_operator(*_arguments):
        raise UnsupportedOperatorError("aten.any")

    monkeypatch.setattr(trace, "_by_table", refuse_every_operator)
    made = decoder("qwen2")
    lowered = lower_config(made.model.config, family_of("qwen2"))
    assert lowered.template.representative_of == (0, 1, 0, 1)
    ids, mask = padded_tokens([0, 3], 12, made.vocab)
    found = run_graph(with_weights(lowered, made.model), ids, mask, [9, 1, 2])
    assert relative_error(found, run_transformers(made.model, ids, mask, [9, 1, 2]), mask) <= LARGEST_ERROR
    inputs = {value.name: value for value in lowered.model.graph.input}
    assert [dim.dim_param for dim in inputs["attention_mask"].type.tensor_type.shape.dim] == ["batch", "past + seq"]
