"""Qwen2 and Qwen2.5, and what copies them: DeepSeek-R1-Distill-Qwen."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class Qwen2Family(ModelFamily):
    """Llama's decoder with biases on q, k and v, and a sliding window that layers may have."""

    name: ClassVar[str] = "qwen2"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2",)
    architectures: ClassVar[tuple[str, ...]] = ("Qwen2ForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="qwen2", bias_flag="",
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with window and full attention in turn; the window is shorter than any prompt."""
        return {
            "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "use_sliding_window": True, "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": False,
        }  # fmt: skip
