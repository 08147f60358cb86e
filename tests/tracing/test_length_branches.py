"""Branches of a model's own code on the length: the long side goes into the graph, or the length is named."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.doge.modeling_doge import DogeAttention

from edgellm_core.events import Reporter
from edgellm_core.generic import GenericFamily
from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.trace import trace

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def traced(model_type, notes=None, **fields):
    config = CONFIG_MAPPING[model_type](**SIZES, **fields)
    report = Reporter("trace", lambda event: notes.append(event.message) if notes is not None else None)
    return trace(config, GenericFamily(), "fp32", full_depth=False, report=report)


@pytest.mark.parametrize("length", [6, 100, 8400])
def test_the_long_side_is_traced_wherever_the_length_lies(length):
    notes = []
    graph = traced("doge", notes, keep_window_size=length, max_position_embeddings=16384).model.graph
    counts = [node for node in graph.node if node.op_type == "TopK"]
    assert counts
    producers = {output: node.op_type for node in graph.node for output in node.output}
    assert {producers[producers_input(graph, node.input[1])] for node in counts} == {"Min"}
    assert any(f"decides at {length} tokens" in note and "modeling_doge.py" in note for note in notes)


def producers_input(graph, name):
    """Return the value that a reshape takes."""
    return next(node.input[0] for node in graph.node if name in node.output)


def refuse_long(self, hidden_states, dt_states, keep_window_size=2048, attention_mask=None):
    if dt_states.shape[-1] > keep_window_size:
        message = "too long"
        raise ValueError(message)
    return attention_mask.expand(-1, dt_states.shape[1], -1, -1)


def test_a_long_side_that_raises_is_refused_by_the_key_of_the_config(monkeypatch):
    monkeypatch.setattr(DogeAttention, "prepare_dynamic_mask", refuse_long)
    said = r"test_length_branches.py:\d+ \(.+\) decides at 8400 tokens, which is keep_window_size, .+ too long"
    with pytest.raises(UntraceableModelError, match=said):
        traced("doge", keep_window_size=8400, max_position_embeddings=16384)


def test_a_length_where_the_context_ends_is_a_limit(monkeypatch):
    monkeypatch.setattr(DogeAttention, "prepare_dynamic_mask", refuse_long)
    notes = []
    traced("doge", notes, keep_window_size=8400, max_position_embeddings=8400)
    assert any("decides at 8400 tokens" in note for note in notes)


def test_a_branch_on_a_tensor_goes_into_the_graph():
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, **factors}
    rope |= {"short_mscale": 1.25, "long_mscale": 1.5}
    template = traced("phimoe", rope_parameters=rope, num_local_experts=4, max_position_embeddings=256)
    assert "Where" in {node.op_type for node in template.model.graph.node}
