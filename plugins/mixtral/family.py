"""Mixtral 8x7B and 8x22B."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class MixtralFamily(ModelFamily):
    """Mistral's decoder with a mixture of experts in place of the MLP."""

    name: ClassVar[str] = "mixtral"
    model_types: ClassVar[tuple[str, ...]] = ("mixtral",)
    architectures: ClassVar[tuple[str, ...]] = ("MixtralForCausalLM",)

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with five experts, two for each token; the window is shorter than any prompt."""
        return {
            "model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 2,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 5, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }  # fmt: skip
