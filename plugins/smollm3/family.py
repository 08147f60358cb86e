"""SmolLM3."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class SmolLM3Family(ModelFamily):
    """Llama's decoder where every fourth layer has no RoPE."""

    name: ClassVar[str] = "smollm3"
    model_types: ClassVar[tuple[str, ...]] = ("smollm3",)
    architectures: ClassVar[tuple[str, ...]] = ("SmolLM3ForCausalLM",)
    # Left over from Qwen2; layer_types say which layers have a window.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("max_window_layers",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="smollm3", flags={"ffn_up.bias": "mlp_bias"}, paired_rows=("attn_q", "attn_k"),
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with biases, and layers without RoPE both with and without a window."""
        return {
            "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "no_rope_layers": [1, 0, 0, 1], "use_sliding_window": True, "sliding_window": 5,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"],
            "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        }  # fmt: skip
