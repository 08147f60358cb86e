"""Lengths are found by what the original computes, not by the names of keys."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from edgellm_core.verification.twin.lengths import plan_lengths, shorten
from edgellm_core.verification.twin.shrink import shrink
from edgellm_core.verification.twin.thresholds import Threshold, find_thresholds

LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4096,
    "short_factor": [1 + index / 20 for index in range(48)], "long_factor": [2.0 + 4 * index for index in range(48)],
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("model_type", "changes", "expected"),
    [
        ("llama", {}, {}),
        ("llama", {"rope_parameters": YARN}, {}),
        ("llama", {"rope_parameters": DYNAMIC}, {"max_position_embeddings": 2048}),
        ("mistral", {"sliding_window": 4096}, {"sliding_window": 4096}),
        ("mistral", {"sliding_window": None}, {}),
        ("qwen2", {"use_sliding_window": False}, {}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 21}, {"sliding_window": 4096}),
        ("gemma3_text", {}, {"sliding_window": 4096}),
        ("gpt_neo", {}, {"window_size": 256}),
        ("doge", {}, {"keep_window_size": 2048}),
        (
            "phi3",
            {"rope_parameters": LONGROPE, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096},
            {"original_max_position_embeddings": 4096},
        ),
        ("llama4_text", {}, {"attention_chunk_size": 8192}),
    ],
)
def test_lengths_of_a_config(model_type, changes, expected):
    small = shrink(CONFIG_MAPPING[model_type](**changes), CONFIG_MAPPING[model_type].from_dict)
    assert {threshold.name: threshold.value for threshold in find_thresholds(small)} == expected


def thresholds(*values):
    return [Threshold(paths=((f"key{value}",),), value=value, exact=True) for value in values]


@pytest.mark.parametrize(
    ("values", "lengths"), [((4096,), [9]), ((5, 4096, 131072), [5, 9, 13]), ((12, 30), [12, 30]), ((), [])]
)
def test_long_lengths_become_short_ones_in_the_same_order(values, lengths):
    fields = {f"key{value}": value for value in values} | {"max_position_embeddings": 262144}
    short, edges = shorten(fields, thresholds(*values))
    assert [edge.length for edge in edges] == lengths
    assert [short[f"key{value}"] for value in values] == lengths


def test_a_context_is_scaled_with_the_length_that_it_is_a_multiple_of():
    short, _ = shorten({"key4096": 4096, "max_position_embeddings": 131072}, thresholds(4096))
    assert short == {"key4096": 9, "max_position_embeddings": 288}


@pytest.mark.parametrize("length", [2, 3, 4, 30])
def test_no_step_reads_nothing(length):
    _, edges = shorten({f"key{length}": length}, thresholds(length))
    cases = plan_lengths(edges, vocabulary=50, one_token=False)
    assert all(size > 0 for case in cases for size in case.chunks)
    assert all(sum(case.chunks) == max(map(len, case.rows)) for case in cases)


def test_prompts_end_on_both_sides_of_each_length():
    _, edges = shorten({"key4096": 4096}, thresholds(4096))
    cases = plan_lengths(edges, vocabulary=50, one_token=False)
    assert {8, 9, 10, 19} <= {case.chunks[0] for case in cases if case.name == "read whole"}
    assert {case.name for case in cases} == {"read whole", "read in chunks", "read token by token", "padded batch"}
    assert all(sum(case.chunks) == max(map(len, case.rows)) for case in cases)


def test_a_graph_of_one_token_a_step_is_compared_in_single_steps():
    _, edges = shorten({"key4096": 4096}, thresholds(4096))
    cases = plan_lengths(edges, vocabulary=50, one_token=True)
    assert {size for case in cases for size in case.chunks} == {1}
    assert any(len(case.rows) == 2 for case in cases)
