"""EXAONE 4.0."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class Exaone4Family(ModelFamily):
    """Norms after the blocks and on the heads of q and k; three windowed layers with RoPE, then a full one without."""

    name: ClassVar[str] = "exaone4"
    model_types: ClassVar[tuple[str, ...]] = ("exaone4",)
    architectures: ClassVar[tuple[str, ...]] = ("Exaone4ForCausalLM",)

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; the window is shorter than any prompt."""
        return {
            "model_type": "exaone4", "architectures": ["Exaone4ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "sliding_window": 5, "sliding_window_pattern": 4, "tie_word_embeddings": False,
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
            },
        }  # fmt: skip
