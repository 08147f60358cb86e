"""Ministral 8B, whose layers have windows by `layer_types`."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class MinistralFamily(ModelFamily):
    """Mistral's decoder with windowed and full layers in turn."""

    name: ClassVar[str] = "ministral"
    model_types: ClassVar[tuple[str, ...]] = ("ministral",)
    architectures: ClassVar[tuple[str, ...]] = ("MinistralForCausalLM",)

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with window and full attention in turn; the window is shorter than any prompt."""
        return {
            "model_type": "ministral", "architectures": ["MinistralForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "sliding_window": 5, "tie_word_embeddings": False,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }  # fmt: skip
