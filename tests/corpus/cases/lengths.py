"""Lengths at which a model changes what it computes: windows, chunks, RoPE that scales, keys that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.corpus.case import Made, case
from tests.corpus.checkpoints import LLAMA, llama

if TYPE_CHECKING:
    from pathlib import Path

ALTERNATING = ["sliding_attention", "full_attention"] * 2
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0],
}  # fmt: skip


def _model(folder: Path, model_type: str, **fields: Any) -> Made:
    """Write a small decoder of another type over the Llama's sizes."""
    kept = {key: value for key, value in LLAMA.items() if key != "architectures"}
    return Made(write_tiny_checkpoint(folder / "model", {**kept, "model_type": model_type, **fields}))


@case(outcome="right", lengths=(3, 23, 24, 25, 70), note="sliding_window (24)")
def window_within_prompts(folder: Path) -> Made:
    """A window that prompts pass."""
    return _model(folder, "mistral", sliding_window=24)


@case(outcome="right", note="sliding_window (4096, 9 in the twin)")
def window_beyond_prompts(folder: Path) -> Made:
    """A window longer than every prompt of the gate."""
    return _model(folder, "mistral", sliding_window=4096, max_position_embeddings=32768)


@case(outcome="right", lengths=(3, 80), note="sliding_window (40)")
def window_of_some_layers(folder: Path) -> Made:
    """Qwen2 whose last two layers have a window, by ``max_window_layers``."""
    return _model(folder, "qwen2", num_hidden_layers=4, use_sliding_window=True, max_window_layers=2, sliding_window=40)


@case(outcome="right", lengths=(3, 90), note="sliding_window (48, 9 in the twin)")
def window_alternating(folder: Path) -> Made:
    """Windows in every second layer, with another RoPE, as Gemma 3 has them."""
    return _model(
        folder, "gemma3_text", num_hidden_layers=4, layer_types=ALTERNATING, sliding_window=48, head_dim=8,
        query_pre_attn_scalar=8,
    )  # fmt: skip


@case(outcome="right", lengths=(3, 50), note="attention_chunk_size (16)")
def chunks(folder: Path) -> Made:
    """Attention in chunks, with full layers between, as Llama 4 has it."""
    return _model(
        folder, "llama4_text", num_hidden_layers=4, attention_chunk_size=16, num_local_experts=4, head_dim=8,
        intermediate_size_mlp=48, no_rope_layers=[1, 1, 0, 1], moe_layers=[1, 3],
        layer_types=["chunked_attention", "chunked_attention", "full_attention", "chunked_attention"],
    )  # fmt: skip


@case(outcome="right", lengths=(3, 100), note="max_position_embeddings (256, 9 in the twin)")
def dynamic_ntk_beyond_prompts(folder: Path) -> Made:
    """RoPE whose base grows with the length beyond the context."""
    return Made(llama(folder, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}))


@case(outcome="right", lengths=(3, 200))
def yarn_over_long_prompts(folder: Path) -> Made:
    """YaRN over eight times the original context."""
    rope = {"rope_type": "yarn", "factor": 8.0, "rope_theta": 10000.0, "original_max_position_embeddings": 32}
    return Made(llama(folder, rope_parameters=rope))


@case(outcome="right", lengths=(3, 200))
def linear_scaling(folder: Path) -> Made:
    """Positions divided by four."""
    return Made(llama(folder, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}))


@case(outcome="right", lengths=(3, 60), new_tokens=0, note="original_max_position_embeddings (64, 9 in the twin)")
def longrope_of_experts(folder: Path) -> Made:
    """Phi-MoE's LongRoPE, whose code branches on a tensor."""
    return _model(
        folder, "phimoe", num_local_experts=4, original_max_position_embeddings=64,
        rope_parameters={**LONG, "short_mscale": 1.2, "long_mscale": 1.3},
    )  # fmt: skip


@case(outcome="right", note="keep_window_size (8400, 9 in the twin)")
def kept_keys_beyond_prompts(folder: Path) -> Made:
    """Doge, which keeps the largest 8400 keys of longer texts: a branch on the length in its code."""
    return _model(folder, "doge", keep_window_size=8400, max_position_embeddings=16384)


@case(outcome="refused", values_only=True, message="which is undetermined in 'prompt alone'")
def kept_keys_within_prompts(folder: Path) -> Made:
    """Doge that keeps fewer keys than a prompt has: which of the equal keys of equal tokens, nobody says."""
    return _model(folder, "doge", keep_window_size=16)


@case(outcome="right", lengths=(3, 40), note="window_size (16)")
def window_in_a_buffer(folder: Path) -> Made:
    """GPT-Neo, whose window is a stored mask."""
    return Made(
        write_tiny_checkpoint(
            folder / "model",
            {
                "model_type": "gpt_neo", "vocab_size": 96, "hidden_size": 32, "num_layers": 2, "num_heads": 4,
                "attention_types": [[["global", "local"], 1]], "window_size": 16, "max_position_embeddings": 256,
                "bos_token_id": 1, "eos_token_id": 2,
            },
        )
    )  # fmt: skip


@case(outcome="right", lengths=(3, 40))
def recurrent_mamba2(folder: Path) -> Made:
    """Mamba 2, which reads one token a step."""
    return Made(
        write_tiny_checkpoint(
            folder / "model",
            {
                "model_type": "mamba2", "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4,
                "head_dim": 16, "n_groups": 2, "state_size": 8, "chunk_size": 8, "bos_token_id": 1, "eos_token_id": 2,
            },
        )
    )  # fmt: skip
