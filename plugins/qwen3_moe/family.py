"""Qwen3 mixtures of experts: 30B-A3B, 235B-A22B, Qwen3-Coder."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class Qwen3MoeFamily(ModelFamily):
    """Qwen3's decoder with routed experts."""

    name: ClassVar[str] = "qwen3_moe"
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_moe",)
    architectures: ClassVar[tuple[str, ...]] = ("Qwen3MoeForCausalLM",)
    # Left over from Qwen2; transformers windows all layers or, as in all released checkpoints, none.
    harmless_config_keys: ClassVar[tuple[str, ...]] = ("max_window_layers",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="qwen3moe", experts=True,
            keys={
                "attention.key_length": "head_dim", "expert_count": "num_experts",
                "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "moe_intermediate_size",
            },
            required=("expert_feed_forward_length",),
            implied={"norm_topk_prob": True, "decoder_sparse_step": 1},
            tensors={
                "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.{e}.gate_proj",
                "ffn_up_exps": "mlp.experts.{e}.up_proj", "ffn_down_exps": "mlp.experts.{e}.down_proj",
            },
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with a dense layer between sparse ones, biases, YaRN and a window."""
        return {
            "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "mlp_only_layers": [1],
            "norm_topk_prob": True, "attention_bias": True, "tie_word_embeddings": False, "use_sliding_window": True,
            "sliding_window": 24,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
            },
        }  # fmt: skip
