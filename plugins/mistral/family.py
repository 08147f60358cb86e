"""Mistral 7B and what copies it: Zephyr, OpenHermes."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class MistralFamily(ModelFamily):
    """Llama's decoder where every layer may attend to a window only."""

    name: ClassVar[str] = "mistral"
    model_types: ClassVar[tuple[str, ...]] = ("mistral",)
    architectures: ClassVar[tuple[str, ...]] = ("MistralForCausalLM",)

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes, a free head size, and a window that is shorter than any prompt."""
        return {
            "model_type": "mistral", "architectures": ["MistralForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "sliding_window": 5, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }  # fmt: skip
