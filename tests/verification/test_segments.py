"""A graph cut into segments computes what the whole graph computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgellm_core.verification.cases import case_steps, plan_cases
from edgellm_core.verification.graph_chain import GraphChain
from edgellm_core.verification.parts import Part, plan_parts, whole
from edgellm_core.verification.segments import can_be_cut, cut, hidden_name, state_layer
from edgellm_core.verification.subject import make_subject

PROMPTS = ((1, 2, 3, 4, 5), (6, 9, 8) * 3, (7, 12, 3) * 5)


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


def test_segments_share_no_node_that_computes_and_hand_on_the_hidden_state(exported):
    graph = onnx.load(exported("qwen2").model, load_external_data=False).graph
    depth = 4
    assert can_be_cut(graph, depth)
    segments = cut(graph, plan_parts([1] * (depth + 2), largest=1), depth)
    assert [segment.part for segment in segments] == [Part(-1, 1), Part(1, 2), Part(2, 3), Part(3, 4), Part(4, 5)]
    for layer, segment in enumerate(segments[:-1]):
        assert hidden_name(layer) in segment.handed
        assert f"present.{layer}.key" in segment.outputs
    assert segments[-1].outputs == ("logits",)
    assert set(range(len(graph.node))) == {node for segment in segments for node in segment.nodes}


def test_a_graph_without_hidden_states_can_not_be_cut(exported):
    graph = onnx.load(exported("llama").model, load_external_data=False).graph
    assert not can_be_cut(graph, 10)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_in_parts_a_graph_computes_bit_for_bit_the_same(exported, family):
    export = exported(family)
    subject = make_subject(export.model, export.checkpoint, export.family, precision="fp32")
    plays = [case_steps(case) for case in plan_cases(PROMPTS)]
    found = []
    for parts in (whole(subject.depth), plan_parts([1] * (subject.depth + 2), largest=1)):
        chain = GraphChain(subject, plays, parts)
        for index in range(len(parts)):
            chain.advance(index)
        found.append([step.logits for play in chain.steps for step in play])
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))
