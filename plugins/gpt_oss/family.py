"""gpt-oss."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class GptOssFamily(ModelFamily):
    """Attention with sinks, windows on every other layer, and routed experts with biases and a clamped SwiGLU."""

    name: ClassVar[str] = "gpt_oss"
    model_types: ClassVar[tuple[str, ...]] = ("gpt_oss",)
    architectures: ClassVar[tuple[str, ...]] = ("GptOssForCausalLM",)
    # Names of OpenAI's own code for num_experts_per_tok and the original context of YaRN, which config.json has too.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("experts_per_token", "initial_context_length")

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; the window is shorter than any prompt, and the clamp cuts."""
        return {
            "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "num_local_experts": 5, "num_experts_per_tok": 2, "swiglu_limit": 0.5, "attention_bias": True,
            "sliding_window": 5, "tie_word_embeddings": False,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": False, "original_max_position_embeddings": 16,
            },
        }  # fmt: skip
