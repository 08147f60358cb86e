"""Llama 2 and 3, and what copies them: SmolLM2, TinyLlama, DeepSeek-R1-Distill-Llama."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class LlamaFamily(ModelFamily):
    """Plain decoder: RMS norm, rotate-half RoPE, grouped-query attention, gated MLP."""

    name: ClassVar[str] = "llama"
    model_types: ClassVar[tuple[str, ...]] = ("llama",)
    architectures: ClassVar[tuple[str, ...]] = ("LlamaForCausalLM",)
    # SmolLM2 writes it; transformers has no such key.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("is_llama_config",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            # Mistral's files too; their windows are not written.
            architecture="llama", flags={"ffn_up.bias": "mlp_bias"}, paired_rows=("attn_q", "attn_k"),
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with llama3 RoPE scaling that starts inside the context, and every bias on."""
        return {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 20, "max_position_embeddings": 64,
            "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
            },
        }  # fmt: skip
