"""Command R7B and Command A."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class Cohere2Family(ModelFamily):
    """Cohere's decoder with three windowed layers with RoPE, then a full one without."""

    name: ClassVar[str] = "cohere2"
    model_types: ClassVar[tuple[str, ...]] = ("cohere2",)
    architectures: ClassVar[tuple[str, ...]] = ("Cohere2ForCausalLM",)
    # Cohere's trainer wrote them; each states what the class always does.
    harmless_config_keys: ClassVar[tuple[str, ...]] = (
        "layer_switch", "order_of_interleaved_layers", "position_embedding_type", "rotary_pct",
        "use_embedding_sharing", "use_gated_activation", "use_parallel_block", "use_parallel_embedding",
    )  # fmt: skip
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="cohere2", window_period=4, required=("logit_scale", "attention.sliding_window"),
            keys={
                "attention.layer_norm_epsilon": "layer_norm_eps", "logit_scale": "logit_scale",
                "attention.sliding_window": "sliding_window",
            },
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with biases; the window is shorter than any prompt."""
        return {
            "model_type": "cohere2", "architectures": ["Cohere2ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "logit_scale": 0.25,
            "sliding_window": 5, "attention_bias": True, "tie_word_embeddings": True,
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
        }  # fmt: skip
