"""Gemma 2."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class Gemma2Family(ModelFamily):
    """Gemma's decoder with norms before and after each block, softcaps, and windows on every other layer."""

    name: ClassVar[str] = "gemma2"
    model_types: ClassVar[tuple[str, ...]] = ("gemma2",)
    architectures: ClassVar[tuple[str, ...]] = ("Gemma2ForCausalLM",)
    # hidden_act repeats hidden_activation, sliding_window_size repeats sliding_window in the checkpoints of Google.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("hidden_act", "sliding_window_size")

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; caps are low enough to bend, the window is shorter than any prompt."""
        return {
            "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "sliding_window": 5, "query_pre_attn_scalar": 8, "tie_word_embeddings": True,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }  # fmt: skip
