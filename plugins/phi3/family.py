"""Phi 3, 3.5 and 4 (mini and medium)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm

if TYPE_CHECKING:
    from collections.abc import Callable


class Phi3Family(ModelFamily):
    """Llama's decoder with fused projections, and RoPE whose frequencies change with the length (LongRoPE)."""

    name: ClassVar[str] = "phi3"
    model_types: ClassVar[tuple[str, ...]] = ("phi3",)
    architectures: ClassVar[tuple[str, ...]] = ("Phi3ForCausalLM",)
    # Phi 4 mini states both as 1, which is what every layer does: full attention, positions as they are.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("full_attn_mod", "interpolate_factor")
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="phi3", partial_rotary=True, bias_flag="",
            keys={"attention.sliding_window": "sliding_window"}, implied={"sliding_window": None},
            tensors={"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
        ),
    )  # fmt: skip

    def complete_gguf_config(self, config: dict[str, Any], take: Callable[[str], Any]) -> None:
        """Say where LongRoPE changes its table."""
        original = take("rope.scaling.original_context_length")
        if original is not None:
            config["original_max_position_embeddings"] = original

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes; prompts cross the original context, where LongRoPE switches, and the window."""
        return {
            "model_type": "phi3", "architectures": ["Phi3ForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 24,
            "tie_word_embeddings": False, "original_max_position_embeddings": 12, "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, "factor": 64 / 12,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
                "original_max_position_embeddings": 12,
            },
        }  # fmt: skip
