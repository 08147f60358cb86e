"""OLMoE."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class OlmoeFamily(ModelFamily):
    """Routed experts, norms on all of q and k, and optionally clipped q, k and v."""

    name: ClassVar[str] = "olmoe"
    model_types: ClassVar[tuple[str, ...]] = ("olmoe",)
    architectures: ClassVar[tuple[str, ...]] = ("OlmoeForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="olmoe", experts=True,
            keys={"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"},
            implied={"norm_topk_prob": False},
            tensors={
                "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.{e}.gate_proj",
                "ffn_up_exps": "mlp.experts.{e}.up_proj", "ffn_down_exps": "mlp.experts.{e}.down_proj",
            },
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with five experts, and clipping that cuts."""
        return {
            "model_type": "olmoe", "architectures": ["OlmoeForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 2,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts": 5,
            "num_experts_per_tok": 2, "norm_topk_prob": False, "clip_qkv": 1.5, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }  # fmt: skip
