"""Builds of decoders that carry more than keys and values, against transformers: the gate, padding, greedy tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgellm_core.pipeline.build import build
from edgellm_core.runtime import DecoderSession, generate, left_pad
from edgellm_core.testing.checkpoints import write_tiny_checkpoint

pytestmark = pytest.mark.slow
SIZES = {
    "vocab_size": 131, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
WITHOUT_HEAD_DIM = {key: value for key, value in SIZES.items() if key != "head_dim"}
LATENT = {"kv_lora_rank": 24, "q_lora_rank": 28, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 14}
ROUTED = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "num_experts_per_tok": 2,
          "moe_intermediate_size": 40, "first_k_dense_replace": 1}  # fmt: skip
MAMBA = {"vocab_size": 131, "hidden_size": 48, "num_hidden_layers": 3, "state_size": 8, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip

DECODERS = {
    "falcon_mamba": {**MAMBA, "time_step_rank": 4},
    "mamba2": {**MAMBA, "num_heads": 6, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "qwen3_next": {**SIZES, "layer_types": ["linear_attention", "full_attention"] * 2, "linear_key_head_dim": 8,
                   "linear_value_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                   "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                   "shared_expert_intermediate_size": 24},
    "lfm2": {**WITHOUT_HEAD_DIM, "layer_types": ["conv", "full_attention"] * 2},
    "jamba": {**WITHOUT_HEAD_DIM, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
              "mamba_dt_rank": 4, "num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v32": {**WITHOUT_HEAD_DIM, **LATENT, **ROUTED, "num_key_value_heads": 6, "index_topk": 4,
                     "index_head_dim": 16, "index_n_heads": 16},
}  # fmt: skip
ONE_TOKEN = {"falcon_mamba", "mamba2", "qwen3_next", "jamba"}
"""Decoders whose step of several tokens can't be exported."""

STATES = {
    "falcon_mamba": ["past_state.0.conv", "past_state.0.recurrent", "past_state.1.conv"],
    "mamba2": ["past_state.0.conv", "past_state.0.recurrent", "past_state.1.conv"],
    "qwen3_next": ["past_state.0.conv", "past_state.0.recurrent", "past_key_values.1.key", "past_key_values.1.value"],
    "lfm2": ["past_state.0.conv", "past_key_values.1.key", "past_key_values.1.value", "past_state.2.conv"],
    "jamba": ["past_state.0.conv", "past_state.0.recurrent", "past_key_values.1.key", "past_key_values.1.value"],
    "deepseek_v32": ["past_key_values.0.indexer", "past_key_values.0.key", "past_key_values.0.value"],
}
PROMPTS = [[5, 17, 3, 44, 9, 21, 30, 8, 77], [7, 2, 40]]


class Built(NamedTuple):
    """A checkpoint and what was built from it."""

    name: str
    checkpoint: object
    bundle: object
    notes: list[str]

    @property
    def graph(self):
        return self.bundle.directory / "llm" / "model.onnx"


@pytest.fixture(scope="module", params=DECODERS)
def built(request, tmp_path_factory, quick):
    """A tiny decoder, built through the whole pipeline in float32 with the gate."""
    folder = tmp_path_factory.mktemp(request.param)
    fields = {"model_type": request.param, **DECODERS[request.param]}
    checkpoint = write_tiny_checkpoint(folder / "checkpoint", fields)
    events = []
    bundle = build(str(checkpoint), folder / "out", quick(use_cache=False), listener=events.append)
    return Built(request.param, checkpoint, bundle, [event.message for event in events])


@pytest.fixture(scope="module")
def original(built):
    """The same checkpoint in transformers."""
    return AutoModelForCausalLM.from_pretrained(built.checkpoint, dtype=torch.float32).eval()


def test_the_gate_passes(built):
    verification = built.bundle.manifest.verification
    assert verification.status == "passed"
    assert verification.greedy_tokens_equal
    assert verification.max_rel_err < 5e-5


def test_states_are_named_after_their_layer_and_kind(built):
    graph = onnx.load(built.graph, load_external_data=False).graph
    inputs = [value.name for value in graph.input if value.name.startswith("past_")]
    outputs = [value.name for value in graph.output if value.name != "logits"]
    assert inputs[: len(STATES[built.name])] == STATES[built.name]
    renamed = [name.replace("past_key_values", "present").replace("past_state", "present_state") for name in inputs]
    assert outputs == renamed
    batches = {value.type.tensor_type.shape.dim[0].dim_param for value in [*graph.input, *graph.output]}
    assert batches == {"batch"}


def test_the_graph_takes_one_token_a_step_only_where_it_has_to(built):
    graph = onnx.load(built.graph, load_external_data=False).graph
    ids = next(value for value in graph.input if value.name == "input_ids")
    assert (ids.type.tensor_type.shape.dim[1].dim_value == 1) == (built.name in ONE_TOKEN)
    assert any("prefill runs token by token" in note for note in built.notes) == (built.name in ONE_TOKEN)


def test_left_padding_changes_nothing(built, original):
    session = DecoderSession(built.graph, threads=1)
    logits, _ = session.run(*left_pad(PROMPTS), session.initial_states(2))
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            expected = original(input_ids=torch.tensor([prompt])).logits[0].numpy()
        found = logits[row, -len(prompt) :]
        assert np.abs(found - expected).max() / np.abs(expected).max() < 5e-5


def test_padding_leaves_no_trace_in_the_states(built):
    session = DecoderSession(built.graph, threads=1)
    _, states = session.run(*left_pad([PROMPTS[1], PROMPTS[0]], pad_id=11), session.initial_states(2))
    _, alone = session.run(*left_pad(PROMPTS[1:]), session.initial_states(1))
    for name in session.state_names:
        if name.startswith("past_state."):
            np.testing.assert_allclose(states[name].numpy()[:1], alone[name].numpy(), atol=1e-5)


def test_greedy_tokens_are_those_of_transformers(built, original):
    session = DecoderSession(built.graph, threads=1)
    found = list(generate(session, PROMPTS[0], max_new_tokens=10))
    ids = torch.tensor([PROMPTS[0]])
    whole = original.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, eos_token_id=None
    )
    assert found == whole[0, len(PROMPTS[0]) :].tolist()
