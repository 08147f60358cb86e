"""Mixtral 8x7B and 8x22B."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.gguf_form import GgufForm


class MixtralFamily(ModelFamily):
    """Mistral's decoder with a mixture of experts in place of the MLP."""

    name: ClassVar[str] = "mixtral"
    model_types: ClassVar[tuple[str, ...]] = ("mixtral",)
    architectures: ClassVar[tuple[str, ...]] = ("MixtralForCausalLM",)
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = (
        GgufForm(
            architecture="llama", experts=True, bias_flag="", paired_rows=("attn_q", "attn_k"),
            renamed={".mlp.": ".block_sparse_moe."},
            keys={"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"},
            tensors={
                "ffn_gate_inp": "block_sparse_moe.gate", "ffn_gate_exps": "block_sparse_moe.experts.{e}.w1",
                "ffn_down_exps": "block_sparse_moe.experts.{e}.w2", "ffn_up_exps": "block_sparse_moe.experts.{e}.w3",
                # files of before April 2024 have a tensor for each expert
                "ffn_gate.{e}": "block_sparse_moe.experts.{e}.w1", "ffn_down.{e}": "block_sparse_moe.experts.{e}.w2",
                "ffn_up.{e}": "block_sparse_moe.experts.{e}.w3",
            },
        ),
    )  # fmt: skip

    def tiny_config(self) -> dict[str, Any]:
        """Return odd sizes with five experts, two for each token; the window is shorter than any prompt."""
        return {
            "model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
            "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 2,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64,
            "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 5, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }  # fmt: skip
