"""The twin catches what short prompts don't: windows, chunks and RoPE switches that are wrong where they begin."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgellm_core.errors import EdgellmError
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.twin import prove_lengths
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.tracing import dynamic_rope, masks
from edgellm_core.tracing import trace as trace_module
from edgellm_core.tracing.template import Reread
from edgellm_core.verification.errors import GenerationDiffersError
from edgellm_core.verification.twin.errors import TwinDiffersError
from tests.pipeline.conftest import LLAMA

MISTRAL = {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 300}
DYNAMIC = {**LLAMA, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}
PHI3 = {
    **LLAMA, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "pad_token_id": 2,
    "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "factor": 32.0, "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * 8, "long_factor": [2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 40.0, 50.0],
    },
}  # fmt: skip
DOGE = {**LLAMA, "model_type": "doge", "architectures": ["DogeForCausalLM"], "keep_window_size": 300}
LLAMA4 = {
    "model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"], "vocab_size": 131, "hidden_size": 96,
    "intermediate_size": 112, "intermediate_size_mlp": 112, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 20, "num_local_experts": 4, "max_position_embeddings": 4096,
    "attention_chunk_size": 300, "no_rope_layers": [1, 1, 0, 1],
    "layer_types": ["chunked_attention", "chunked_attention", "full_attention", "chunked_attention"],
}  # fmt: skip


def prove(config, notes=None):
    host = PluginHost.load(())
    selection = host.select(config, forced=None, directory=Path())
    report = Reporter("twin", lambda event: notes.append(event.message) if notes is not None else None)
    return prove_lengths(Path(), config, selection, host, report)


@pytest.mark.parametrize(
    ("config", "name"),
    [(MISTRAL, "sliding_window"), (DYNAMIC, "max_position_embeddings"), (LLAMA4, "attention_chunk_size")],
)
def test_right_graphs_pass_on_both_sides(config, name):
    notes = []
    record = prove(config, notes)
    found = next(threshold for threshold in record.thresholds if threshold.name == name)
    assert found.value == config[name]
    assert found.lengths == (found.run_as - 1, found.run_as, found.run_as + 1, 2 * found.run_as + 1)
    assert 0 < record.max_rel_err <= 1e-4
    assert record.longest >= 2 * found.run_as + 1
    assert name in notes[-1]


def test_equal_keys_are_not_compared():
    record = prove(DOGE)  # which of the keys of equal tokens a topk keeps is undetermined in the original too
    assert record.thresholds[0].name == "keep_window_size"
    assert record.answers.tokens == 48 * record.answers.prompts
    assert record.answers.ties == 0


def change_masks(change):
    def install(patch):
        kept = masks.classify_mask
        patch.setattr(masks, "classify_mask", lambda *given: (kind := kept(*given)) and change(kind))

    return install


def window_by(difference):
    return change_masks(lambda kind: replace(kind, window=kind.window and kind.window + difference))


def traced_with(key, difference):
    """Let the trace see another number than the original; not every mask is one of the known kinds."""

    def install(patch):
        kept = trace_module.trace

        def trace(config, *given, **named):
            other = copy.deepcopy(config)  # the original is made of this one
            setattr(other, key, getattr(config, key) + difference)
            return kept(other, *given, **named)

        patch.setattr(trace_module, "trace", trace)

    return install


def shift_switch(patch):
    kept = dynamic_rope._frequencies

    def early(module, stored, positions, layer_type):
        return kept(module, stored, positions + 1, layer_type)

    patch.setattr(dynamic_rope, "_frequencies", early)


def never_switch(patch):
    patch.setattr(dynamic_rope, "_frequencies", lambda _module, stored, positions, _kind: stored + 0 * positions.max())


MUTATIONS = {
    "no window": (MISTRAL, change_masks(lambda kind: replace(kind, window=0)), "beyond sliding_window"),
    "window longer by one": (MISTRAL, window_by(1), "beyond sliding_window"),
    "window shorter by one": (MISTRAL, window_by(-1), "at or below sliding_window"),
    "no chunk": (LLAMA4, traced_with("attention_chunk_size", 1000), "beyond attention_chunk_size"),
    "chunk longer by one": (LLAMA4, traced_with("attention_chunk_size", 1), "beyond attention_chunk_size"),
    "chunk shorter by one": (LLAMA4, traced_with("attention_chunk_size", -1), "at or below attention_chunk_size"),
    "frequencies never switch": (DYNAMIC, never_switch, "beyond max_position_embeddings"),
    "frequencies switch one early": (DYNAMIC, shift_switch, "max_position_embeddings"),
}


def test_answers_pass_the_switch_as_generate_does():
    answers = prove(PHI3).answers
    assert answers.tokens == 48 * answers.prompts
    assert 0 < answers.max_rel_err <= 1e-4


@pytest.mark.parametrize("moved", [None, -1, 1], ids=["never", "early", "late"])
def test_reading_again_elsewhere_is_caught(monkeypatch, moved):
    kept = trace_module.find_reread

    def found(model):
        reread = kept(model)
        return None if moved is None else Reread(reread.at + moved)

    monkeypatch.setattr(trace_module, "find_reread", found)
    with pytest.raises(GenerationDiffersError, match=r"must answer as transformers' generate does.* tokens before it"):
        prove(PHI3)


@pytest.mark.parametrize("name", MUTATIONS)
def test_wrong_lengths_are_caught(name, monkeypatch):
    config, mutate, said = MUTATIONS[name]
    mutate(monkeypatch)
    with pytest.raises(TwinDiffersError, match=said):
        prove(config)


def test_short_prompts_alone_do_not_see_the_window(tmp_path, quick, monkeypatch):
    checkpoint = write_tiny_checkpoint(tmp_path / "mistral", MISTRAL)
    monkeypatch.setattr("edgellm_core.pipeline.build._twin_stage", lambda *_: None)
    change_masks(lambda kind: replace(kind, window=0))(monkeypatch)
    assert build(str(checkpoint), tmp_path / "out", quick(use_cache=False)).manifest.verification.status == "passed"


def test_a_wrong_window_is_not_published(tmp_path, quick, monkeypatch):
    checkpoint = write_tiny_checkpoint(tmp_path / "mistral", MISTRAL)
    change_masks(lambda kind: replace(kind, window=0))(monkeypatch)
    with pytest.raises(EdgellmError, match=r"beyond sliding_window \(300, 9 in the twin\): .+ at 10 tokens"):
        build(str(checkpoint), tmp_path / "out", quick(use_cache=False))
    assert {path.name for path in tmp_path.iterdir()} == {"mistral"}


def test_the_manifest_names_lengths(tmp_path, quick):
    checkpoint = write_tiny_checkpoint(tmp_path / "mistral", MISTRAL)
    twin = build(str(checkpoint), tmp_path / "out", quick()).manifest.verification.twin
    assert [(one.name, one.value, one.run_as) for one in twin.thresholds] == [("sliding_window", 300, 9)]
    off = build(str(checkpoint), tmp_path / "off", quick(verify="off")).manifest.verification
    assert off.twin is None


def test_a_model_without_a_twin_is_told(monkeypatch):
    notes = []
    monkeypatch.setattr("edgellm_core.verification.twin.shrink.MOST_PARAMETERS", 10)
    record = prove(LLAMA, notes)
    assert record.longest == 0
    assert "widths can't be shrunk" in record.reason
    assert "Long lengths were not proved" in notes[-1]
    assert torch.get_num_threads() >= 1
