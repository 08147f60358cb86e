"""Qwen1.5-MoE and Qwen2-MoE."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class Qwen2MoeFamily(ModelFamily):
    """Qwen2's decoder with routed experts and a gated shared expert."""

    name: ClassVar[str] = "qwen2_moe"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_moe",)
    architectures: ClassVar[tuple[str, ...]] = ("Qwen2MoeForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="qwen2moe", experts=True, bias_flag="",
            keys={
                "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
                "expert_feed_forward_length": "moe_intermediate_size",
                "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
            },
            required=("expert_feed_forward_length", "expert_shared_feed_forward_length"),
            implied={"norm_topk_prob": False, "decoder_sparse_step": 1},
            tensors={
                "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.{e}.gate_proj",
                "ffn_up_exps": "mlp.experts.{e}.up_proj", "ffn_down_exps": "mlp.experts.{e}.down_proj",
                "ffn_gate_inp_shexp": "mlp.shared_expert_gate", "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
                "ffn_up_shexp": "mlp.shared_expert.up_proj", "ffn_down_shexp": "mlp.shared_expert.down_proj",
            },
        ),
    )  # fmt: skip

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
