"""Qwen1.5-MoE and Qwen2-MoE."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class Qwen2MoeFamily(ModelFamily):
    """Qwen2's decoder with routed experts and a gated shared expert."""

    name: ClassVar[str] = "qwen2_moe"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_moe",)
    architectures: ClassVar[tuple[str, ...]] = ("Qwen2MoeForCausalLM",)

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with dense and sparse layers, windowed and full attention in turn, and a shared expert."""
        return {
            "model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts": 5,
            "num_experts_per_tok": 2, "moe_intermediate_size": 40, "decoder_sparse_step": 2,
            "shared_expert_intermediate_size": 48, "norm_topk_prob": False, "tie_word_embeddings": False,
            "use_sliding_window": True, "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }  # fmt: skip
