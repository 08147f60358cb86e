"""Ministral 3: the language model in Mistral 3 checkpoints."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class Ministral3Family(ModelFamily):
    """Mistral's decoder with YaRN and with queries that grow with their position."""

    name: ClassVar[str] = "ministral3"
    model_types: ClassVar[tuple[str, ...]] = ("ministral3",)
    architectures: ClassVar[tuple[str, ...]] = ("Ministral3ForCausalLM",)

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; YaRN and the scaled queries begin inside any prompt but the shortest."""
        return {
            "model_type": "ministral3", "architectures": ["Ministral3ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "sliding_window": None, "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
                "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
            },
        }  # fmt: skip
